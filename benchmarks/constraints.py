"""What names under constraints cost, and which share of draws is accepted.

    python benchmarks/constraints.py [--ckpt_path lightning_logs/version_0/checkpoints/last.ckpt] [--names 10000]

A model of the bundled list, in one process. Prints a Markdown table; every name is checked to be as asked for.
"""

import re
import time
from pathlib import Path

import torch
from harness import make_parser

from namemlp import NameModule, NamesDataModule
from namemlp.lists import Constraints
from namemlp.runs import open_checkpoint

CONSTRAINTS = {
    "none": dict(),
    "`--min_length 9`": dict(min_length=9),
    "`--suffix lyn`": dict(suffix="lyn"),
    "`--contains zz`": dict(contains="zz"),
    "`--pattern '[aeiou].*[^aeiou]'`": dict(pattern="[aeiou].*[^aeiou]"),
    "`--avoid` a file with `q`, `x`, `ann`": dict(avoid=["q", "x", "ann"]),
    "`--apart 2`": dict(apart=2),
    "`--apart 3`": dict(apart=3),
    "`--min_length 6 --suffix a --apart 2`": dict(min_length=6, suffix="a", apart=2),
}


def main() -> None:
    args = make_parser(__doc__, ckpt_path="last", names=10_000).parse_args()
    path, _ = open_checkpoint(args.ckpt_path, Path(), is_fit=False, command="constraints.py")
    model, known_names = NameModule.load_from_checkpoint(path), NamesDataModule().names
    print("| constraint | s | accepted draws |\n| --- | ---: | ---: |")
    for text, settings in CONSTRAINTS.items():
        accept = Constraints(**settings, known_names=known_names)
        start = time.perf_counter()
        names = model.sample(args.names, seed=1, accept=accept)
        seconds = time.perf_counter() - start
        share = accept.num_accepted / accept.num_drawn
        assert all(accept(names[:1000])), text
        assert all(len(name) >= settings.get("min_length", 1) for name in names)
        assert all(name.endswith(settings.get("suffix", "")) for name in names)
        assert all(re.fullmatch(settings.get("pattern", ".*"), name) for name in names)
        print(f"| {text} | {seconds:.2f} | {share:.2%} |", flush=True)
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
