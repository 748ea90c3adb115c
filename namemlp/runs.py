"""The folders of runs, lightning_logs/[NAME/]version_N: each run has its own, and one fit at a time trains in it."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from namemlp.errors import UserError

RUNS = "lightning_logs"


class RunLogger(TensorBoardLogger):
    """A TensorBoardLogger that makes the folder of a new run as its own, also where two runs start at one moment."""

    def _get_next_version(self) -> int:
        while True:
            version = super()._get_next_version()
            if rank_zero_only.rank != 0:
                return version  # the first process says where the run is
            try:
                (Path(self.root_dir) / f"version_{version}").mkdir(parents=True)
            except FileExistsError:
                if not Path(self.root_dir).is_dir():
                    raise
            else:
                return version

    def finalize(self, status: str) -> None:
        """Keep the file of a finished run open: what the run comes to is still to be written."""
        if status == "success":
            self.save()
        else:
            super().finalize(status)


def run_logger(root: Path, name: str | None, ckpt_path: Path | None, checkpoint: dict[str, Any] | None) -> RunLogger:
    """The logger of a new run below a folder, by some name, or of the run that a checkpoint lies in.

    Raises:
        UserError: that is no name for a folder of runs.
    """
    if name is not None and (not re.fullmatch(r"\w[\w.-]*", name) or name.startswith("version_")):
        raise UserError(f"name is {name!r}: it may have letters, digits, '_', '-' and '.', and not begin with version_")
    run = ckpt_path and ckpt_path.parent.parent
    if run is not None and len(run.parts) < 2:  # as seen from within it
        run = Path(os.path.abspath(ckpt_path)).parent.parent
    if run is not None and is_run_folder(run) and name is not None and run.parent.name != name:
        raise UserError(f"name is {name!r}, but {ckpt_path} belongs to the run {run}: leave out --name, or --ckpt_path")
    shared = dict(default_hp_metric=False, max_queue=1000)  # room for the points of a block: training never waits
    if run is None or not is_run_folder(run):
        return RunLogger(root, name=RUNS if name is None else f"{RUNS}/{name}", **shared)
    # TensorBoard reads the files of a run in the order of their names: the second they were begun in, host, process.
    *_, newest = ["", *sorted(file.name for file in run.glob("events.out.tfevents.*"))]
    if f".{int(time.time())}." in newest and f".{os.getpid()}." not in newest:
        time.sleep(1)
    # What an interrupted run has drawn beyond its checkpoint is drawn again: TensorBoard drops the first try.
    step = checkpoint["global_step"] + 1
    return RunLogger(run.parent.parent, name=run.parent.name, version=run.name, purge_step=step, **shared)


@contextmanager
def locked(trainer: Trainer) -> Iterator[None]:
    """Let only this fit, of one or many processes, write to its folder; the lock ends with it, however that ends.

    Raises:
        UserError: another fit does so.
    """
    if not trainer.is_global_zero or not trainer.checkpoint_callbacks:
        yield
        return
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{folder} is in use by another fit: wait until that has ended, or start a new run without --ckpt_path"
        ) from None
    with lock:
        yield


def is_run_folder(folder: Path) -> bool:
    """Whether a folder was made by `fit`, as lightning_logs/version_N are."""
    return (folder / "hparams.yaml").is_file() and (folder / "config.yaml").is_file()


def all_runs(run: Path) -> Path:
    """The folder of all runs beside a run, which TensorBoard is to show."""
    return run.parent if run.parent.name == RUNS or run.parent.parent.name != RUNS else run.parent.parent


def checkpoints(which: str, root: Path) -> list[Path]:
    """The `last` or `best` checkpoints of the runs below a folder, those of the newest run first.

    The newest run is the one whose checkpoint was written last. A run's last checkpoints are last.ckpt and, should
    that turn out to be damaged, whatever else it has saved.
    """
    found = {}
    for folder in (*(root / RUNS).glob("version_*/checkpoints"), *(root / RUNS).glob("*/version_*/checkpoints")):
        files = {path: path.stat().st_mtime_ns for path in folder.glob("*.ckpt" if which == "last" else "best*.ckpt")}
        if files:
            newest = max(files.values())
            found |= {path: (newest, path.name == "last.ckpt", time) for path, time in files.items()}
    return sorted(found, key=found.get, reverse=True)


def read_curves(run: Path) -> dict[str, tuple[list[int], list[float]]]:
    """The curves of a run, as TensorBoard shows them: the steps and values of each."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # a tenth of a second

    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()  # 0: all points
    points = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    return {tag: ([point.step for point in at], [point.value for point in at]) for tag, at in points.items()}
