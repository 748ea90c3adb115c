"""What the benchmarks share: arguments, processes and their seconds, `namemlp fit`, a stopwatch, medians.

At its top it imports the standard library alone, so that a measured process does not pay for it.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
THREADS = os.cpu_count()
QUIET = dict(enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, logger=False)


def make_parser(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with an option for each default, of its type."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    return parser


def medians(rows: list) -> list[float]:
    """The median of each column."""
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def whole_process(
    arguments: list[str], folder: str | Path, threads: int, root: Path = ROOT, **variables: str
) -> tuple[float, str]:
    """Run Python in a folder, with the package of a checkout; the seconds it took and what it printed."""
    python_path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": python_path, "OMP_NUM_THREADS": str(threads), **variables}
    start = time.perf_counter()
    process = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(process.stderr)
    return seconds, process.stdout


def child(script: str, name: str, steps: int, folder: str, threads: int) -> tuple[float, float]:
    """Run a function of a script in a process of its own; the seconds of its steps and of the process."""
    seconds, out = whole_process([script, "--child", name, "--steps", str(steps)], folder, threads)
    return json.loads(out.splitlines()[-1]), seconds


def fit_arguments(*more: str, configs: tuple[str, ...] = ("base",), root: Path = ROOT) -> list[str]:
    """The arguments of Python that run `namemlp fit` with configs of a checkout."""
    files = [f"--config={root / 'configs' / name}.yaml" for name in configs]
    return ["-m", "namemlp", "fit", *files, *more]


def command(folder: str, steps: int, threads: int, cache: str, *more: str, root: Path = ROOT) -> tuple[float, float]:
    """Run `namemlp fit` on the CPU with all that configs/base.yaml turns on; seconds as of `child`.

    Args:
        folder: to run it in.
        cache: folder of the compiled kernel.
        more: further arguments of fit.
        root: the checkout whose package and config to use.
    """
    arguments = fit_arguments("--trainer.accelerator=cpu", f"--trainer.max_steps={steps}", *more, root=root)
    seconds, out = whole_process(arguments, folder, threads, root, NUMBA_CACHE_DIR=cache)
    return steps / steps_per_second(out), seconds


def steps_per_second(out: str) -> float:
    """The speed, with validations, that `namemlp fit` printed last: of the steps after the first block."""
    return float(re.findall(r"([\d,]+) steps/s", out)[-1].replace(",", ""))


def final_losses(out: str) -> dict[str, float]:
    """The losses of the splits that `namemlp fit` printed at its end."""
    return {split: float(loss) for split, loss in re.findall(r"^(train|val|test) +[\d,]+ +(\S+)", out, re.M)}


def stopwatch() -> Any:
    """A callback that holds the seconds from the start of the first epoch to the end of training."""
    from lightning import Callback

    class Stopwatch(Callback):
        def on_train_epoch_start(self, trainer, _):
            if trainer.current_epoch == 0:
                self.start = time.perf_counter()

        def on_train_end(self, trainer, _):
            self.seconds = time.perf_counter() - self.start

    return Stopwatch()


def step_microseconds(model: Any, data: Any, steps: int, strategy: Any = "auto", fast_matmul: bool = True) -> float:
    """Microseconds per step of a Trainer on the CPU, without validation."""
    from lightning import Trainer

    from namemlp.fast import FastMatmul

    watch = stopwatch()
    callbacks = [watch, FastMatmul(fast_matmul)]
    settings = dict(accelerator="cpu", limit_val_batches=0, strategy=strategy, callbacks=callbacks, **QUIET)
    Trainer(max_steps=steps, **settings).fit(model, datamodule=data)
    return watch.seconds / steps * 1e6


def silence_lightning() -> None:
    """Let only Lightning's errors through."""
    import logging
    import warnings

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
