"""What AdamW costs an update: by the textbook path, in blocks, and in a bare loop of torch.

    python benchmarks/optimizers.py [--rounds 3]

A Trainer on the CPU without validation, the three in turn. Prints a Markdown table of medians.
"""

import argparse
import logging
import statistics
import time
import warnings

import torch
from fit import stopwatch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch.nn import functional as F

from namemlp import NameModule, NamesDataModule

SIZES = [(200, 32, 3, 5, 2000), (200, 512, 3, 5, 1000), (400, 512, 8, 24, 200), (1600, 512, 8, 24, 40)]
ADAMW = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.001, "fused": True}}


def microseconds(how: str, hidden: int, batch: int, context: int, dim: int, steps: int) -> float:
    data = NamesDataModule(context_length=context, batch_size=batch)
    data.setup("fit")
    per_block = 1 if how == "textbook" else 2500
    model = NameModule(
        data.vocabulary.characters, context, dim, hidden, init="scaled", optimizer=ADAMW, updates_per_block=per_block
    )
    if how == "loop":
        optimizer = model.configure_optimizers()
        start = time.perf_counter()
        for index in torch.randint(len(data.train_set), (steps, batch)):
            x, y = data.train_set[index]
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return (time.perf_counter() - start) / steps * 1e6
    watch = stopwatch(Callback)
    off = dict(enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, logger=False)
    trainer = Trainer(max_steps=steps, callbacks=[watch], limit_val_batches=0, accelerator="cpu", **off)
    trainer.fit(model, datamodule=data)
    return watch.seconds / steps * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    print("| hidden / batch / context | textbook, µs | in blocks | bare loop | blocks / textbook | blocks / loop |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for hidden, batch, context, dim, steps in SIZES:
        times = [
            [microseconds(how, hidden, batch, context, dim, steps) for how in ("textbook", "blocks", "loop")]
            for _ in range(args.rounds + 1)
        ]
        textbook, blocks, loop = (statistics.median(column) for column in zip(*times[1:], strict=True))  # 1: to warm up
        print(f"| {hidden:,} / {batch} / {context} | {textbook:,.0f} | {blocks:,.0f} | {loop:,.0f} ", end="")
        print(f"| {blocks / textbook:.2f} | {blocks / loop:.2f} |", flush=True)
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}, {args.rounds} rounds")


if __name__ == "__main__":
    main()
