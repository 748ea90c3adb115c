"""Reading a list of names and building its context windows: namemlp against the notebook's loop.

    python benchmarks/corpus.py [--path LIST] [--rounds 7]

Both start from the file and end with the training, validation and test examples; the rounds alternate.
"""

import platform
import statistics
import time

import torch
from fit import notebook_examples
from harness import ROOT, make_parser

from namemlp import NamesDataModule


def arrays(path: str) -> NamesDataModule:
    data = NamesDataModule(path)
    data.setup("fit")
    return data


def main() -> None:
    args = make_parser(__doc__, path=str(ROOT / "namemlp" / "names.txt"), rounds=7).parse_args()
    data = arrays(args.path)
    for (x, y), split in zip(notebook_examples(args.path), (data.train_set, data.val_set, data.test_set), strict=True):
        assert torch.equal(x, split[:][0])
        assert torch.equal(y, split[:][1])

    times = {notebook_examples: [], arrays: []}
    for _ in range(args.rounds):
        for build, seconds in times.items():
            start = time.perf_counter()
            build(args.path)
            seconds.append(time.perf_counter() - start)
    loop, array = (statistics.median(seconds) * 1e3 for seconds in times.values())
    print(f"{data.splits.num_names:,} names, Python {platform.python_version()}, median of {args.rounds}\n")
    print("| built by | ms | ratio |\n| --- | ---: | ---: |")
    print(f"| the notebook's loop | {loop:.1f} | 1 |\n| namemlp | {array:.1f} | 1 / {loop / array:.0f} |")


if __name__ == "__main__":
    main()
