"""What the pictures, names and figures in TensorBoard add to the time of configs/base.yaml's fit.

    python benchmarks/inspection.py [--rounds 9]

Whole processes with and without them in turn, all with the same threads. Prints a Markdown table of medians.
"""

import argparse
import os
import re
import statistics
import tempfile

from fit import ROOT, whole_process

WITHOUT = """
import sys, types
from lightning import Callback
stand_in = types.ModuleType("namemlp.inspection")
stand_in.Inspection = type("Nothing", (Callback,), {})
sys.modules["namemlp.inspection"] = stand_in
"""
# In both: the imports as the program makes them, then what is to be measured.
FIT = """
from namemlp.startup import quick_imports
with quick_imports():
    import namemlp.cli
{more}
from namemlp.__main__ import main
main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    fit = ("fit", "--config", str(ROOT / "configs" / "base.yaml"), "--trainer.accelerator=cpu")
    times: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    for i in range(args.rounds + 1):
        for name in sorted(times, reverse=i % 2 == 0):
            with tempfile.TemporaryDirectory() as folder:
                code = FIT.format(more=WITHOUT if name == "without" else "")
                seconds, out = whole_process(["-c", code, *fit], folder, args.threads)
            speed = float(re.findall(r"([\d,]+) steps/s", out)[-1].replace(",", ""))
            if i > 0:  # the first is to warm up
                times[name].append((50_000 / speed, seconds))
    print("| 50,000 steps | s | ratio | whole process, s | ratio |\n| --- | ---: | ---: | ---: | ---: |")
    for name, rows in times.items():
        steps, whole = (statistics.median(column) for column in zip(*rows, strict=True))
        # Of each round by itself: the machine may be busier in another.
        pairs = [[a / b for a, b in zip(*pair, strict=True)] for pair in zip(rows, times["without"], strict=True)]
        ratios = [statistics.median(column) for column in zip(*pairs, strict=True)]
        print(f"| {name} | {steps:.3f} | {ratios[0]:.3f} | {whole:.3f} | {ratios[1]:.3f} |")
    print(f"\n{args.threads} threads, {args.rounds} rounds")


if __name__ == "__main__":
    main()
