"""What the pictures, names and figures in TensorBoard add to the time of configs/base.yaml's fit.

    python benchmarks/diagnostics.py [--rounds 9] [--steps 50000]

Whole processes with and without them in turn, all with the same threads. Prints a Markdown table of medians.
"""

import tempfile

from harness import THREADS, fit_arguments, make_parser, medians, steps_per_second, whole_process

# In both: what a stand-in needs, imported as the program imports it.
FIT = """
import gc
gc.disable()
from lightning import Callback
import namemlp.viz
{without}
from namemlp.__main__ import main
main()
"""
WITHOUT = 'namemlp.viz.ModelDiagnostics = type("NoDiagnostics", (Callback,), {})'


def main() -> None:
    args = make_parser(__doc__, rounds=9, steps=50_000, threads=THREADS).parse_args()
    _, _, *fit = fit_arguments("--trainer.accelerator=cpu", f"--trainer.max_steps={args.steps}")
    times: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    for i in range(args.rounds + 1):
        for name in sorted(times, reverse=i % 2 == 0):
            with tempfile.TemporaryDirectory() as folder:
                code = FIT.format(without=WITHOUT if name == "without" else "")
                seconds, out = whole_process(["-c", code, *fit], folder, args.threads)
            if i > 0:  # the first is to warm up
                times[name].append((args.steps / steps_per_second(out), seconds))
    print(f"| {args.steps:,} steps | s | ratio | whole process, s | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, rows in times.items():
        steps, whole = medians(rows)
        # Ratios within a round: the machine may be busier in another.
        pairs = zip(rows, times["without"], strict=True)
        ratios = medians([[a / b for a, b in zip(*pair, strict=True)] for pair in pairs])
        print(f"| {name} | {steps:.3f} | {ratios[0]:.3f} | {whole:.3f} | {ratios[1]:.3f} |")
    print(f"\n{args.threads} threads, {args.rounds} rounds")


if __name__ == "__main__":
    main()
