"""Training in several processes, by the real commands: as one process with all their batches together."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from namemlp import NamesDataModule
from tests.conftest import SMALL, assert_equal, curves

EPOCH = 24  # updates of 16 examples, and in the last one a single example, which one of two processes does not get
POINTS = ("--trainer.log_every_n_steps=1", "--trainer.val_check_interval=20")
ONE = ("--data.path=names.txt", *SMALL, *POINTS, "--data.batch_size=16")
TWO = (*ONE, "--data.batch_size=8", "--trainer.strategy=ddp")


def namemlp(*arguments, start=(sys.executable,)):
    return subprocess.Popen(
        [*start, "-m", "namemlp", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


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
    """The files of a run, without what is different in the names of any two."""
    folder = Path(f"lightning_logs/version_{run}")
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(str(name).split(".tfevents.")[0].split("-loss")[0] for name in names)


def test_two_processes_train_as_one(fit):
    data = NamesDataModule("names.txt", batch_size=16)
    data.setup("fit")
    assert len(data.train_set) == 16 * (EPOCH - 1) + 1
    fit(EPOCH + 16, *ONE)
    two = (*TWO, "--trainer.devices=2")
    out = output(namemlp("fit", *two, f"--trainer.max_steps={EPOCH + 16}"))
    assert out.count("lightning_logs/version_1/checkpoints/last.ckpt") == 2  # said once, by one process
    assert out.count("one update at a time: the strategy is DDPStrategy\n") == 1
    assert_same_curves(1, 0)
    assert files(1) == files(0)


def test_two_processes_go_on_exactly(fit):
    """Also in what each of them draws by itself."""
    two = ("fit", *TWO, "--trainer.devices=2", "--model.dropout=0.3")
    output(namemlp(*two, f"--trainer.max_steps={EPOCH + 16}"))
    output(namemlp(*two, f"--trainer.max_steps={EPOCH - 5}"))
    output(namemlp(*two, f"--trainer.max_steps={EPOCH + 16}", "--ckpt_path=last"))
    assert_equal(last(1), last(0))
    assert len(last(0)["random_states"]) == 2
    assert curves("lightning_logs/version_1")["train/loss"] == curves("lightning_logs/version_0")["train/loss"]


def test_a_run_goes_on_with_other_devices_and_on_several_machines(fit):
    """Two machines are two torchruns here, as a scheduler would start them."""
    fit(5, *ONE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = ("--master_addr=127.0.0.1", f"--master_port={free.getsockname()[1]}")
    torchrun = (str(Path(sys.executable).with_name("torchrun")), "--nnodes=2", "--nproc_per_node=1", *where)
    more = (
        *TWO,
        "--trainer.devices=1",
        "--trainer.num_nodes=2",
        f"--trainer.max_steps={EPOCH + 3}",
        "--ckpt_path=last",
    )
    nodes = [namemlp("fit", *more, start=(*torchrun, f"--node_rank={node}")) for node in range(2)]
    outs = list(map(output, nodes))
    assert [bool(out) for out in outs] == [True, False]
    fit(EPOCH + 3, *ONE)
    assert_same_curves(0, 1)


def test_two_processes_share_an_evaluation(fit):
    fit(5)
    command = ("test", "--ckpt_path=last", "--data.eval_batch_size=7")
    one, two = (output(namemlp(*command, *more)) for more in ((), ("--trainer.strategy=ddp", "--trainer.devices=2")))
    rows = (
        [line.replace(",", "").replace("%", "").split()[1:] for line in out.splitlines()[2:5]] for out in (one, two)
    )
    one, two = ([list(map(float, row)) for row in table] for table in rows)
    assert two == [pytest.approx(row, rel=1e-3) for row in one]
