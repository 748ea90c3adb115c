"""The console during a run: one bar, or one line per validation."""

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

REFRESH_SECONDS = 0.2


class StepProgressBar(ProgressBar):
    """One bar over all steps of a run, with losses, speed and time left; or, in a file, one line per validation."""

    runs_in_blocks = True

    def __init__(self) -> None:
        super().__init__()
        self.is_on = True
        self.bar: Progress | None = None
        self.start: tuple[float, int] | None = None  # when, and at which step
        self.next_refresh = 0.0

    def disable(self) -> None:
        self.is_on = False

    def enable(self) -> None:
        self.is_on = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.folder = trainer.log_dir  # asked of all processes at once, so not only where there is a bar

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.is_on:
            return
        splits, vocabulary = (getattr(trainer.datamodule, name, None) for name in ("splits", "vocabulary"))
        if splits is not None:
            sets = (getattr(trainer.datamodule, f"{split}_set") for split in ("train", "val", "test"))
            sizes = " / ".join(f"{len(examples):,}" for examples in sets)
            print(f"{splits.num_names:,} names, {len(vocabulary)} characters: {sizes} examples (train / val / test)")
        parameters = sum(p.numel() for p in pl_module.parameters())
        print(f"{parameters:,} parameters on {pl_module.device}, run folder {self.folder}", flush=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.start is not None or not self.is_on:
            return
        self.start = time.monotonic(), trainer.global_step
        if sys.stdout.isatty():
            last = trainer.estimated_stepping_batches
            is_finite = last < float("inf")
            steps = f"{{task.completed:,}}/{last:,.0f} steps" if is_finite else "{task.completed:,} steps"
            columns = BarColumn(bar_width=None), TextColumn(steps, style="progress.percentage")
            settings = dict(console=Console(file=sys.stdout), auto_refresh=False, expand=True)
            self.bar = Progress(*columns, TextColumn("{task.fields[status]}"), **settings)
            total = int(last) if is_finite else None
            self.task = self.bar.add_task("", total=total, completed=trainer.global_step, status="")
            self.bar.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # which is not called where a run is resumed in mid-epoch

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self.bar is not None and time.monotonic() >= self.next_refresh:
            self._refresh(trainer)
            self.next_refresh = time.monotonic() + REFRESH_SECONDS

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.start is None or trainer.sanity_checking:
            return
        if self.bar is not None:
            self._refresh(trainer)
        else:
            print(f"step {trainer.global_step:,}: {self._status(trainer)}", flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close(trainer)

    def _status(self, trainer: Trainer) -> str:
        names, metrics = {"train/loss": "loss", "val/loss": "val/loss"}, trainer.callback_metrics
        parts = [f"{title} {metrics[name]:.4f}" for name, title in names.items() if name in metrics]
        when, first = self.start
        speed = (trainer.global_step - first) / max(time.monotonic() - when, 1e-9)  # with validations
        parts.append(f"{speed:,.0f} steps/s")
        left = trainer.estimated_stepping_batches - trainer.global_step
        if speed and 0 < left < float("inf"):
            minutes, seconds = divmod(round(left / speed), 60)
            parts.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
        return ", ".join(parts)

    def _refresh(self, trainer: Trainer) -> None:
        self.bar.update(self.task, completed=trainer.global_step, status=self._status(trainer), refresh=True)

    def _close(self, trainer: Trainer) -> None:
        if self.bar is not None:
            self._refresh(trainer)
            self.bar.stop()
        self.bar = self.start = None
