"""The console during a run: one bar, or a line a validation."""

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class StepProgress(ProgressBar):
    """One bar over all updates of a run, with losses, speed and time left; where there is no terminal, a line a
    validation."""

    REFRESH = 0.2  # seconds

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.bar: Progress | None = None
        self.start: tuple[float, int] | None = None  # when, and at which step
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
        if self.start is not None or not self.enabled:
            return
        self.start = time.monotonic(), trainer.global_step
        if sys.stdout.isatty():
            last = trainer.estimated_stepping_batches
            steps = f"{{task.completed:,}}/{last:,.0f} steps" if last < float("inf") else "{task.completed:,} steps"
            self.bar = Progress(
                BarColumn(bar_width=None),
                TextColumn(steps, style="progress.percentage"),
                TextColumn("{task.fields[told]}"),
                console=Console(file=sys.stdout),
                auto_refresh=False,
                expand=True,
            )
            total = int(last) if last < float("inf") else None
            self.task = self.bar.add_task("", total=total, completed=trainer.global_step, told="")
            self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = getattr(pl_module, "batch_loss", outputs["loss"])
        if self.bar is not None and time.monotonic() >= self.due:
            self._refresh(trainer)
            self.due = time.monotonic() + self.REFRESH

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.start is None or trainer.sanity_checking:
            return
        if self.bar is not None:
            self._refresh(trainer)
        else:
            print(f"step {trainer.global_step:,}: {self._told(trainer)}", flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close(trainer)

    def _told(self, trainer: Trainer) -> str:
        told = [f"loss {self.loss.item():.4f}"]
        if "val/loss" in trainer.callback_metrics:
            told.append(f"val/loss {trainer.callback_metrics['val/loss']:.4f}")
        when, first = self.start
        speed = (trainer.global_step - first) / max(time.monotonic() - when, 1e-9)  # with validations
        told.append(f"{speed:,.0f} steps/s")
        left = trainer.estimated_stepping_batches - trainer.global_step
        if speed and 0 < left < float("inf"):
            minutes, seconds = divmod(round(left / speed), 60)
            told.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
        return ", ".join(told)

    def _refresh(self, trainer: Trainer) -> None:
        self.bar.update(self.task, completed=trainer.global_step, told=self._told(trainer), refresh=True)

    def _close(self, trainer: Trainer) -> None:
        if self.bar is not None:
            if hasattr(self, "loss"):
                self._refresh(trainer)
            self.bar.stop()
        self.bar = self.start = None
