"""Where the seconds of `namemlp fit --config configs/base.yaml` go, from the start of training to its end.

    python benchmarks/breakdown.py [--rounds 5] [--steps 50000]

The command runs in a process of its own, with a clock around the parts of a fit that are called a few hundred times at
most. Prints a Markdown table of medians.
"""

import json
import runpy
import sys
import tempfile
import time
from functools import wraps
from pathlib import Path
from typing import Any

from harness import THREADS, fit_arguments, make_parser, medians, whole_process

PARTS = (
    "loading the compiled kernel",
    "compiled steps",
    "the Trainer's own steps, last of each block",
    "order and batches of the blocks",
)
PARTS += ("points of the curves", "validation: losses of the split", "validation: pictures, names, histograms")
PARTS += ("validation: checkpoints", "counting n-grams", "end of training: pictures, names by loss", "all else")


def clocked(owner: Any, name: str, part: str, seconds: dict[str, float], first: str | None = None) -> None:
    """Add the seconds of a method to a part (of its first call to another one), without those of parts within it."""
    method, parts = getattr(owner, name), [part, first or part]

    @wraps(method)
    def timed(*args: Any, **settings: Any) -> Any:
        before, start = sum(seconds.values()), time.perf_counter()
        try:
            return method(*args, **settings)
        finally:
            within = sum(seconds.values()) - before
            seconds[parts.pop() if len(parts) > 1 else part] += time.perf_counter() - start - within

    setattr(owner, name, timed)


def measure(path: str, arguments: list[str]) -> None:
    """Run the command in this process, and write {part: seconds}."""
    from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
    from lightning.pytorch.loops.fit_loop import _FitLoop
    from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

    from namemlp import lists, runs, viz
    from namemlp.fast import kernel, strategy
    from namemlp.windows import ContextDataset, EpochSampler

    seconds = dict.fromkeys(PARTS, 0.0)
    loading, steps, own, batches, points, losses, pictures, checkpoints, counting, end, rest = PARTS
    clocked(kernel, "sgd_steps", steps, seconds, first=loading)
    for owner, name, part in (
        (_TrainingEpochLoop, "advance", own),
        (ContextDataset, "__getitem__", batches),
        (EpochSampler, "batches", batches),
        (strategy, "log_block", points),
        (_EvaluationLoop, "run", losses),
        (viz.ModelDiagnostics, "on_validation_end", pictures),
        (runs.BestCheckpoint, "on_validation_end", checkpoints),
        (runs.LastCheckpoint, "on_validation_end", checkpoints),
        (lists.CountingBaseline, "on_train_start", counting),
        (viz.ModelDiagnostics, "on_train_end", end),
        (_FitLoop, "run", rest),
    ):
        clocked(owner, name, part, seconds)
    sys.argv = arguments
    try:
        runpy.run_module("namemlp", run_name="__main__", alter_sys=True)
    finally:
        Path(path).write_text(json.dumps(seconds))


def main() -> None:
    parser = make_parser(__doc__, rounds=5, steps=50_000, threads=THREADS)
    parser.add_argument("--child", help="where to write what one run took")
    args, more = parser.parse_known_args()
    if args.child:
        measure(args.child, ["namemlp", *more])
        return
    rows = []
    for _ in range(args.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "seconds.json"
            fit = fit_arguments(f"--trainer.max_steps={args.steps}")[2:]
            whole_process([__file__, f"--child={path}", *fit], folder, args.threads)
            rows.append(list(json.loads(path.read_text()).values()))
    times = medians(rows[1:])  # the first compiles the kernel
    print(f"| part of a fit of {args.steps:,} steps | ms | µs per step | share |\n| --- | ---: | ---: | ---: |")
    for part, seconds in zip((*PARTS, "together"), (*times, sum(times)), strict=True):
        print(f"| {part} | {seconds * 1e3:,.0f} | {seconds / args.steps * 1e6:.2f} | {seconds / sum(times):.0%} |")


if __name__ == "__main__":
    main()
