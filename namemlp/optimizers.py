"""Optimizers and learning-rate schedules from their settings."""

import sys
from collections.abc import Iterable
from typing import Any

from lightning import Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from namemlp.errors import UserError

SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}


def make_optimizer(
    parameters: Iterable[Parameter], optimizer: dict[str, Any], lr_scheduler: dict[str, Any] | None
) -> Any:
    """What `configure_optimizers` returns, from settings {class_path, init_args}.

    Raises:
        UserError: they do not name such classes, or these do not take their settings.
    """
    try:
        made = imported_class(optimizer, Optimizer)(parameters, **optimizer.get("init_args", {}))
        if not lr_scheduler:
            return made
        scheduler = imported_class(lr_scheduler, LRScheduler)(made, **lr_scheduler.get("init_args", {}))
    except (ValueError, TypeError) as error:
        raise UserError(f"the optimizer or its lr_scheduler does not take its settings: {error}") from error
    config = {"scheduler": scheduler, "interval": "step"}
    if isinstance(scheduler, ReduceLROnPlateau):  # stepped after each validation, never by the Trainer
        config.update(monitor=scheduler.monitor, interval="epoch", frequency=sys.maxsize)
    return {"optimizer": made, "lr_scheduler": config}


def imported_class(settings: dict[str, Any], base: type) -> type:
    """The class that settings name. It has to be imported: settings may come from a checkpoint of somebody else."""
    module, _, name = settings["class_path"].rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{settings['class_path']} is no {base.__name__}: give a class of torch.optim")
    return found


def learning_rate(trainer: Trainer) -> float:
    """Of the next update."""
    return float(trainer.optimizers[0].param_groups[0]["lr"])


def step_schedulers(trainer: Trainer) -> list:
    """The learning-rate schedules that are stepped with the updates."""
    return [config for config in trainer.lr_scheduler_configs if not config.reduce_on_plateau]


def check_length(trainer: Trainer) -> float:
    """The updates of a run, by which none of its schedules may have ended (as OneCycleLR does).

    Raises:
        UserError: one would.
    """
    updates = trainer.estimated_stepping_batches
    for config in step_schedulers(trainer):
        if (total := getattr(config.scheduler, "total_steps", updates)) < updates:
            both = f"lr_scheduler.total_steps is {total:,} but trainer.max_steps {updates:,}"
            raise UserError(f"{both}: make them the same")
    return updates


def step_plateau_schedulers(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Here and not by the Trainer, which does so at the end of an epoch and forgets it when a run is resumed.

    Raises:
        UserError: a schedule follows a metric that there is not.
    """
    for config in trainer.lr_scheduler_configs:
        if not config.reduce_on_plateau:
            continue
        if config.monitor not in metrics:
            raise UserError(f"lr_scheduler.monitor is {config.monitor!r}: give one of {', '.join(metrics)}")
        config.scheduler.step(metrics[config.monitor])
