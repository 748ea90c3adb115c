"""The console during a run: one bar, or one line per validation."""

import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class StepProgressBar(ProgressBar):
    """One bar over all steps of a run, with losses, speed and time left; or, in a file, one line per validation."""

    runs_in_blocks = True
    is_on = True
    bar: Progress | None = None
    start: tuple[float, int] | None = None  # when, and at which step
    next_refresh = 0.0

    def disable(self) -> None:
        self.is_on = False

    def enable(self) -> None:
        self.is_on = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = trainer.log_dir  # asked of all processes at once, so not only where there is a bar
        if not self.is_on:
            return
        data = trainer.datamodule
        if hasattr(data, "splits"):
            sizes = " / ".join(f"{len(examples):,}" for examples in (data.train_set, data.val_set, data.test_set))
            count = f"{data.splits.num_names:,} names, {len(data.vocabulary)} characters"
            print(f"{count}: {sizes} examples (train / val / test)")
        parameters = sum(p.numel() for p in pl_module.parameters())
        where = f", run folder {folder}" if folder and Path(folder).is_dir() else ""
        optimizers = (f", {type(o).__name__} with lr {o.param_groups[0]['lr']:g}" for o in trainer.optimizers)
        print(f"{parameters:,} parameters on {pl_module.device}{''.join(optimizers)}{where}", flush=True)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        if self.start is not None or not self.is_on:
            return
        self.start = time.monotonic(), trainer.global_step
        if sys.stdout.isatty():
            last = trainer.estimated_stepping_batches
            total = int(last) if last < float("inf") else None
            steps = "{task.completed:,} steps" if total is None else f"{{task.completed:,}}/{total:,} steps"
            columns = BarColumn(None), TextColumn(steps, "progress.percentage"), TextColumn("{task.fields[status]}")
            self.bar = Progress(*columns, console=Console(file=sys.stdout), auto_refresh=False, expand=True)
            self.task = self.bar.add_task("", total=total, completed=trainer.global_step, status="")
            self.bar.start()

    on_train_batch_start = on_train_epoch_start  # the latter is not called where a run is resumed in mid-epoch

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self.bar is not None and time.monotonic() >= self.next_refresh:
            self._refresh(trainer)
            self.next_refresh = time.monotonic() + 0.2  # seconds

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is not None:
            self._refresh(trainer)
        elif self.start is not None:  # not while the Trainer checks a validation before training
            print(f"step {trainer.global_step:,}: {self._status(trainer)}", flush=True)

    def on_train_end(self, trainer: Trainer, *args: Any) -> None:
        if self.bar is not None:
            self._refresh(trainer)
            self.bar.stop()
        self.bar = self.start = None

    on_exception = on_train_end

    def _status(self, trainer: Trainer) -> str:
        names, metrics = {"train/loss": "loss", "val/loss": "val/loss"}, trainer.callback_metrics
        parts = [f"{title} {metrics[name]:.4f}" for name, title in names.items() if name in metrics]
        speed = (trainer.global_step - self.start[1]) / max(time.monotonic() - self.start[0], 1e-9)  # with validations
        parts.append(f"{speed:,.0f} steps/s")
        left = trainer.estimated_stepping_batches - trainer.global_step
        if speed and 0 < left < float("inf"):
            parts.append(f"{timedelta(seconds=round(left / speed))} left")
        return ", ".join(parts)

    def _refresh(self, trainer: Trainer) -> None:
        self.bar.update(self.task, completed=trainer.global_step, status=self._status(trainer), refresh=True)
