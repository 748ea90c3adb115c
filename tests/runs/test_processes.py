"""Several processes train as one process with the same global batch, by the real commands."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from namemlp import NamesDataModule
from tests.helpers import SMALL, assert_equal, curves
from tests.processes import start_two

EPOCH = 24  # steps of 16 examples; the last has a single example, which one of two processes does not get
POINTS = ("--trainer.log_every_n_steps=1", "--trainer.val_check_interval=20")
ONE = ("--data.path=names.txt", *SMALL, *POINTS, "--data.batch_size=16")
TWO = (*ONE, "--data.batch_size=8", "--trainer.devices=2")


def last(run):
    return torch.load(f"lightning_logs/version_{run}/checkpoints/last.ckpt", weights_only=True)


def results(*arguments, **environment):
    """What each of two processes has printed."""
    return [command.result() for command in start_two(*arguments, **environment)]


def assert_same_curves(one, other):
    """All points of the second run, and its weights, to float tolerance."""
    for tag in ("train/loss", "val/loss", "lr"):
        ours, theirs = (curves(f"lightning_logs/version_{run}")[tag] for run in (one, other))
        assert {step: ours[step] for step in theirs} == pytest.approx(theirs, rel=1e-5), tag
    for name, weights in last(one)["state_dict"].items():
        torch.testing.assert_close(last(other)["state_dict"][name], weights, rtol=1e-4, atol=1e-5)


def files(run):
    """The files of a run, without the parts of their names that differ between runs."""
    folder = Path(f"lightning_logs/version_{run}")
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(str(name).split(".tfevents.")[0].split("-loss")[0] for name in names)


@pytest.mark.parametrize("strategy", ["ddp", "fused_ddp"])
def test_two_processes_train_as_one(fit, strategy):
    data = NamesDataModule("names.txt", batch_size=16)
    data.setup("fit")
    assert len(data.train_set) == 16 * (EPOCH - 1) + 1
    fit(EPOCH + 16, *ONE)
    command = ("fit", *TWO, f"--trainer.strategy={strategy}", f"--trainer.max_steps={EPOCH + 16}")
    if strategy == "ddp":  # the first starts the second
        done = subprocess.run([sys.executable, "-m", "namemlp", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        out = done.stdout
    else:
        out = results(*command)[0]
    assert out.count("lightning_logs/version_1/checkpoints/last.ckpt") == 3  # three lines, printed once, by rank 0
    reason = "several processes average their gradients"
    lines = (
        [f"fused path: gradients in closed form, up to 500 steps per block ({reason})"]
        if strategy == "fused_ddp"
        else []
    )
    assert [line for line in out.splitlines() if line.startswith("fused path")] == lines
    assert_same_curves(1, 0)
    assert files(1) == files(0)


@pytest.mark.parametrize("strategy", ["ddp", "fused_ddp"])
def test_two_processes_resume_exactly_after_a_signal_to_one_of_them(fit, strategy):
    """Also in the random numbers that each of them draws."""
    steps = ("--trainer.max_steps=200", "--checkpoint.every_n_steps=10", "--trainer.val_check_interval=100")
    settings = ("fit", *TWO, "--model.dropout=0.3", "--trainer.log_every_n_steps=1", *steps)
    results(*settings, f"--trainer.strategy={strategy}")
    first, second = start_two(*settings, f"--trainer.strategy={strategy}")
    first.wait_for(Path("lightning_logs/version_1/checkpoints/last.ckpt").exists)
    os.kill(second.pid, signal.SIGTERM)
    assert [first.wait(), second.wait()] == [128 + signal.SIGTERM] * 2, first.err
    assert first.out.count(f"interrupted at step {last(1)['global_step']:,}; resume with: ") == 1
    assert 10 <= last(1)["global_step"] < 200
    results(*settings, f"--trainer.strategy={strategy}", "--ckpt_path=last")
    assert_equal(last(1), last(0))
    assert len(last(0)["rng_states"]) == 2
    assert curves("lightning_logs/version_1")["train/loss"] == curves("lightning_logs/version_0")["train/loss"]


@pytest.mark.parametrize("strategy", ["ddp", "fused_ddp"])
def test_a_process_that_dies_ends_the_other_with_a_sentence(fit, strategy):
    first, second = start_two("fit", *TWO, f"--trainer.strategy={strategy}", "--trainer.max_steps=1000000")
    first.wait_for(Path("lightning_logs/version_0/checkpoints/last.ckpt").exists)
    os.kill(second.pid, signal.SIGKILL)
    assert first.wait() == 2
    assert first.err.splitlines()[-1].startswith("namemlp: error: another process of this run has ended")
    assert "Traceback" not in first.err
    assert last(0)["global_step"] > 0


def test_a_run_resumes_with_other_devices_and_on_several_machines(fit):
    """Two machines are two processes with the variables that a scheduler sets."""
    fit(5, *ONE)
    more = (
        *TWO,
        "--trainer.devices=1",
        "--trainer.strategy=fused_ddp",
        "--trainer.num_nodes=2",
        f"--trainer.max_steps={EPOCH + 3}",
        "--ckpt_path=last",
    )
    assert [bool(out) for out in results("fit", *more, rank="NODE_RANK", LOCAL_RANK="0")] == [True, False]
    fit(EPOCH + 3, *ONE)
    assert_same_curves(0, 1)


def test_two_processes_share_an_evaluation(fit, namemlp):
    fit(5)
    command = ("test", "--ckpt_path=last", "--data.eval_batch_size=7")
    one = namemlp(*command).out
    two = results(*command, "--trainer.strategy=ddp", "--trainer.devices=2")[0]
    rows = (
        [line.replace(",", "").replace("%", "").split()[1:] for line in out.splitlines()[2:5]] for out in (one, two)
    )
    one, two = ([list(map(float, row)) for row in table] for table in rows)
    assert two == [pytest.approx(row, rel=1e-3) for row in one]
