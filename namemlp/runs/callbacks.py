"""What a run saves: its best checkpoint, and the one that it is resumed from."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from namemlp.errors import UserError
from namemlp.lightning_internals import is_accumulating, log_step, validation_is_next
from namemlp.runs.folders import fsync_path
from namemlp.runs.reading import trainer_settings


class Interrupted(BaseException):
    """Training was asked to stop by a signal and did so after a whole step, with its checkpoint written."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


class BestCheckpoint(ModelCheckpoint):
    """Save the checkpoint with the lowest val/loss, checkpoints/best-….ckpt."""

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
        """Find the best checkpoints in this folder, whatever its path was when they were written."""
        here = {str(Path(self.dirpath) / Path(path).name): loss for path, loss in state["best_k_models"].items()}
        here = {path: loss for path, loss in here.items() if Path(path).is_file()}
        for path, loss in here.items():  # there is one at most
            paths = dict(dirpath=self.dirpath, best_k_models=here, best_model_path=path, kth_best_model_path=path)
            super().load_state_dict({**state, **paths, "best_model_score": loss, "kth_value": loss})


class FinalValidation(Callback):
    """Validate at the end of a run, whatever the interval."""

    runs_in_blocks = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last_step, self.interval = trainer.estimated_stepping_batches, trainer.val_check_batch

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step >= self.last_step:
            # should_stop does for any interval, but also logs train/loss where no point of the curve is due.
            trainer.should_stop |= self.interval is None  # validations by time
            trainer.val_check_batch = 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.val_check_batch = self.interval


class LastCheckpoint(Checkpoint):
    """Keep checkpoints/last.ckpt up to date: after each validation, at the end, and on Ctrl-C or SIGTERM.

    (ModelCheckpoint's save_last writes it only when the monitored value has improved.) It is only ever written between
    two steps: a gradient that waits for more batches to make a step would be lost. The curves up to then are on the
    disk before it.

    Args:
        every_n_steps: save it also every so many steps
        every_n_minutes: save it also when this much time has passed since the last save

    Raises:
        Interrupted: after a signal, once the current step (and the validation after it, if one is due) is done and
            last.ckpt is written.
        UserError: the weights are no longer finite; last.ckpt stays as it was.
    """

    runs_in_blocks = True

    def __init__(self, every_n_steps: int | None = None, every_n_minutes: float | None = 10.0) -> None:
        for name, value in dict(every_n_steps=every_n_steps, every_n_minutes=every_n_minutes).items():
            if value is not None and not value > 0:
                raise UserError(f"checkpoint.{name} is {value}: it must be above 0, or null")
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.path: Path | None = None
        self.saved_step = -1
        self.is_overdue = False  # a validation came in the middle of a step
        self.signum: int | None = None
        self.previous_handlers: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.path = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints" / "last.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step, self.last_step = trainer.global_step, trainer.estimated_stepping_batches
        self.saved_step, self.signum, self.saved_at = -1, None, time.monotonic()
        if threading.current_thread() is threading.main_thread():  # only there signals can be handled
            for signum in (signal.SIGINT, signal.SIGTERM):
                self.previous_handlers[signum] = signal.signal(signum, self._ask_to_stop)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        if validation_is_next(trainer):
            return  # saved after it
        # Without a validation this is the last moment at which the Trainer counts the epoch as under way, so that it
        # can be resumed.
        is_last = self.step >= self.last_step or trainer.should_stop
        if is_last or self.is_overdue or self._is_due(trainer):
            log_step(trainer)
            self._save(trainer)
            if not is_last:
                self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if is_accumulating(trainer):
            self.is_overdue = True
            return
        self._save(trainer)
        if trainer.global_step < self.last_step:
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        self._restore_signals()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_signals()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["trainer"] = trainer_settings(trainer)

    def _save(self, trainer: Trainer) -> None:
        self.is_overdue, self.saved_at = False, time.monotonic()
        if trainer.global_step == self.saved_step or trainer.fast_dev_run:
            return
        if not all(weights.isfinite().all() for weights in trainer.lightning_module.parameters()):
            raise UserError(
                f"the weights are no longer finite at step {trainer.global_step:,}: give a smaller optimizer.lr"
            )
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
                for events in Path(logger.log_dir).glob("events.out.tfevents.*"):
                    fsync_path(events)
        trainer.save_checkpoint(self.path)
        self.saved_step = trainer.global_step

    def _is_due(self, trainer: Trainer) -> bool:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            return True
        is_late = self.every_n_minutes is not None and time.monotonic() - self.saved_at > 60 * self.every_n_minutes
        return self._any_process(trainer, is_late or self.signum is not None)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self._any_process(trainer, self.signum is not None):
            raise Interrupted(self.signum or signal.SIGTERM)

    @staticmethod
    def _any_process(trainer: Trainer, wants: bool) -> bool:
        """Whether any process wants something: all of them have to do it at the same step."""
        return trainer.strategy.reduce_boolean_decision(wants, all=False) if trainer.world_size > 1 else wants

    def _ask_to_stop(self, signum: int, frame: Any) -> None:
        self.signum = signum
        self._restore_signals()  # a second one stops at once

    def _restore_signals(self) -> None:
        for signum, handler in self.previous_handlers.items():
            signal.signal(signum, handler)
        self.previous_handlers = {}
