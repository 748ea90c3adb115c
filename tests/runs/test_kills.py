"""Runs that are killed at random moments, in real processes, end as an uninterrupted run.

`pytest tests/runs/test_kills.py -s` prints each kill.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from namemlp.__main__ import main
from tests.conftest import SMALL, assert_equal, curves

SCHEDULE = ("--lr_scheduler=OneCycleLR", "--lr_scheduler.max_lr=0.1")
BUNDLED = "--data.path=null"  # epochs of 5,730 steps; those of the small list have 12
RUNS = {  # settings, steps, steps between validations and between checkpoints, kills
    "fused": ((BUNDLED,), 12_000, 3_000, 400, 2),
    "fused, with replacement and a schedule": (
        (BUNDLED, "--data.replacement=true", *SCHEDULE, "--lr_scheduler.total_steps=9000"),
        *(9_000, 2_000, 200, 2),
    ),
    "momentum": (("--optimizer.momentum=0.9",), 500, 100, 12, 2),
    "AdamW with a schedule": (("--optimizer=AdamW", *SCHEDULE, "--lr_scheduler.total_steps=500"), 500, 100, 10, 2),
    "two workers": (("--data.num_workers=2",), 150, 50, 4, 2),
}
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
PROCESSES = multiprocessing.get_context("forkserver")  # forked from a process that has only imported namemlp
PROCESSES.set_forkserver_preload(["namemlp.commands.cli"])


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_ends_as_an_uninterrupted_one(fit, name):
    settings, steps, validation, every, kills = RUNS[name]
    settings = (*settings, f"--trainer.val_check_interval={validation}", f"--checkpoint.every_n_steps={every}")
    fit(steps, *settings)

    arguments = ["fit", "--data.path=names.txt", *SMALL, *settings, f"--trainer.max_steps={steps}"]
    uninterrupted, killed = (Path(f"lightning_logs/version_{run}") for run in (0, 1))
    last = killed / "checkpoints/last.ckpt"
    unfinished = last.with_name("last.ckpt.part")
    rng = random.Random(name)
    kills_so_far = []
    for kill in range(kills):
        process = PROCESSES.Process(target=command, args=(Path.cwd(), arguments))
        process.start()
        try:
            for _ in range(rng.randint(2, 6)):
                wait_for_rewrite(process, last)
            if kill % 2:  # every other one while a checkpoint is being saved
                time.sleep(rng.uniform(0, 0.02))
            else:
                wait_for_rewrite(process, unfinished)
            os.kill(process.pid, rng.choice(SIGNALS) if kill % 2 else signal.SIGKILL)
            process.join(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        code = process.exitcode if process.exitcode < 0 else 128 - process.exitcode
        step = torch.load(last, weights_only=True)["global_step"]
        moment = " during a save" if unfinished.exists() else ""
        kills_so_far.append(f"{signal.Signals(-code).name}{moment}, last.ckpt is at step {step:,}")
        arguments += ["--ckpt_path=last"] * (kill == 0)
    fit(steps, *settings, "--ckpt_path=last")

    assert_equal(*(torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (killed, uninterrupted)))
    assert curves(killed) == curves(uninterrupted)
    assert sorted(os.listdir(killed / "checkpoints")) == sorted(os.listdir(uninterrupted / "checkpoints"))
    print(f"\n{name}: bit-identical to the uninterrupted run of {steps:,} steps, after", *kills_so_far, sep="\n  ")


def command(folder, arguments):
    """`python -m namemlp` in a process group of its own."""
    os.setsid()
    os.chdir(folder)
    sys.argv = ["namemlp", *arguments]
    with open(os.devnull, "w") as sys.stdout:
        main()


def wait_for_rewrite(process, path):
    """Wait until a file has been written again."""
    before = modified_at(path)
    while modified_at(path) in (None, before):
        assert process.is_alive()
        time.sleep(0.0003)  # leaves the cores to the run


def modified_at(path):
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
