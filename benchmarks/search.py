"""The search behind configs/tuned.yaml: what was tried, each as a change of that file, and its validation loss.

    python benchmarks/search.py LIST [--only PART OF A NAME] >> benchmarks/search.md

Prints a line of a Markdown table for each trial. The test split is not looked at.
"""

import argparse
import os
import tempfile

from fit import ROOT, whole_process


def steps(count: int) -> list[str]:
    return [f"--trainer.max_steps={count}", f"--lr_scheduler.total_steps={count}"]


def rate(value: float) -> list[str]:
    return [f"--optimizer.lr={value}", f"--lr_scheduler.max_lr={value}"]


FIRST = ["--model.hidden_size=400", "--model.dropout=0.2", "--optimizer.weight_decay=0.01", *steps(12_000)]
WIDER = ["--model.hidden_size=800", "--model.dropout=0.3", *steps(12_000)]
TRIALS = {
    "hidden 400, dropout 0.2, weight decay 0.01, 12,000 steps": FIRST,
    "hidden 800, dropout 0.3, 12,000 steps": WIDER,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list")
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    configs = [f"--config={ROOT / 'configs' / name}.yaml" for name in ("base", "tuned")]
    data = [f"--data.path={os.path.abspath(args.list)}", "--data.shuffles=3"]
    for name, changes in TRIALS.items():
        if args.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            fit = ["-m", "namemlp", "fit", *configs, *data, "--trainer.logger=false", *changes]
            seconds, out = whole_process(fit, folder, args.threads)
        train, val = (
            next(line.split()[2] for line in out.splitlines() if line.startswith(split)) for split in ("train ", "val ")
        )
        print(f"| {name} | {train} | {val} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
