"""Run folders, lightning_logs/[NAME/]version_N: each run has its own, and one fit at a time trains in it."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from namemlp.errors import UserError

LOG_DIR = "lightning_logs"


def is_run_folder(folder: Path) -> bool:  # whether it was made by `fit`, as lightning_logs/version_N are
    return (folder / "hparams.yaml").is_file() and (folder / "config.yaml").is_file()


def log_root(run: Path) -> Path:  # the folder of all runs next to a run, which TensorBoard is to show
    return run.parent if run.parent.name == LOG_DIR or run.parent.parent.name != LOG_DIR else run.parent.parent


def find_checkpoints(selector: str, root: Path) -> list[Path]:
    """The `last` or `best` checkpoints of the runs below a folder; first those of the run that has saved one last."""
    found, pattern = {}, "*.ckpt" if selector == "last" else "best*.ckpt"  # all, should last.ckpt be damaged
    for folder in (*(root / LOG_DIR).glob("*/checkpoints"), *(root / LOG_DIR).glob("*/*/checkpoints")):
        times = {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}
        newest = max(times.values(), default=0)
        found |= {path: (newest, path.name == "last.ckpt", time) for path, time in times.items()}
    return sorted(found, key=found.get, reverse=True)


def resume_command(last: Path, *more: str) -> str:
    """The command that resumes from a run's last.ckpt with the run's own settings."""
    run = last.parent.parent
    config = ["--config", str(run / "config.yaml")] if is_run_folder(run) else []
    return shlex.join(["python", "-m", "namemlp", "fit", *config, "--ckpt_path", str(last), *more])


@contextmanager
def run_lock(trainer: Any) -> Iterator[None]:
    """Let only this fit, of one or many processes, write to its folder. Raises: UserError: another fit does so."""
    if not trainer.is_global_zero or not trainer.checkpoint_callbacks:
        yield
        return
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        way_out = "wait until that has ended, or start a new run without --ckpt_path"
        raise UserError(f"{folder} is in use by another fit: {way_out}") from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            Path(lock.lock_file).unlink()
        lock.release()


def write_error(path: Path | str, error: OSError, setting: str = "trainer.default_root_dir") -> UserError:
    """What to raise where a file cannot be written."""
    return UserError(f"{path} cannot be written ({error.strerror}): make room there or give another {setting}")


def fsync_path(path: Path) -> None:  # have a file, or the names in a folder, outlast a power cut
    if os.name == "nt" and path.is_dir():
        return  # cannot be opened there
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_curves(run: Path) -> dict[str, tuple[list[int], list[float]]]:
    """The curves of a run, as TensorBoard shows them: the steps and values of each."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # a tenth of a second

    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()  # 0: all points
    points = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    return {tag: ([point.step for point in at], [point.value for point in at]) for tag, at in points.items()}
