"""What a step of AdamW costs: by the standard path, by the fused path, and in a bare loop of torch.

    python benchmarks/optimizers.py [--rounds 3]

A Trainer on the CPU without validation, the three in turn. Prints a Markdown table of medians.
"""

import time

import torch
from harness import make_parser, medians, silence_lightning, step_microseconds
from torch.nn import functional as F

from namemlp import FusedStrategy, NameModule, NamesDataModule

# hidden units, batch size, context length, embedding dimension, steps
SIZES = [(200, 32, 3, 5, 2000), (200, 512, 3, 5, 1000), (400, 512, 8, 24, 200), (1600, 512, 8, 24, 40)]
ADAMW = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.001, "fused": True}}


def microseconds(path: str, hidden: int, batch: int, context: int, dim: int, steps: int) -> float:
    data = NamesDataModule(context_length=context, batch_size=batch)
    data.setup("fit")
    shape = dict(context_length=context, embedding_dim=dim, hidden_size=hidden)
    model = NameModule(data.vocabulary.characters, **shape, init="scaled", optimizer=ADAMW)
    if path != "loop":
        return step_microseconds(model, data, steps, FusedStrategy() if path == "fused" else "auto")
    optimizer = model.configure_optimizers()
    start = time.perf_counter()
    for index in torch.randint(len(data.train_set), (steps, batch)):
        x, y = data.train_set[index]
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - start) / steps * 1e6


def main() -> None:
    args = make_parser(__doc__, rounds=3).parse_args()
    silence_lightning()
    print("| hidden / batch / context | standard, µs per step | fused | bare loop | fused / standard | fused / loop |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for hidden, batch, context, dim, steps in SIZES:
        times = [
            [microseconds(path, hidden, batch, context, dim, steps) for path in ("standard", "fused", "loop")]
            for _ in range(args.rounds + 1)
        ]
        standard, fused, loop = medians(times[1:])  # the first is to warm up
        print(f"| {hidden:,} / {batch} / {context} | {standard:,.0f} | {fused:,.0f} | {loop:,.0f} ", end="")
        print(f"| {fused / standard:.2f} | {fused / loop:.2f} |", flush=True)
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}, {args.rounds} rounds")


if __name__ == "__main__":
    main()
