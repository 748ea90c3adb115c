"""What a run saves: its best checkpoint, and the one that it is resumed from, each of them whole."""

import io
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from namemlp import lightning_internals as internals
from namemlp.errors import UserError
from namemlp.runs.folders import fsync_path, write_error
from namemlp.runs.reading import is_finite, read_checkpoint, trainer_settings


class Interrupted(BaseException):
    """Training was asked to stop by a signal and did so after a whole step, with its checkpoint written."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


class BestCheckpoint(ModelCheckpoint):
    """Save the checkpoint with the lowest val/loss, checkpoints/best-….ckpt."""

    def __init__(self) -> None:
        # No version counter: a validation that is made again, because the run was killed in it, writes the same file.
        settings = dict(auto_insert_metric_name=False, save_on_train_epoch_end=False, enable_version_counter=False)
        super().__init__(monitor="val/loss", filename="best-step{step}-loss{val/loss:.4f}", **settings)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Find the best checkpoints in this folder, whatever its path was when they were written."""
        for name, loss in state["best_k_models"].items():  # there is one at most
            path = str(Path(self.dirpath) / Path(name).name)
            best = dict(best_model_path=path, best_model_score=loss, kth_best_model_path=path, kth_value=loss)
            if Path(path).is_file():
                super().load_state_dict({**state, **best, "dirpath": self.dirpath, "best_k_models": {path: loss}})


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

    (ModelCheckpoint's save_last does so only when the monitored value has improved.) It is saved between two steps, as
    a gradient that waits for more batches to make a step would be lost, and after the curves up to then.

    Args:
        every_n_steps: save it also every so many steps
        every_n_minutes: save it also when this much time has passed since the last save

    Raises: Interrupted: after a signal, once last.ckpt is saved. UserError: the weights are no longer finite.
    """

    runs_in_blocks = True

    def __init__(self, every_n_steps: int | None = None, every_n_minutes: float | None = 10.0) -> None:
        for name, value in dict(every_n_steps=every_n_steps, every_n_minutes=every_n_minutes).items():
            if value is not None and not value > 0:
                raise UserError(f"checkpoint.{name} is {value}: it must be above 0, or null")
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.path, self.saved_step, self.is_overdue = None, -1, False  # overdue: a validation came in mid-step
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
        is_same_step, self.step = trainer.global_step == self.step, trainer.global_step
        if is_same_step or internals.validation_is_next(trainer):  # after which it is saved
            return
        # Without a validation this is the last moment at which the Trainer counts the epoch as under way.
        is_last = self.step >= self.last_step or trainer.should_stop
        if is_last or self.is_overdue or self._is_due(trainer):
            internals.log_step(trainer)
            self._save(trainer)
            if not is_last:
                self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_training = trainer.state.fn == "fit" and not trainer.sanity_checking
        self.is_overdue = is_training and internals.is_accumulating(trainer)
        if is_training and not self.is_overdue:
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
        step, self.is_overdue, self.saved_at = trainer.global_step, False, time.monotonic()
        if step == self.saved_step or trainer.fast_dev_run:
            return
        if not is_finite(trainer.lightning_module):
            raise UserError(f"the weights are no longer finite at step {step:,}: give a smaller optimizer.lr")
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
                for events in Path(logger.log_dir).glob("events.out.tfevents.*"):
                    fsync_path(events)
        trainer.save_checkpoint(self.path)
        self.saved_step = step

    def _is_due(self, trainer: Trainer) -> bool:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            return True
        is_late = self.every_n_minutes is not None and time.monotonic() - self.saved_at > 60 * self.every_n_minutes
        # All processes have to do it, and to stop, at the same step: where any of them wants to.
        return trainer.strategy.reduce_boolean_decision(is_late or self.signum is not None, all=False)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self.signum is not None, all=False):
            raise Interrupted(self.signum or signal.SIGTERM)

    def _ask_to_stop(self, signum: int, frame: Any) -> None:
        self.signum = signum
        self._restore_signals()  # a second one stops at once

    def _restore_signals(self) -> None:
        while self.previous_handlers:
            signal.signal(*self.previous_handlers.popitem())


class SafeCheckpointIO(TorchCheckpointIO):
    """Reads checkpoints by `read_checkpoint`, and writes each so that a kill leaves the previous one intact."""

    checkpoint: dict[str, Any] | None = None  # already read; the next that is asked for

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        checkpoint, self.checkpoint = self.checkpoint, None
        return checkpoint or read_checkpoint(Path(path))

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path, content = Path(path), io.BytesIO()
        partial = path.with_name(f"{path.name}.part")
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content.getbuffer())
            fsync_path(partial)
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise write_error(path, error) from error
        fsync_path(path.parent)
