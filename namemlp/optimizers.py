"""Optimizers and learning-rate schedules from their settings, and the end of a run that diverges."""

import math
import sys
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from namemlp.errors import UserError, shorten
from namemlp.network import Settings, init_args, resolve_class
from namemlp.vocabulary import Vocabulary

INVALID_SETTINGS = "the optimizer or its lr_scheduler does not take its settings"
# RunChecks steps a ReduceLROnPlateau: the Trainer would do so at the end of an epoch, and forget it where it resumes.
PLATEAU_FREQUENCY = sys.maxsize
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}


class Diverged(UserError):
    """A loss that is not finite."""


def build_optimizer(module: nn.Module, optimizer: Settings, lr_scheduler: Settings | None) -> Any:
    """What `configure_optimizers` returns. Raises: UserError: the classes do not exist or take their settings."""
    try:
        built = resolve_class(optimizer, Optimizer, "torch.optim")(module.parameters(), **init_args(optimizer))
        if not lr_scheduler:
            return built
        arguments = init_args(lr_scheduler)
        scheduler_class = resolve_class(lr_scheduler, LRScheduler, "torch.optim.lr_scheduler")
        monitor = arguments.get("monitor", "val/loss")
        if scheduler_class is ReduceLROnPlateau:  # Lightning's own subclass takes a monitor itself
            arguments = {name: value for name, value in arguments.items() if name != "monitor"}
        config = {"scheduler": scheduler_class(built, **arguments), "interval": "step"}
    except (TypeError, ArithmeticError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{INVALID_SETTINGS}: {shorten(str(error))}") from error
    if issubclass(scheduler_class, ReduceLROnPlateau):
        config.update(monitor=monitor, interval="epoch", frequency=PLATEAU_FREQUENCY)
    return {"optimizer": built, "lr_scheduler": config}


def learning_rate(trainer: Any) -> float:  # of the next step
    return float(trainer.optimizers[0].param_groups[0]["lr"])


class RunChecks(Callback):
    """Raise a UserError where the data has another vocabulary, a schedule is too short or a loss is not finite."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.precision_plugin.convert_module(pl_module)  # else 64-bit weights would be restored as 32-bit ones
        data = getattr(trainer.datamodule, "vocabulary", None)
        if isinstance(data, Vocabulary) and data.characters != pl_module.vocabulary.characters:
            raise UserError(
                f"the data has the vocabulary {shorten(str(data))} but the model {shorten(str(pl_module.vocabulary))}: "
                "pass the model's as NamesDataModule(vocabulary=…)"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs if config.interval == "step"]
        total = min((s.total_steps for s in schedulers if hasattr(s, "total_steps")), default=math.inf)
        if total < math.inf and total < (end := trainer.estimated_stepping_batches):
            raise UserError(f"lr_scheduler.total_steps is {total:,} but trainer.max_steps {end:,}: make them the same")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        if isinstance(outputs, dict) and "loss" in outputs:
            self.check_losses(trainer, outputs["loss"].detach()[None])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        if "val/loss" in metrics:
            self.check_losses(trainer, metrics["val/loss"][None], name="val/loss")
        for config in trainer.lr_scheduler_configs:
            if config.frequency == PLATEAU_FREQUENCY:
                if config.monitor not in metrics:
                    names = ", ".join(name for name in metrics if name.startswith("val/"))
                    raise UserError(f"lr_scheduler.monitor is {config.monitor!r}: use one of {names}")
                config.scheduler.step(metrics[config.monitor].item())

    @staticmethod
    def check_losses(trainer: Trainer, losses: Tensor, lrs: list[float] | None = None, name: str = "the loss") -> None:
        """Raise a UserError for the first of the latest losses (K,) that is not finite; lrs None: the current one."""
        if math.isfinite(losses.float().sum()) or any(
            getattr(callback, "check_finite", False) for callback in trainer.callbacks
        ):
            return
        i = losses.isfinite().tolist().index(False)
        lr = lrs[i] if lrs else learning_rate(trainer)
        where = f"at step {trainer.global_step - len(losses) + i + 1:,} with learning rate {lr:g}"
        raise Diverged(f"{name} is {losses[i].item()} {where}: give a smaller optimizer.lr")
