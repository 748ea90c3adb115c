"""Reading a list of names and building its context windows: namemlp against the notebook's loop.

    python benchmarks/corpus.py [--path LIST] [--rounds 7]

Both start from the file and end with the training, validation and test examples; the rounds alternate.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch
from fit import notebook_examples

import namemlp
from namemlp import NamesDataModule


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
    for (x, y), split in zip(notebook_examples(args.path), (ours.train_set, ours.val_set, ours.test_set), strict=True):
        assert torch.equal(x, split[:][0])
        assert torch.equal(y, split[:][1])

    times = {notebook_examples: [], arrays: []}
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
