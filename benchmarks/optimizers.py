"""What a step of AdamW costs: by the standard path, by the fused path, and in a bare loop of torch.

    python benchmarks/optimizers.py [--rounds 5]

A Trainer on the CPU without validation, all in turn; the loop is a plain PyTorch script with torch's defaults and
nn.Dropout. Prints a Markdown table of medians.
"""

import time

import torch
from harness import make_parser, medians, silence_lightning, step_microseconds
from torch import nn
from torch.nn import functional as F

from namemlp import FusedStrategy, NameModule, NamesDataModule

# hidden units, batch size, context length, embedding dimension, dropout, steps; the last two are tuned.yaml's
SIZES = [(200, 32, 3, 5, 0, 2000), (200, 512, 3, 5, 0, 1000), (400, 512, 8, 24, 0, 200), (1600, 512, 8, 24, 0, 60)]
SIZES += [(1600, 512, 8, 24, 0.4, 60), (3200, 512, 8, 24, 0.5, 30)]
ADAMW = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.001, "fused": True}}
PATHS = ("standard, without oneDNN", "standard", "fused", "loop")


def microseconds(path: str, hidden: int, batch: int, context: int, dim: int, dropout: float, steps: int) -> float:
    data = NamesDataModule(context_length=context, batch_size=batch)
    data.setup("fit")
    shape = dict(context_length=context, embedding_dim=dim, hidden_size=hidden, dropout=dropout)
    model = NameModule(data.vocabulary.characters, **shape, init="scaled", optimizer=ADAMW)
    if path != "loop":
        strategy = FusedStrategy() if path == "fused" else "auto"
        return step_microseconds(model, data, steps, strategy, fast_matmul="without" not in path)
    optimizer, network, drop = model.configure_optimizers(), model.network, nn.Dropout(dropout)
    start = time.perf_counter()
    for index in torch.randint(len(data.train_set), (steps, batch)):
        x, y = data.train_set[index]
        hidden_units = torch.tanh(network.hidden(network.embedding(x).flatten(1)))
        loss = F.cross_entropy(network.output(drop(hidden_units) if dropout else hidden_units), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - start) / steps * 1e6


def main() -> None:
    args = make_parser(__doc__, rounds=5).parse_args()
    silence_lightning()
    print("| hidden / batch / context / dropout | standard without oneDNN, µs per step | with | fused | loop ", end="")
    print("| fused / standard without | with | fused / loop |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for hidden, batch, context, dim, dropout, steps in SIZES:
        times = [
            [microseconds(path, hidden, batch, context, dim, dropout, steps) for path in PATHS]
            for _ in range(args.rounds + 1)
        ]
        without, standard, fused, loop = medians(times[1:])  # the first is to warm up
        print(
            f"| {hidden:,} / {batch} / {context} / {dropout} | {without:,.0f} | {standard:,.0f} | {fused:,.0f} ", end=""
        )
        print(f"| {loop:,.0f} | {fused / without:.2f} | {fused / standard:.2f} | {fused / loop:.2f} |", flush=True)
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}, {args.rounds} rounds")


if __name__ == "__main__":
    main()
