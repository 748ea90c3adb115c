"""`namemlp runs` shows what runs have written."""

import csv
import io
from pathlib import Path

import pytest
import torch

from namemlp import NameModule

CONFIGS = Path(__file__).parents[2] / "configs"


def test_runs_are_sorted_by_a_column_with_what_differs(fit, namemlp):
    fit(10, "--optimizer.lr=0.1", "--name=fast")
    fit(5, "--model.context_length=2")
    out = namemlp("runs", "--csv").out
    rows = {row["run"]: row for row in csv.DictReader(io.StringIO(out))}
    assert list(rows) == sorted(rows, key=lambda run: float(rows[run]["best_val"]))
    fast = rows["fast/version_0"]
    assert (fast["steps"], rows["version_0"]["steps"]) == ("10", "5")
    assert "optimizer.lr 0.1" in fast["settings"] and "model.context_length" not in fast["settings"]
    assert "model.context_length 2" in rows["version_0"]["settings"]
    checkpoint = torch.load("lightning_logs/fast/version_0/checkpoints/last.ckpt", weights_only=True)
    assert int(fast["parameters"]) == sum(tensor.numel() for tensor in checkpoint["state_dict"].values())
    assert float(fast["last_val"]) > 0 and float(fast["test"]) > 0
    lines = namemlp("runs", "--sort=steps").out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "version_0", "fast/version_0"]


def test_a_run_that_has_become_nan_is_not_the_best(fit, namemlp):
    diverging = ("--optimizer.lr=1e30", "--trainer.max_steps=20", "--trainer.val_check_interval=1")
    assert namemlp("fit", "--data.path=names.txt", *diverging).code == 2
    fit(5)
    fit(5, "--trainer.limit_val_batches=0")
    for column in ("last_val", "best_val"):
        lines = namemlp("runs", f"--sort={column}").out.splitlines()
        assert lines[1].startswith("version_1")
    assert "nan" in lines[2] + lines[3]


def test_a_network_and_its_settings_are_shown(namemlp):
    settings = ["--model.network=deep", "--model.network.num_layers=2", "--model.network.batch_norm"]
    settings += ["--lr_scheduler=StepLR", "--lr_scheduler.step_size=9"]
    assert namemlp("fit", "--data.path=names.txt", "--trainer.max_steps=3", *settings).code == 0
    [row] = csv.DictReader(io.StringIO(namemlp("runs", "--csv", "--sort=settings").out))
    shown = "model.network deep, model.network.num_layers 2, model.network.batch_norm True"
    assert shown in row["settings"] and "lr_scheduler StepLR, lr_scheduler.step_size 9" in row["settings"]
    assert "hidden_size" not in row["settings"] and "trainer" not in row["settings"]
    checkpoint = torch.load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    model = NameModule(**checkpoint["hyper_parameters"])
    assert int(row["parameters"]) == sum(parameter.numel() for parameter in model.parameters())  # no statistics


def test_a_run_without_a_checkpoint_is_shown(fit, namemlp):
    fit(3, "--trainer.enable_checkpointing=false")
    assert namemlp("runs").out.splitlines()[1].split()[:2] == ["version_0", "3"]


@pytest.mark.parametrize("damage", [b"", b"a: [", b"\xff", b"3"])
def test_a_damaged_run_is_shown(fit, namemlp, damage):
    fit(3)
    run = Path("lightning_logs/version_0")
    for path in (run / "config.yaml", run / "checkpoints/last.ckpt", *run.glob("events*")):
        path.write_bytes(damage)
    result = namemlp("runs")
    assert result.code == 0 and result.out.splitlines()[1].startswith("version_0")


def test_no_run_is_an_error(namemlp):
    result = namemlp("runs")
    assert result.code == 2 and "there is no run in lightning_logs: run fit first" in result.err


@pytest.mark.parametrize("overlay", sorted((CONFIGS / "lecture").glob("*.yaml")), ids=lambda path: path.stem)
def test_overlays_train(namemlp, overlay):
    configs = [f"--config={path}" for path in (CONFIGS / "base.yaml", overlay)]
    result = namemlp("fit", *configs, "--data.path=names.txt", "--trainer.max_steps=2")
    assert result.code == 0, result.err
    assert Path(f"lightning_logs/{overlay.stem}/version_0/checkpoints/last.ckpt").is_file()
