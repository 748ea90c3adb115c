"""What a new name costs: sampled one at a time, character by character, and by `NameModule.sample`.

    python benchmarks/sample.py [--ckpt_path lightning_logs/version_0/checkpoints/last.ckpt] [--names 100000]

Both sides in turn in one process, with the same threads. Prints a Markdown table of medians.
"""

import statistics
import time
from pathlib import Path

import torch
from harness import make_parser

from namemlp import NameModule
from namemlp.runs import open_checkpoint

MAX_LENGTH = 100  # characters, as the default of `NameModule.sample`


def one_at_a_time(model: NameModule, num_names: int, generator: torch.Generator) -> list[str]:
    """The notebook's way: a forward pass for each character of each name."""
    names = []
    for _ in range(num_names):
        context, name = [0] * model.hparams.context_length, ""
        while len(name) < MAX_LENGTH:
            probabilities = torch.softmax(model.network(torch.tensor([context])), 1)
            i = torch.multinomial(probabilities, 1, generator=generator).item()
            if i == 0:
                break
            name += model.vocabulary.characters[i]
            context = [*context[1:], i]
        names.append(name)
    return names


def main() -> None:
    args = make_parser(__doc__, ckpt_path="last", names=100_000, rounds=5).parse_args()
    path, _ = open_checkpoint(args.ckpt_path, Path(), is_fit=False, command="sample.py")
    model = NameModule.load_from_checkpoint(path)
    generator, few = torch.Generator().manual_seed(1), max(1, args.names // 50)
    contenders = {
        f"one at a time ({few:,} names)": (few, lambda: one_at_a_time(model, few, generator)),
        f"sample ({args.names:,} names)": (args.names, lambda: model.sample(args.names, seed=1)),
        "sample (20 names)": (20, lambda: model.sample(20, seed=1)),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.no_grad():
        for _ in range(args.rounds + 1):
            for name, (_, sample) in contenders.items():
                start = time.perf_counter()
                sample()
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first is to warm up
    slowest = next(medians[name] / count for name, (count, _) in contenders.items())
    print("| sampled by | s | µs per name | ratio |\n| --- | ---: | ---: | ---: |")
    for name, (count, _) in contenders.items():
        seconds = medians[name] / count
        print(f"| {name} | {medians[name]:.3f} | {seconds * 1e6:.2f} | 1 / {slowest / seconds:,.0f} |")
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
