"""What a Trainer step costs: namemlp's textbook path against Lightning as a tutorial writes it.

    python benchmarks/step.py [--steps 3000] [--rounds 3]

Both train the same model on the same data with the same Trainer settings; the rounds alternate.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from contextlib import redirect_stdout

import lightning
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from namemlp import NameModule, NamesDataModule
from namemlp.callbacks import StepProgress


class PlainModule(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(27, 5)
        self.hidden = nn.Linear(15, 200)
        self.output = nn.Linear(200, 27)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.output(torch.tanh(self.hidden(self.embedding(x).view(len(x), -1))))
        loss = F.cross_entropy(logits, y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Stopwatch(Callback):
    """Time from the end of a few first steps to the end of the last one."""

    WARM_UP = 200

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.WARM_UP:
            self.start = time.perf_counter()

    def on_train_end(self, trainer, _):
        self.per_step = (time.perf_counter() - self.start) / (trainer.global_step - self.WARM_UP)


def trainer(folder: str, steps: int, *callbacks: Callback) -> tuple[Trainer, Stopwatch]:
    watch = Stopwatch()
    return Trainer(
        max_steps=steps,
        default_root_dir=folder,
        callbacks=[watch, *callbacks],
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        accelerator="cpu",
    ), watch


def plain(folder: str, steps: int, data: NamesDataModule) -> float:
    loader = DataLoader(TensorDataset(*data.train_set[:]), batch_size=32, shuffle=True)
    run, watch = trainer(folder, steps)
    run.fit(PlainModule(), loader)
    return watch.per_step


def textbook(folder: str, steps: int, data: NamesDataModule) -> float:
    run, watch = trainer(folder, steps, StepProgress())
    run.fit(NameModule(data.vocabulary.characters), datamodule=data)
    return watch.per_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    data = NamesDataModule()
    data.setup("fit")
    times = {plain: [], textbook: []}
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silence, redirect_stdout(silence):
        for _ in range(args.rounds):
            for run in times:
                times[run].append(run(folder, args.steps, data) * 1e6)
    reference = statistics.median(times[plain])
    print(f"\ntorch {torch.__version__}, lightning {lightning.__version__}, {torch.get_num_threads()} threads")
    print("\n| path | µs a step | ratio |\n| --- | ---: | ---: |")
    for run, name in ((plain, "plain Lightning"), (textbook, "namemlp, textbook path")):
        median = statistics.median(times[run])
        print(f"| {name} | {median:,.0f} | {median / reference:.2f} |")


if __name__ == "__main__":
    main()
