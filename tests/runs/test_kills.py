"""Runs that are killed at random moments, in real processes, end as an uninterrupted run.

`pytest tests/runs/test_kills.py -s` prints each kill.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import SMALL, assert_equal, curves
from tests.processes import Command

SCHEDULE = ("--lr_scheduler=OneCycleLR", "--lr_scheduler.max_lr=0.1")
KERNEL_SCHEDULE = (*SCHEDULE, "--lr_scheduler.cycle_momentum=false", "--lr_scheduler.total_steps=8000")
BUNDLED = (
    "--data.path=null",
    "--trainer.log_every_n_steps=25",
)  # epochs of 5,730 steps; those of the small list have 12
RUNS = {  # settings, steps, steps between validations and between checkpoints, kills
    "fused": (BUNDLED, 8_000, 2_000, 400, 2),
    "fused, with replacement and a schedule": (
        (*BUNDLED, "--data.replacement=true", *KERNEL_SCHEDULE),
        8_000,
        2_000,
        200,
        2,
    ),
    "momentum": (("--optimizer.momentum=0.9",), 500, 100, 12, 2),
    "AdamW with dropout and a schedule": (
        ("--optimizer=AdamW", "--model.dropout=0.3", *SCHEDULE, "--lr_scheduler.total_steps=500"),
        500,
        100,
        10,
        2,
    ),
    "two workers": (("--data.num_workers=2",), 80, 40, 4, 1),
}
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


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
        run = Command(*arguments)
        try:
            for _ in range(rng.randint(2, 6)):
                run.wait_for_rewrite(last)
            if kill % 2:  # every other one while a checkpoint is being saved
                time.sleep(rng.uniform(0, 0.02))
            else:
                run.wait_for_rewrite(unfinished)
            os.kill(run.pid, rng.choice(SIGNALS) if kill % 2 else signal.SIGKILL)
            code = run.wait()
        finally:
            run.kill()
        code = code if code < 0 else 128 - code
        step = torch.load(last, weights_only=True)["global_step"]
        moment = " during a save" if unfinished.exists() else ""
        kills_so_far.append(f"{signal.Signals(-code).name}{moment}, last.ckpt is at step {step:,}")
        arguments += ["--ckpt_path=last"] * (kill == 0)
    fit(steps, *settings, "--ckpt_path=last")

    assert_equal(
        *(torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (killed, uninterrupted))
    )
    assert curves(killed) == curves(uninterrupted)
    assert sorted(os.listdir(killed / "checkpoints")) == sorted(os.listdir(uninterrupted / "checkpoints"))
    print(f"\n{name}: bit-identical to the uninterrupted run of {steps:,} steps, after", *kills_so_far, sep="\n  ")
