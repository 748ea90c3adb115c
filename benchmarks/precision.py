"""Loss and time of configs/base.yaml in each precision that this machine has.

    python benchmarks/precision.py [--steps 50000] [--rounds 1] [MORE ARGUMENTS OF fit ...]

Whole commands in turn, all with the same threads. Prints a Markdown table of medians.
"""

import argparse
import os
import re
import statistics
import tempfile

import torch
from fit import ROOT, whole_process

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args, more = parser.parse_known_args()
    devices = ["cpu", "gpu"] if torch.cuda.is_available() else ["cpu"]
    cases = [(device, each) for device in devices for each in PRECISIONS if (device, each) != ("cpu", "16-mixed")]
    rows = {case: [] for case in cases}
    for _ in range(args.rounds):
        for device, precision in cases:
            fit = ["-m", "namemlp", "fit", "--config", str(ROOT / "configs" / "base.yaml"), *more]
            fit += [f"--trainer.max_steps={args.steps}", f"--trainer.accelerator={device}"]
            with tempfile.TemporaryDirectory() as folder:
                seconds, out = whole_process([*fit, f"--trainer.precision={precision}"], folder, args.threads)
            losses = {split: float(loss) for split, loss in re.findall(r"^(train|val) +[\d,]+ +([\d.]+)", out, re.M)}
            rows[device, precision].append((losses["train"], losses["val"], seconds))
    print(
        f"| {args.steps:,} steps on | precision | train | val | s | ratio |\n| --- | --- | ---: | ---: | ---: | ---: |"
    )
    for (device, precision), found in rows.items():
        train, val, seconds = map(statistics.median, zip(*found, strict=True))
        reference = statistics.median(row[2] for row in rows[device, "32-true"])
        print(f"| {device} | {precision} | {train:.4f} | {val:.4f} | {seconds:.1f} | {seconds / reference:.2f} |")
    print(f"\n{args.threads} threads, torch {torch.__version__}, {args.rounds} rounds")


if __name__ == "__main__":
    main()
