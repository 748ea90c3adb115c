"""The console during a run: one bar, or a line a validation."""

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm


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
