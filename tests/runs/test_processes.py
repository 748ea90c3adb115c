"""Several processes train as one process with the same global batch, by the real commands."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from namemlp import NamesDataModule
from tests.conftest import SMALL, assert_equal, curves

EPOCH = 24  # steps of 16 examples; the last has a single example, which one of two processes does not get
POINTS = ("--trainer.log_every_n_steps=1", "--trainer.val_check_interval=20")
ONE = ("--data.path=names.txt", *SMALL, *POINTS, "--data.batch_size=16")
TWO = (*ONE, "--data.batch_size=8", "--trainer.devices=2")


def start(*arguments, launcher=(sys.executable,)):
    """Start the command in a process of its own."""
    command = [*launcher, "-m", "namemlp", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def last(run):
    return torch.load(f"lightning_logs/version_{run}/checkpoints/last.ckpt", weights_only=True)


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
    out = output(start("fit", *TWO, f"--trainer.strategy={strategy}", f"--trainer.max_steps={EPOCH + 16}"))
    assert out.count("lightning_logs/version_1/checkpoints/last.ckpt") == 2  # printed once, by rank 0
    reason = "several processes average their gradients"
    lines = [f"fused path: autograd, up to 500 steps per block ({reason})"] if strategy == "fused_ddp" else []
    assert [line for line in out.splitlines() if line.startswith("fused path")] == lines
    assert_same_curves(1, 0)
    assert files(1) == files(0)


def test_two_processes_resume_exactly_after_a_signal_to_one_of_them(fit):
    """Also in the random numbers that each of them draws, and on the fused path as on the standard path."""
    steps = ("--trainer.max_steps=400", "--checkpoint.every_n_steps=10", "--trainer.val_check_interval=200")
    settings = ("fit", *TWO, "--model.dropout=0.3", "--trainer.log_every_n_steps=1", *steps)
    output(start(*settings, "--trainer.strategy=ddp"))
    first = start(*settings, "--trainer.strategy=fused_ddp")
    checkpoint = Path("lightning_logs/version_1/checkpoints/last.ckpt")
    while not checkpoint.exists():
        assert first.poll() is None
        time.sleep(0.01)
    [second] = subprocess.run(["pgrep", "-P", str(first.pid), "-f", "namemlp"], capture_output=True).stdout.split()
    os.kill(int(second), signal.SIGTERM)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGTERM, err
    assert out.count(f"interrupted at step {last(1)['global_step']:,}; resume with: ") == 1
    assert 10 <= last(1)["global_step"] < 400
    output(start(*settings, "--trainer.strategy=ddp", "--ckpt_path=last"))
    assert_equal(last(1), last(0))
    assert len(last(0)["rng_states"]) == 2
    assert curves("lightning_logs/version_1")["train/loss"] == curves("lightning_logs/version_0")["train/loss"]


def test_a_run_resumes_with_other_devices_and_on_several_machines(fit):
    """Two machines are two torchruns here, as a scheduler would start them."""
    fit(5, *ONE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ("--master_addr=127.0.0.1", f"--master_port={free.getsockname()[1]}")
    torchrun = (str(Path(sys.executable).with_name("torchrun")), "--nnodes=2", "--nproc_per_node=1", *address)
    more = (
        *TWO,
        "--trainer.devices=1",
        "--trainer.strategy=fused_ddp",
        "--trainer.num_nodes=2",
        f"--trainer.max_steps={EPOCH + 3}",
        "--ckpt_path=last",
    )
    nodes = [start("fit", *more, launcher=(*torchrun, f"--node_rank={node}")) for node in range(2)]
    outs = list(map(output, nodes))
    assert [bool(out) for out in outs] == [True, False]
    fit(EPOCH + 3, *ONE)
    assert_same_curves(0, 1)


def test_two_processes_share_an_evaluation(fit, namemlp):
    fit(5)
    command = ("test", "--ckpt_path=last", "--data.eval_batch_size=7")
    one = namemlp(*command).out
    two = output(start(*command, "--trainer.strategy=ddp", "--trainer.devices=2"))
    rows = (
        [line.replace(",", "").replace("%", "").split()[1:] for line in out.splitlines()[2:5]] for out in (one, two)
    )
    one, two = ([list(map(float, row)) for row in table] for table in rows)
    assert two == [pytest.approx(row, rel=1e-3) for row in one]
