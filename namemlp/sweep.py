"""The notebook's learning-rate sweep: one short run whose learning rate grows from step to step."""

import csv
from contextlib import suppress
from pathlib import Path

import numpy as np
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
    gamma = (LARGEST / SMALLEST) ** (1 / (STEPS - 1))
    model.hparams.optimizer = {**optimizer, "init_args": {**optimizer.get("init_args", {}), "lr": SMALLEST}}
    model.hparams.lr_scheduler = {
        "class_path": "torch.optim.lr_scheduler.ExponentialLR",
        "init_args": {"gamma": gamma},
    }
    with suppress(Diverged):
        trainer.fit(model, datamodule=data)
    points = [point for logger in trainer.loggers for point in getattr(logger, "points", [])]
    points = [(rate, loss) for rate, loss in points if np.isfinite(loss)]
    if len(points) < STEPS / 10:
        raise UserError(
            f"the sweep ended after {len(points)} steps: give an optimizer, or a start, that can be trained"
        )
    rates, losses = np.array(points).T
    return rates, losses


def suggestion(rates: np.ndarray, losses: np.ndarray) -> float:
    """Half the learning rate at which the smoothed loss is lowest, to two digits.

    At the lowest itself the loss has already begun to rise. (benchmarks/lr_find.py trains on both sides of it.)
    """
    return float(f"{rates[smoothed(losses).argmin()] / 2:.2g}")


def in_words(suggested: float, class_path: str) -> str:
    """How to use a suggested learning rate, on the command line and in a config."""
    return (
        f"suggested learning rate: {suggested:g}, half of where the smoothed loss is lowest\n"
        f"on the command line:  --optimizer.lr {suggested:g}\n"
        f"in a config:          optimizer: {{class_path: {class_path}, init_args: {{lr: {suggested:g}}}}}"
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
