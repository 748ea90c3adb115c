"""`namemlp lr_find`: the notebook's learning-rate range test, one short run whose learning rate grows at each step."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning import Trainer

from namemlp import viz  # whose figures are imported when the first is plotted
from namemlp.datamodule import NamesDataModule
from namemlp.errors import UserError
from namemlp.module import NameModule
from namemlp.network import init_args
from namemlp.optimizers import SGD, Diverged
from namemlp.runs import LOG_DIR, RunLogger

STEPS, MIN_LR, MAX_LR = 1000, 1e-3, 1.0  # 10**linspace(-3, 0, 1000)
SETTINGS = dict(max_steps=STEPS, max_epochs=None, log_every_n_steps=1, limit_val_batches=0, enable_checkpointing=False)


class RangeTestLogger(RunLogger):
    """Makes a run folder, and keeps the points of the test instead of writing them."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, name=LOG_DIR, default_hp_metric=False)
        self.points: list[tuple[float, float]] = []  # learning rate and loss of each step

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "train/loss" in metrics:
            self.points.append((metrics["lr"], metrics["train/loss"]))


def lr_range_test(trainer: Trainer, model: NameModule, data: NamesDataModule) -> np.ndarray:
    """Learning rate and loss of each step, (steps, 2), while finite; complete in rank 0. Raises: UserError."""
    optimizer = model.hparams.optimizer or SGD
    if trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run is not supported by lr_find: omit it")
    if optimizer["class_path"].endswith("LBFGS"):
        raise UserError("LBFGS makes many steps in one, which lr_find does not support: use another optimizer")
    gamma = (MAX_LR / MIN_LR) ** (1 / (STEPS - 1))
    model.hparams.optimizer = {**optimizer, "init_args": {**init_args(optimizer), "lr": MIN_LR}}
    model.hparams.lr_scheduler = {"class_path": "torch.optim.lr_scheduler.ExponentialLR", "init_args": {"gamma": gamma}}
    with suppress(Diverged):
        trainer.fit(model, datamodule=data)
    return np.array([point for point in trainer.logger.points if np.isfinite(point).all()]).reshape(-1, 2)


def suggest_lr(lrs: np.ndarray, losses: np.ndarray) -> float:
    """Half the learning rate at which the smoothed loss is lowest, to two digits: there it is about to rise."""
    return float(f"{lrs[viz.gaussian_smooth(losses).argmin()] / 2:.2g}")


def format_suggestion(suggested: float, lrs: np.ndarray, losses: np.ndarray, optimizer: dict[str, Any]) -> str:
    """A suggested learning rate as a line for a config, and what speaks against it."""
    settings = {name: value for name, value in init_args(optimizer).items() if value is not None}
    line = {"optimizer": {"class_path": optimizer["class_path"], "init_args": {**settings, "lr": suggested}}}
    line = yaml.safe_dump(line, default_flow_style=True, width=10**6).strip()
    lowest, edge = viz.gaussian_smooth(losses).argmin(), len(lrs) // 50
    caveat = ""
    if lowest < edge:
        caveat = f"\nbut the loss rises from the start, {lrs[0]:g}: a smaller one may be better"
    elif lowest >= len(lrs) - edge:
        caveat = f"\nbut the loss still falls at the end, {lrs[-1]:g}: a larger one may be better"
    sentence = f"suggested learning rate: {suggested:g}, half of where the smoothed loss is lowest"
    return f"{sentence}{caveat}\nin a config: {line}"


def save_results(folder: Path, lrs: np.ndarray, losses: np.ndarray, optimizer: dict[str, Any]) -> None:
    """Save the figure and the numbers of each step, and print the suggestion. Raises: UserError: too few steps."""
    if len(lrs) < STEPS / 10:
        raise UserError(f"the loss diverged after {len(lrs)} steps: use another optimizer or model.init")
    suggested, table, figure = suggest_lr(lrs, losses), folder / "lr_find.csv", folder / "lr_find.png"
    columns = np.arange(1, len(lrs) + 1), lrs, losses.round(6), viz.gaussian_smooth(losses).round(6)
    np.savetxt(table, np.stack(columns, 1), "%d,%s,%s,%s", header="step,learning_rate,loss,smoothed_loss", comments="")
    viz.save_figure(viz.plot_lr_range_test(lrs, losses, suggested), figure)
    print(f"\n{format_suggestion(suggested, lrs, losses, optimizer)}\n\nfigure   {figure}\nnumbers  {table}")
