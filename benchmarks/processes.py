"""Two processes against one with their batches together: how far the curves are apart, and steps per second.

    python benchmarks/processes.py [--path LIST] [--steps 6000]

Two processes take the standard path (ddp) and the fused path (fused_ddp). Prints the largest difference from the losses
of one process over all steps and validations. 6,000 steps are more than an epoch.
"""

import os
import tempfile
from pathlib import Path

from harness import THREADS, fit_arguments, make_parser, steps_per_second, whole_process

from namemlp.runs import read_curves

TWO = ["--data.batch_size=16", "--trainer.devices=2"]
RUNS = {
    "one": ["--data.batch_size=32"],
    "ddp": [*TWO, "--trainer.strategy=ddp"],
    "fused_ddp": [*TWO, "--trainer.strategy=fused_ddp"],
}


def main() -> None:
    parser = make_parser(__doc__, steps=6000, threads=THREADS)
    parser.add_argument("--path")
    args = parser.parse_args()
    settings = [f"--trainer.max_steps={args.steps}", "--trainer.accelerator=cpu"]
    settings += ["--trainer.log_every_n_steps=1", "--trainer.val_check_interval=1000"]
    settings += [f"--data.path={os.path.abspath(args.path)}"] if args.path else []
    curves, speeds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, more in RUNS.items():
            threads = args.threads if name == "one" else max(1, args.threads // 2)
            _, out = whole_process(fit_arguments(*settings, f"--name={name}", *more), folder, threads)
            curves[name] = read_curves(Path(folder) / "lightning_logs" / name / "version_0")
            speeds[name] = steps_per_second(out)
    for name, speed in speeds.items():
        print(f"{name}: {speed:,.0f} steps/s")
        for tag in ("train/loss", "val/loss") if name != "one" else ():
            (steps, one), (same_steps, two) = curves["one"][tag], curves[name][tag]
            assert steps == same_steps
            difference = max(abs(a - b) for a, b in zip(one, two, strict=True))
            print(f"  {tag}: {len(one):,} points from {one[0]:.4f} to {one[-1]:.4f}, at most {difference:.1e} apart")


if __name__ == "__main__":
    main()
