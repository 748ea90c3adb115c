import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # several tests run side by side, each with processes of its own

import hypothesis
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from namemlp import NameModule
from namemlp.__main__ import main

# Small settings with which a whole fit takes a moment; an epoch of the list below is 12 steps.
SMALL = ("--model.hidden_size=20", "--data.batch_size=32", "--trainer.log_every_n_steps=5", "--trainer.accelerator=cpu")
SMALL_LIST = ["emma", "olivia", "ava", "isabella", "sophia", "mia", "zoë", "Jürgen", "anna-lena", "bo"] * 8

torch.set_num_threads(1)
hypothesis.settings.register_profile("many", max_examples=10_000, deadline=None)


class OneCycle(NameModule):
    """A schedule whose length is read where Lightning drops a loader's state."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Manual(NameModule):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.loss(*batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def curves(run):
    """All curves of a run as TensorBoard shows them: {tag: {step: value}}."""
    events = EventAccumulator(str(run)).Reload()
    tags = events.Tags()["scalars"]
    return {tag: dict(sorted((point.step, point.value) for point in events.Scalars(tag))) for tag in tags}


def assert_equal(ours, theirs):
    """Two checkpoints, down to the last bit of weights, optimizer, schedule and random generators."""
    assert ours["global_step"] == theirs["global_step"]
    for name, weights in ours["state_dict"].items():
        assert torch.equal(weights, theirs["state_dict"][name]), name
    for name in ("optimizer_states", "lr_schedulers", "rng_states"):
        for first, second in zip(leaves(ours[name]), leaves(theirs[name]), strict=True):
            assert torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second, name


def leaves(value):
    if isinstance(value, dict):
        return [leaf for key in value for leaf in (key, *leaves(value[key]))]
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, list | tuple) else [value]


def pytest_addoption(parser):
    parser.addini(
        "notebook_list", "the notebook's own names.txt, relative to the project", default="../shared/data/names.txt"
    )


@pytest.fixture
def notebook_list(pytestconfig):
    """The path of the notebook's own list, which is not part of this project."""
    path = pytestconfig.rootpath / pytestconfig.getini("notebook_list")
    if not path.is_file():
        pytest.skip(f"the notebook's list is not at {path}; give its place with -o notebook_list=PATH")
    return str(path)


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder with a small list, names.txt."""
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("\n".join(SMALL_LIST), encoding="utf-8")
    return tmp_path


@pytest.fixture
def namemlp(folder, monkeypatch, capsys):
    """Run the command in that folder."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["namemlp", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def fit(namemlp):
    """Run a small `fit` on names.txt, up to the given step, and expect it to succeed."""

    def run(max_steps, *args):
        result = namemlp("fit", "--data.path=names.txt", *SMALL, f"--trainer.max_steps={max_steps}", *args)
        assert result.code == 0, result.err
        return result

    return run
