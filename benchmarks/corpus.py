"""Reading a list of names and building its context windows: namemlp against the notebook's loop.

    python benchmarks/corpus.py [--path LIST] [--rounds 7]

Both start from the file and end with the training, validation and test examples; the rounds alternate.
"""

import argparse
import platform
import random
import statistics
import time
from pathlib import Path

import torch

import namemlp
from namemlp import NamesDataModule


def notebook(path: str, context_length: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The notebook's cells: a list of contexts, grown character by character."""
    words = Path(path).read_text().splitlines()
    characters = sorted(set("".join(words)))
    ids = {character: i + 1 for i, character in enumerate(characters)}
    ids["."] = 0

    def build(words: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = [], []
        for word in words:
            context = [0] * context_length
            for character in word + ".":
                x.append(context)
                y.append(ids[character])
                context = [*context[1:], ids[character]]
        return torch.tensor(x), torch.tensor(y)

    random.seed(42)
    random.shuffle(words)
    first, second = int(0.8 * len(words)), int(0.9 * len(words))
    return [build(words[:first]), build(words[first:second]), build(words[second:])]


def arrays(path: str) -> NamesDataModule:
    data = NamesDataModule(path)
    data.setup("fit")
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default=str(Path(namemlp.__file__).parent / "names.txt"))
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    ours = arrays(args.path)
    for (x, y), split in zip(notebook(args.path), (ours.train_set, ours.val_set, ours.test_set), strict=True):
        assert torch.equal(x, split[:][0])
        assert torch.equal(y, split[:][1])

    times = {notebook: [], arrays: []}
    for _ in range(args.rounds):
        for build in times:
            start = time.perf_counter()
            build(args.path)
            times[build].append(time.perf_counter() - start)
    loop, array = (statistics.median(times[build]) * 1e3 for build in times)
    print(f"{len(ours.corpus):,} names, Python {platform.python_version()}, median of {args.rounds}\n")
    print("| built by | ms | ratio |\n| --- | ---: | ---: |")
    print(f"| the notebook's loop | {loop:.1f} | 1 |\n| namemlp | {array:.1f} | 1 / {loop / array:.0f} |")


if __name__ == "__main__":
    main()
