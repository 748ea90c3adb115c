"""Runs that are killed at random moments, in real processes, end as the run that was left alone.

`pytest tests/test_kills.py -s` tells of each kill.
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
BUNDLED = "--data.path=null"  # epochs of 5,730 updates; those of the small list have 12
RUNS = {  # settings, updates, updates between validations and between checkpoints, kills
    "blocks": ((BUNDLED,), 15_000, 3_000, 400, 4),
    "blocks, with replacement and a schedule": (
        (BUNDLED, "--data.replacement=true", *SCHEDULE, "--lr_scheduler.total_steps=9000"),
        *(9_000, 2_000, 200, 3),
    ),
    "momentum": (("--optimizer.momentum=0.9",), 500, 100, 12, 6),
    "AdamW with a schedule": (("--optimizer=AdamW", *SCHEDULE, "--lr_scheduler.total_steps=500"), 500, 100, 10, 5),
    "two workers": (("--data.num_workers=2",), 150, 50, 4, 2),
}
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
PROCESSES = multiprocessing.get_context("forkserver")  # each is forked off one that has nothing but imported namemlp
PROCESSES.set_forkserver_preload(["namemlp.cli"])


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(fit, name):
    settings, steps, validation, every, kills = RUNS[name]
    settings = (*settings, f"--trainer.val_check_interval={validation}", f"--checkpoint.every_n_steps={every}")
    fit(steps, *settings)

    arguments = ["fit", "--data.path=names.txt", *SMALL, *settings, f"--trainer.max_steps={steps}"]
    straight, killed = (Path(f"lightning_logs/version_{run}") for run in (0, 1))
    last = killed / "checkpoints/last.ckpt"
    unfinished = last.with_name("last.ckpt.part")
    chance = random.Random(name)
    story = []
    for kill in range(kills):
        process = PROCESSES.Process(target=command, args=(Path.cwd(), arguments))
        process.start()
        try:
            for _ in range(chance.randint(2, 6)):
                wait_for_another(process, last)
            if kill % 2:  # every other one while a checkpoint is being written
                time.sleep(chance.uniform(0, 0.02))
            else:
                wait_for_another(process, unfinished)
            os.kill(process.pid, chance.choice(SIGNALS) if kill % 2 else signal.SIGKILL)
            process.join(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        code = process.exitcode if process.exitcode < 0 else 128 - process.exitcode
        step = torch.load(last, weights_only=True)["global_step"]
        moment = " within a checkpoint" if unfinished.exists() else ""
        story.append(f"{signal.Signals(-code).name}{moment}, last.ckpt is of step {step:,}")
        arguments += ["--ckpt_path=last"] * (kill == 0)
    fit(steps, *settings, "--ckpt_path=last")

    assert_equal(*(torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (killed, straight)))
    assert curves(killed) == curves(straight)
    assert sorted(os.listdir(killed / "checkpoints")) == sorted(os.listdir(straight / "checkpoints"))
    print(f"\n{name}: bit for bit the run of {steps:,} updates, after", *story, sep="\n  ")


def command(folder, arguments):
    """`python -m namemlp` in a process group of its own."""
    os.setsid()
    os.chdir(folder)
    sys.argv = ["namemlp", *arguments]
    with open(os.devnull, "w") as sys.stdout:
        main()


def wait_for_another(process, path):
    """Wait until a file is written anew."""
    before = written(path)
    while written(path) in (None, before):
        assert process.is_alive()
        time.sleep(0.0003)  # leaves the cores to the run


def written(path):
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
