"""The notebook's closing lesson, measured: what mini-batches of 32 gain over single examples and over the full split.

    python benchmarks/batch_size.py [--seconds 10] [--lr 0.01] [--picture docs/batch_size.png]

Trains the notebook's model with batches of 1, 8, 32, 128, 1,024 and the full training split, for the same wall time
each (validations not counted), plots the validation loss against seconds and against examples seen, and prints a
Markdown table.
"""

import time
from dataclasses import dataclass, field

import torch
from harness import QUIET, make_parser, silence_lightning
from lightning import Callback, Trainer
from matplotlib.figure import Figure

from namemlp import FusedStrategy, NameModule, NamesDataModule

POINTS = 25  # of a curve


@dataclass
class Curve(Callback):
    """The validation loss over the seconds of training and the examples seen; ends the run when its time is up."""

    seconds: float
    batch_size: int
    trained: float = 0.0
    points: list[tuple[float, int, float]] = field(default_factory=list)  # seconds, steps, loss

    def on_train_start(self, trainer: Trainer, module: NameModule) -> None:
        loss = module.evaluate(trainer.datamodule.val_dataloader())["loss"]
        self.points.append((0.0, 0, loss))
        self.start = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, module: NameModule) -> None:
        self.trained += time.perf_counter() - self.start

    def on_validation_end(self, trainer: Trainer, module: NameModule) -> None:
        self.points.append((self.trained, trainer.global_step, trainer.callback_metrics["val/loss"].item()))
        trainer.should_stop = self.trained >= self.seconds
        self.start = time.perf_counter()


def train(batch_size: int | None, lr: float, seconds: float, interval: int) -> Curve:
    """Train with a batch size (None: the full split), with a validation every so many steps."""
    data = NamesDataModule()
    data.setup("fit")
    batch_size = batch_size or len(data.train_set)
    data = NamesDataModule(batch_size=batch_size)
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": lr}}
    curve = Curve(seconds, batch_size)
    validate = dict(val_check_interval=interval, check_val_every_n_epoch=None, num_sanity_val_steps=0)
    model = NameModule(data.vocabulary.characters, optimizer=sgd)
    trainer = Trainer(max_steps=-1, accelerator="cpu", strategy=FusedStrategy(), callbacks=[curve], **QUIET, **validate)
    trainer.fit(model, datamodule=data)
    return curve


def plot_curves(curves: list[Curve], lr: float) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_seconds, by_examples = figure.subplots(1, 2, sharey=True)
    for curve in curves:
        seconds, steps, losses = zip(*curve.points, strict=True)
        by_seconds.plot(seconds, losses, marker=".", label=f"{curve.batch_size:,}")
        by_examples.plot([curve.batch_size * n for n in steps[1:]], losses[1:], marker=".")
    by_seconds.set(xlabel="seconds of training", ylabel="val/loss (nats)", yscale="log", title="for the same time")
    by_examples.set(xlabel="examples seen", xscale="log", title="for the same examples")
    by_seconds.set_yticks([2.5, 3, 5, 10, 20], ["2.5", "3", "5", "10", "20"], minor=False)
    by_seconds.set_yticks([], minor=True)
    for axes in (by_seconds, by_examples):
        axes.grid(alpha=0.3)
    by_seconds.legend(title=f"batch size (lr {lr:g})")
    return figure


def main() -> None:
    args = make_parser(__doc__, seconds=10.0, lr=0.01, picture="docs/batch_size.png").parse_args()
    silence_lightning()
    curves = []
    print("| batch size | µs per step | steps | examples seen | val/loss |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for batch_size in (1, 8, 32, 128, 1024, None):
        few = 3 if batch_size is None else 1000
        train(batch_size, args.lr, 0.0, few)  # to warm up
        seconds, steps, _ = train(batch_size, args.lr, 0.0, few).points[-1]  # how long a step takes
        curve = train(batch_size, args.lr, args.seconds, max(1, int(args.seconds / POINTS / (seconds / steps))))
        curves.append(curve)
        seconds, steps, loss = curve.points[-1]
        step, seen = seconds / steps * 1e6, steps * curve.batch_size
        print(f"| {curve.batch_size:,} | {step:,.1f} | {steps:,} | {seen:,} | {loss:.3f} |", flush=True)
    plot_curves(curves, args.lr).savefig(args.picture, dpi=80)
    print(f"\n{args.picture}; {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
