"""Two processes against one with their batches together: how far the curves are apart, and updates a second.

    python benchmarks/processes.py [--path LIST] [--steps 6000]

Prints the largest difference between the losses of all updates and validations. 6,000 updates are more than an epoch.
"""

import argparse
import os
import re
import tempfile
from pathlib import Path

from fit import ROOT, whole_process

from namemlp.runs import read_curves

RUNS = {
    "one": ["--data.batch_size=32"],
    "two": ["--data.batch_size=16", "--trainer.strategy=ddp", "--trainer.devices=2"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    fit = ["-m", "namemlp", "fit", f"--config={ROOT / 'configs' / 'base.yaml'}", f"--trainer.max_steps={args.steps}"]
    fit += ["--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1", "--trainer.val_check_interval=1000"]
    fit += [f"--data.path={os.path.abspath(args.path)}"] if args.path else []
    curves = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, more in RUNS.items():
            threads = args.threads // 2 if name == "two" else args.threads
            _, out = whole_process([*fit, f"--name={name}", *more], folder, threads)
            curves[name] = read_curves(Path(folder) / "lightning_logs" / name / "version_0")
            print(name, *re.findall(r"[\d,]+ steps/s", out)[-1:])
    for tag in ("train/loss", "val/loss"):
        (steps, one), (same_steps, two) = curves["one"][tag], curves["two"][tag]
        assert steps == same_steps
        most = max(abs(a - b) for a, b in zip(one, two, strict=True))
        print(f"{tag}: {len(one):,} points from {one[0]:.4f} to {one[-1]:.4f}, at most {most:.1e} apart")


if __name__ == "__main__":
    main()
