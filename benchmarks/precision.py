"""Loss and time of configs/base.yaml in each precision that this machine has.

    python benchmarks/precision.py [--steps 50000] [--rounds 1] [MORE ARGUMENTS OF fit ...]

Whole commands in turn, all with the same threads. Prints a Markdown table of medians.
"""

import statistics
import tempfile

import torch
from harness import THREADS, final_losses, fit_arguments, make_parser, medians, whole_process

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed")


def main() -> None:
    args, more = make_parser(__doc__, steps=50_000, rounds=1, threads=THREADS).parse_known_args()
    devices = ["cpu", "gpu"] if torch.cuda.is_available() else ["cpu"]
    cases = [(device, precision) for device in devices for precision in PRECISIONS]
    rows = {case: [] for case in cases if case != ("cpu", "16-mixed")}
    for _ in range(args.rounds):
        for device, precision in rows:
            settings = (f"--trainer.accelerator={device}", f"--trainer.precision={precision}")
            fit = fit_arguments(*more, f"--trainer.max_steps={args.steps}", *settings)
            with tempfile.TemporaryDirectory() as folder:
                seconds, out = whole_process(fit, folder, args.threads)
            losses = final_losses(out)
            rows[device, precision].append((losses["train"], losses["val"], seconds))
    print(f"| {args.steps:,} steps on | precision | train | val | s | ratio |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for (device, precision), results in rows.items():
        train, val, seconds = medians(results)
        reference = statistics.median(row[2] for row in rows[device, "32-true"])
        print(f"| {device} | {precision} | {train:.4f} | {val:.4f} | {seconds:.1f} | {seconds / reference:.2f} |")
    print(f"\n{args.threads} threads, torch {torch.__version__}, {args.rounds} rounds")


if __name__ == "__main__":
    main()
