"""What a run saves: its best checkpoint, and the one that it goes on from."""

import signal
import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from namemlp.checkpoint import sync
from namemlp.errors import SMALLER, UserError


class Interrupted(BaseException):
    """Training was asked to stop by a signal and did so after a whole update, with its checkpoint written."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the lowest val/loss, checkpoints/best-….ckpt."""

    def __init__(self) -> None:
        super().__init__(
            monitor="val/loss",
            filename="best-step{step}-loss{val/loss:.4f}",
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
            # A validation that is made again, because the run was killed in it, writes the same file again.
            enable_version_counter=False,
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Know the best checkpoints of this folder, whatever its path was when they were written."""
        here = {str(Path(self.dirpath) / Path(path).name): loss for path, loss in state["best_k_models"].items()}
        here = {path: loss for path, loss in here.items() if Path(path).is_file()}
        for path, loss in here.items():  # the one that it keeps
            same = dict(dirpath=self.dirpath, best_k_models=here, best_model_path=path, kth_best_model_path=path)
            super().load_state_dict({**state, **same, "best_model_score": loss, "kth_value": loss})


class LastCheckpoint(Checkpoint):
    """Keeps checkpoints/last.ckpt up to date: after each validation, at the end, and on Ctrl-C or SIGTERM.

    (ModelCheckpoint's save_last writes it only when the monitored value has improved.) It is only ever written between
    two updates: a gradient that waits for more batches to make an update would be lost. What the run has drawn until
    then is on the disk before it.

    Args:
        every_n_steps: write it also every so many updates
        every_n_minutes: write it also where so much time has passed since the last time

    Raises:
        Interrupted: after a signal, once the update under way (and the validation after it, if one is due) is done and
            last.ckpt is written.
        UserError: the weights are no longer finite; last.ckpt stays as it was.
    """

    def __init__(self, every_n_steps: int | None = None, every_n_minutes: float | None = 10.0) -> None:
        for name, value in dict(every_n_steps=every_n_steps, every_n_minutes=every_n_minutes).items():
            if value is not None and not value > 0:
                raise UserError(f"checkpoint.{name} is {value}: it must be above 0, or null")
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.path: Path | None = None
        self.saved_step = -1
        self.overdue = False  # a validation came in the middle of an update
        self.signum = None
        self.before = {}  # the signal handlers to put back

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.path = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints" / "last.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step
        self.last_step = trainer.estimated_stepping_batches
        self.saved_at = time.monotonic()
        self.before = {each: signal.signal(each, self._ask_to_stop) for each in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        if self.step >= self.last_step:
            # Without a validation this is the last moment at which the Trainer counts the epoch as under way, so that
            # more epochs can follow.
            if not trainer.enable_validation:
                self._save(trainer)
        elif not self._validation_is_next(trainer) and (
            self.overdue or self._is_due(trainer)
        ):  # else it comes after it
            self._save(trainer)
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if trainer.fit_loop._should_accumulate():
            self.overdue = True
            return
        self._save(trainer)
        if trainer.global_step < self.last_step:
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        self._restore_signals()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_signals()

    def _save(self, trainer: Trainer) -> None:
        self.overdue, self.saved_at = False, time.monotonic()
        if trainer.global_step == self.saved_step or trainer.fast_dev_run:
            return
        if not all(weights.isfinite().all() for weights in trainer.lightning_module.parameters()):
            raise UserError(f"the weights are no longer finite at step {trainer.global_step:,}: {SMALLER}")
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
                for events in Path(logger.log_dir).glob("events.out.tfevents.*"):
                    sync(events)
        trainer.save_checkpoint(self.path)
        self.saved_step = trainer.global_step

    def _is_due(self, trainer: Trainer) -> bool:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            return True
        late = self.every_n_minutes is not None and time.monotonic() - self.saved_at > 60 * self.every_n_minutes
        return self._agreed(trainer, late or self.signum is not None)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self._agreed(trainer, self.signum is not None):
            raise Interrupted(self.signum or signal.SIGTERM)

    @staticmethod
    def _agreed(trainer: Trainer, wanted: bool) -> bool:
        """Whether any process wants something: all of them have to do it at the same update."""
        return trainer.strategy.reduce_boolean_decision(wanted, all=False) if trainer.world_size > 1 else wanted

    @staticmethod
    def _validation_is_next(trainer: Trainer) -> bool:
        return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)

    def _ask_to_stop(self, signum: int, frame: Any) -> None:
        self.signum = signum
        self._restore_signals()  # a second one stops at once

    def _restore_signals(self) -> None:
        for each, handler in self.before.items():
            signal.signal(each, handler)
