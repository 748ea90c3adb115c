"""What happens beside the steps: progress on the console and the checkpoint that a run goes on from."""

import signal
import sys
import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar
from tqdm import tqdm


class Interrupted(BaseException):
    """Training was asked to stop by a signal and did so after a whole update, with its checkpoint written."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


class StepProgress(ProgressBar):
    """One bar over all updates of a run, with loss and speed; on anything but a terminal, a line a validation."""

    REFRESH = 0.2  # seconds

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.bar = None
        self.due = 0.0

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.folder = trainer.log_dir  # asked of all processes at once, so not only where there is a bar

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.enabled:
            return
        data = trainer.datamodule
        sizes = " / ".join(f"{len(split):,}" for split in (data.train_set, data.val_set, data.test_set))
        print(f"{len(data.corpus):,} names, {len(data.vocabulary)} characters: {sizes} examples (train / val / test)")
        parameters = sum(p.numel() for p in pl_module.parameters())
        print(f"{parameters:,} parameters on {pl_module.device}, run folder {self.folder}", flush=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.bar is not None or not self.enabled:
            return
        steps = trainer.estimated_stepping_batches
        self.bar = tqdm(
            total=None if steps == float("inf") else int(steps),
            initial=trainer.global_step,
            unit=" steps",
            dynamic_ncols=True,
            smoothing=0,
            file=sys.stdout,
            disable=not sys.stdout.isatty(),
        )
        self.start = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = outputs["loss"]
        if self.enabled and time.monotonic() >= self.due:
            self._refresh(trainer)
            self.due = time.monotonic() + self.REFRESH

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is None or trainer.sanity_checking:
            return
        self._refresh(trainer)
        if self.bar.disable:
            seconds = time.monotonic() - self.start[0]
            speed = (trainer.global_step - self.start[1]) / seconds
            losses = f"loss {self._loss(trainer):.4f}, val/loss {trainer.callback_metrics['val/loss']:.4f}"
            print(f"step {trainer.global_step:,}: {losses}, {speed:,.0f} steps/s", flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close(trainer)

    def _loss(self, trainer: Trainer) -> float:
        return self.loss.item() * trainer.accumulate_grad_batches  # by which the Trainer has divided it

    def _refresh(self, trainer: Trainer) -> None:
        losses = {"loss": f"{self._loss(trainer):.3f}"}
        if "val/loss" in trainer.callback_metrics:
            losses["val/loss"] = f"{trainer.callback_metrics['val/loss']:.4f}"
        self.bar.set_postfix(losses, refresh=False)
        self.bar.update(trainer.global_step - self.bar.n)

    def _close(self, trainer: Trainer) -> None:
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.bar.n)
            self.bar.close()
            self.bar = None


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the lowest val/loss, checkpoints/best-….ckpt."""

    def __init__(self) -> None:
        super().__init__(
            monitor="val/loss",
            filename="best-step{step}-loss{val/loss:.4f}",
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
        )


class LastCheckpoint(Checkpoint):
    """Keeps checkpoints/last.ckpt up to date: after each validation, at the end, and on Ctrl-C or SIGTERM.

    (ModelCheckpoint's save_last writes it only when the monitored value has improved.) It is only ever written between
    two updates: a gradient that waits for more batches to make an update would be lost.

    Raises:
        Interrupted: after a signal, once the update under way (and the validation after it, if one is due) is done and
            last.ckpt is written.
    """

    def __init__(self) -> None:
        self.saved_step = -1
        self.overdue = False  # a validation came in the middle of an update
        self.signum = None
        self.before = {}  # the signal handlers to put back

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.path = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints" / "last.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step
        self.last_step = trainer.estimated_stepping_batches
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
        elif self._asked_to_stop(trainer) and not self._validation_is_next(trainer):
            self._save(trainer)
            raise Interrupted(self.signum or signal.SIGTERM)
        elif self.overdue:
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if trainer.fit_loop._should_accumulate():
            self.overdue = True
            return
        self._save(trainer)
        if trainer.global_step < self.last_step and self._asked_to_stop(trainer):
            raise Interrupted(self.signum or signal.SIGTERM)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        self._restore_signals()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_signals()

    def _save(self, trainer: Trainer) -> None:
        self.overdue = False
        if trainer.global_step != self.saved_step and not trainer.fast_dev_run:
            trainer.save_checkpoint(self.path)
            self.saved_step = trainer.global_step

    def _asked_to_stop(self, trainer: Trainer) -> bool:
        asked = self.signum is not None
        # Several processes have to stop at the same update, whichever of them the signal has reached.
        return trainer.strategy.reduce_boolean_decision(asked, all=False) if trainer.world_size > 1 else asked

    @staticmethod
    def _validation_is_next(trainer: Trainer) -> bool:
        return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)

    def _ask_to_stop(self, signum: int, frame: Any) -> None:
        self.signum = signum
        self._restore_signals()  # a second one stops at once

    def _restore_signals(self) -> None:
        for each, handler in self.before.items():
            signal.signal(each, handler)
