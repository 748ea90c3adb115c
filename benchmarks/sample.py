"""What a new name costs: drawn one at a time, character by character, and by `NameModule.sample`.

    python benchmarks/sample.py [--ckpt_path lightning_logs/version_0/checkpoints/last.ckpt] [--names 100000]

Both sides in turn in one process, with the same threads. Prints a Markdown table of medians.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from namemlp import NameModule
from namemlp.checkpoint import open_checkpoint


def one_at_a_time(model: NameModule, num_names: int, generator: torch.Generator) -> list[str]:
    """The notebook's way: a forward pass for each character of each name."""
    names = []
    for _ in range(num_names):
        context, name = [0] * model.hparams.context_length, ""
        while True:
            probabilities = torch.softmax(model.network(torch.tensor([context])), 1)
            drawn = torch.multinomial(probabilities, 1, generator=generator).item()
            if drawn == 0:
                break
            name += model.vocabulary.characters[drawn]
            context = [*context[1:], drawn]
        names.append(name)
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", default="last")
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model = NameModule.load_from_checkpoint(open_checkpoint(args.ckpt_path, Path(), fitting=False)[0])
    generator, few = torch.Generator().manual_seed(1), max(1, args.names // 50)
    contenders = {
        f"one at a time ({few:,} names)": (few, lambda: one_at_a_time(model, few, generator)),
        f"sample ({args.names:,} names)": (args.names, lambda: model.sample(args.names, seed=1)),
        "sample (20 names)": (20, lambda: model.sample(20, seed=1)),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.no_grad():
        for _ in range(args.rounds + 1):
            for name, (_, draw) in contenders.items():
                start = time.perf_counter()
                draw()
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(each[1:]) for name, each in times.items()}  # the first is to warm up
    slowest = next(medians[name] / count for name, (count, _) in contenders.items())
    print("| drawn by | s | µs a name | ratio |\n| --- | ---: | ---: | ---: |")
    for name, (count, _) in contenders.items():
        each = medians[name] / count
        print(f"| {name} | {medians[name]:.3f} | {each * 1e6:.2f} | 1 / {slowest / each:,.0f} |")
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
