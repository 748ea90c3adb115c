"""The fused path leaves what the standard path leaves: counts, curves, checkpoints."""

import csv
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from namemlp import FusedStrategy, NameModule, NamesDataModule
from tests.fast.helpers import assert_same_weights
from tests.helpers import OneCycle

QUIET = dict(accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False)


COSINE = {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 40}}
KINDS = {
    "sgd, cosine": (NameModule, dict(lr_scheduler=COSINE)),
    "adam, cosine": (NameModule, dict(optimizer="AdamW", lr_scheduler=COSINE)),
    "one cycle": (OneCycle, {}),
}


def fit(folder, path, kind, callbacks=(), **settings):
    torch.manual_seed(1)
    kind, arguments = KINDS[kind]
    data = NamesDataModule("names.txt", batch_size=10)  # 37 steps in an epoch
    module = kind(data.vocabulary.characters, hidden_size=20, **arguments)
    saver = ModelCheckpoint(folder, save_top_k=-1, filename="{step}", every_n_train_steps=7)
    strategy = FusedStrategy() if path == "fused" else "auto"
    settings = {**QUIET, "max_epochs": 3, "logger": False, "strategy": strategy, **settings}
    trainer = Trainer(callbacks=[saver, *callbacks], **settings)
    trainer.fit(module, datamodule=data)
    return trainer, module


@pytest.mark.parametrize("kind, tolerance", [("adam, cosine", 1e-5), ("one cycle", 1e-3)])  # up to a rate of 0.1
def test_weights_are_those_of_the_trainer(folder, tmp_path, kind, tolerance):
    fused, standard = (fit(tmp_path / path, path, kind)[1] for path in ("fused", "standard"))
    assert_same_weights(fused, standard, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["sgd, cosine", "adam, cosine"])
@pytest.mark.parametrize(
    "settings",
    [{}, dict(val_check_interval=10), dict(val_check_interval=25, check_val_every_n_epoch=None),
     dict(limit_train_batches=16), dict(max_steps=50, max_epochs=-1), dict(min_steps=90, max_epochs=2)],
    ids=str,
)  # fmt: skip
def test_checkpoints_and_curves_are_equal(folder, tmp_path, kind, settings):
    loops, rows = [], []
    for path in ("fused", "standard"):
        logger, stop = CSVLogger(tmp_path, name=path, version=0), EarlyStopping("train/loss", patience=99)
        fit(tmp_path / path / "c", path, kind, callbacks=[stop], logger=logger, log_every_n_steps=4, **settings)
        files = sorted((tmp_path / path / "c").iterdir())
        loops.append([(file.name, torch.load(file, weights_only=False)["loops"]) for file in files])
        with open(Path(logger.log_dir) / "metrics.csv") as file:
            rows.append(list(csv.DictReader(file)))
    assert loops[0] == loops[1] and loops[0]
    for fused, standard in zip(*rows, strict=True):
        assert fused.keys() == standard.keys()
        for name in fused:
            assert (fused[name] == "") == (standard[name] == "")
            if fused[name]:
                assert float(fused[name]) == pytest.approx(float(standard[name]), rel=1e-3), name
