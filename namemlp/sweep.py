"""The notebook's learning-rate sweep: one short run whose learning rate grows from step to step."""

import csv
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning import Trainer

from namemlp.datamodule import NamesDataModule
from namemlp.errors import MAKE_ROOM, Diverged, UserError
from namemlp.module import NameModule
from namemlp.optimizers import SGD
from namemlp.runs import RUNS, RunLogger

STEPS, SMALLEST, LARGEST = 1000, 1e-3, 1.0  # 10**linspace(-3, 0, 1000)
TRAINER = dict(
    max_steps=STEPS,
    max_epochs=None,
    min_steps=None,
    log_every_n_steps=1,
    limit_val_batches=0,
    enable_checkpointing=False,
)


class SweepLogger(RunLogger):
    """Makes a run folder as ever, and keeps what is to be drawn instead of drawing it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, name=RUNS, default_hp_metric=False)
        self.points: list[tuple[float, float]] = []  # learning rate and loss of each step

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "lr" in metrics:
            self.points.append((metrics["lr"], metrics["train/loss"]))


def sweep(trainer: Trainer, model: NameModule, data: NamesDataModule) -> tuple[np.ndarray, np.ndarray]:
    """Make the run; it ends early where the loss is no longer finite.

    Args:
        trainer: with the settings of `TRAINER` and a `SweepLogger`.
        model: to train, by an optimizer of its own kind.
        data: to train on.

    Returns:
        The learning rates and the losses of the steps, (steps,) each.

    Raises:
        UserError: there are none to speak of.
    """
    optimizer = model.hparams.optimizer or SGD
    if trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run makes no sweep: leave it out")
    if optimizer["class_path"].endswith("LBFGS"):
        raise UserError("LBFGS tries many steps for an update, so that lr_find cannot sweep it: give another optimizer")
    gamma = (LARGEST / SMALLEST) ** (1 / (STEPS - 1))
    model.hparams.optimizer = {**optimizer, "init_args": {**optimizer.get("init_args", {}), "lr": SMALLEST}}
    model.hparams.lr_scheduler = {
        "class_path": "torch.optim.lr_scheduler.ExponentialLR",
        "init_args": {"gamma": gamma},
    }
    with suppress(Diverged):
        trainer.fit(model, datamodule=data)
    loggers = [logger for logger in trainer.loggers if isinstance(logger, SweepLogger)]
    points = [(rate, loss) for logger in loggers for rate, loss in logger.points if np.isfinite(loss)]
    if len(points) < STEPS / 10:
        raise UserError(
            f"the sweep ended after {len(points)} steps: give an optimizer, or a start, that can be trained"
        )
    rates, losses = np.array(points).T
    return rates, losses


def suggestion(rates: np.ndarray, losses: np.ndarray) -> float:
    """Half the learning rate at which the smoothed loss is lowest, to two digits.

    There the loss is about to rise. (The README has what fits with this and other rates come to.)
    """
    return float(f"{rates[smoothed(losses).argmin()] / 2:.2g}")


def in_words(suggested: float, rates: np.ndarray, losses: np.ndarray, optimizer: dict[str, Any]) -> str:
    """A suggested learning rate as a line for a config, and what speaks against it."""
    settings = {name: value for name, value in optimizer["init_args"].items() if value is not None}
    line = {"optimizer": {"class_path": optimizer["class_path"], "init_args": {**settings, "lr": suggested}}}
    lowest, edge = smoothed(losses).argmin(), len(rates) // 50
    doubt = ""
    if lowest < edge:
        doubt = f"\nbut the loss rises from the start, {rates[0]:g}: a smaller one may be better"
    elif lowest >= len(rates) - edge:
        doubt = f"\nbut the loss still falls at the end, {rates[-1]:g}: a larger one may be better"
    return (
        f"suggested learning rate: {suggested:g}, half of where the smoothed loss is lowest{doubt}\n"
        f"in a config: {yaml.safe_dump(line, default_flow_style=True, width=10**6).strip()}"
    )


def smoothed(values: np.ndarray, width: float = 20) -> np.ndarray:
    """The averages of a curve over its neighbours, weighted by a bell whose standard deviation is so many points."""
    reach = int(4 * width) + 1
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(width, 0.1)) ** 2)
    total, weight = (np.convolve(each, bell)[reach:-reach] for each in (values, np.ones(len(values))))
    return total / weight


def write_csv(path: Path, rates: np.ndarray, losses: np.ndarray) -> None:
    """A line for each step: its number, learning rate, loss and smoothed loss."""
    columns = rates.tolist(), losses.round(6).tolist(), smoothed(losses).round(6).tolist()
    try:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "learning_rate", "loss", "smoothed_loss"])
            writer.writerows(zip(range(1, len(rates) + 1), *columns, strict=True))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): {MAKE_ROOM}") from error
