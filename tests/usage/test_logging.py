"""What is logged where: metrics for callbacks, curves of loggers, x axes, both paths alike."""

import csv
from pathlib import Path

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from namemlp import NameModule
from namemlp.runs import LastCheckpoint, RunLogger
from namemlp.viz import ModelDiagnostics, StepProgressBar
from tests.helpers import curves
from tests.usage.conftest import EPOCH, is_equal, make_data, make_module, make_trainer, plain_loaders, weights
from tests.usage.test_checkpoints import OtherData


def read_csv(folder):
    with open(Path(folder) / "metrics.csv") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_metrics_for_callbacks_and_progress_bars(path):
    data, seen = make_data(), []

    class Watch(Callback):
        def on_validation_end(self, trainer, pl_module):
            seen.append({*trainer.callback_metrics})

    trainer = make_trainer(path, callbacks=[Watch()])
    trainer.fit(make_module(data), datamodule=data)
    names = {"val/loss", "val/perplexity", "val/bits_per_character", "val/top1", "val/top5", "train/loss", "lr"}
    assert all(names <= metrics for metrics in seen)
    assert names <= {*trainer.callback_metrics} and names - {"lr"} <= {*trainer.logged_metrics, "lr"}
    assert {"train/loss", "val/loss"} <= {*trainer.progress_bar_metrics}


@pytest.mark.parametrize("monitor", ["train/loss", "val/loss"])
def test_callbacks_monitor_losses(path, monitor):
    data = make_data()
    stop = EarlyStopping(monitor, patience=1, mode="max")
    saver = ModelCheckpoint("saved", monitor=monitor, filename="{epoch}", save_top_k=1)
    trainer = make_trainer(path, max_epochs=9, callbacks=[stop, saver], enable_checkpointing=True)
    trainer.fit(make_module(data), datamodule=data)
    assert saver.best_model_path and Path(saver.best_model_path).is_file()
    assert trainer.current_epoch < 9 or monitor == "train/loss"


@pytest.mark.parametrize(
    "settings", [{}, dict(val_check_interval=5), dict(limit_train_batches=7), dict(accumulate_grad_batches=3)], ids=str
)
@pytest.mark.parametrize("every", [1, 4])
def test_csv_rows_are_the_same_on_both_paths(folder, settings, every):
    rows, data = [], make_data()
    for path in ("fused", "standard"):
        logger = CSVLogger(".", name=path, version=0, flush_logs_every_n_steps=1)
        make_trainer(path, logger=logger, log_every_n_steps=every, **settings).fit(make_module(data), datamodule=data)
        rows.append(read_csv(logger.log_dir))
    assert len(rows[0]) == len(rows[1]) > 2
    for fused, standard in zip(*rows, strict=True):
        assert fused == pytest.approx(standard, rel=1e-4)
    losses = [row for row in rows[0] if "train/loss" in row]
    assert [row["step"] for row in losses][:2] == [every - 1, 2 * every - 1]
    assert all(row["lr"] == pytest.approx(0.01) for row in losses)


def test_csv_is_written_as_the_run_goes(path):
    data, seen = make_data(), []

    class Watch(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            seen.append(len(read_csv(trainer.log_dir)) if Path(trainer.log_dir, "metrics.csv").exists() else 0)

    logger = CSVLogger(".", flush_logs_every_n_steps=1)
    trainer = make_trainer(path, max_epochs=3, logger=logger, log_every_n_steps=2, callbacks=[Watch()])
    trainer.fit(make_module(data), datamodule=data)
    assert seen[0] == 0 and 5 <= seen[1] < seen[2]


def test_x_axes_of_the_programs_own_logger_count_steps_from_1(path):
    data = make_data()
    logger = RunLogger(".", name="run", version=0)
    trainer = make_trainer(path, max_epochs=3, logger=logger, log_every_n_steps=1, val_check_interval=6)
    trainer.fit(make_module(data), datamodule=data)
    logger.experiment.close()
    points = curves("run/version_0")
    for name in ("train/loss", "train/log10_loss", "lr"):
        assert list(points[name]) == list(range(1, 3 * EPOCH + 1))
    assert list(points["val/loss"]) == list(range(6, 3 * EPOCH + 1, 6))
    for step, loss in points["train/loss"].items():
        assert points["train/log10_loss"][step] == pytest.approx(torch.tensor(loss).log10().item(), abs=1e-5)


def test_the_curve_of_accumulated_batches_is_their_mean(path):
    data = make_data()
    logger = CSVLogger(".", flush_logs_every_n_steps=1)
    settings = dict(accumulate_grad_batches=5, max_epochs=1, logger=logger, log_every_n_steps=1, limit_val_batches=0)
    losses = []

    class Watch(Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            losses.append(5 * loss.item())  # Lightning divides it

    make_trainer(path, callbacks=[Watch()], **settings).fit(make_module(data), datamodule=data)
    rows = read_csv(logger.log_dir)
    means = [sum(part) / len(part) for part in (losses[0:5], losses[5:10], losses[10:12])]
    assert [row["train/loss"] for row in rows] == pytest.approx(means, rel=1e-5)


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar, StepProgressBar])
def test_progress_bars(path, bar, capsys):
    data = make_data()
    settings = dict(enable_progress_bar=True, callbacks=[bar()])
    make_trainer(path, **settings).fit(make_module(data), datamodule=data)


def test_learning_rate_monitor_takes_the_standard_path(path):
    data = make_data()
    logger = TensorBoardLogger(".", version=0)
    make_trainer(path, logger=logger, callbacks=[LearningRateMonitor()], log_every_n_steps=2).fit(
        make_module(data), datamodule=data
    )
    assert len(curves(logger.log_dir)["lr-SGD"]) >= EPOCH


@pytest.mark.parametrize("callback", [StepProgressBar, LastCheckpoint, ModelDiagnostics])
@pytest.mark.parametrize("given", ["data module", "our loaders", "plain loaders", "another data module"])
def test_each_callback_alone(path, callback, given):
    data = make_data()
    arguments = {
        "data module": (data,),
        "our loaders": (data.train_dataloader(), data.val_dataloader()),
        "plain loaders": plain_loaders(data),
        "another data module": (OtherData(),),
    }[given]
    module = make_module(data)
    settings = dict(logger=TensorBoardLogger("."), enable_checkpointing=callback is LastCheckpoint)
    settings |= dict(enable_progress_bar=callback is StepProgressBar)
    trainer = make_trainer(path, callbacks=[callback()], **settings)
    trainer.fit(module, *arguments)
    assert trainer.global_step == 2 * EPOCH
    if callback is LastCheckpoint:
        [last] = Path().rglob("last.ckpt")
        assert is_equal(weights(NameModule.load_from_checkpoint(last)), weights(module))


def test_a_loss_that_is_not_finite_is_one_sentence_unless_early_stopping_checks_it(path):
    from namemlp import UserError

    data = make_data()
    sgd = {"class_path": "SGD", "init_args": {"lr": 3e38}}
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+ with learning rate 3e\+38: give a smaller"):
        make_trainer(path).fit(make_module(data, optimizer=sgd), datamodule=data)
    trainer = make_trainer(path, max_epochs=5, callbacks=[EarlyStopping("train/loss", check_finite=True)])
    trainer.fit(make_module(data, optimizer=sgd), datamodule=data)
    assert trainer.current_epoch < 5
