"""The cache of long lists: what training takes from a list, in a file next to it that is mapped into memory."""

import hashlib
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from namemlp.corpus import Splits
from namemlp.errors import UserError

MIN_BYTES = 2**24  # a shorter list is read in well under a second


def load_or_make(path: str | None, settings: dict[str, Any], make: Callable[[], Splits]) -> Splits:
    """The splits of a list; a long one's are cached next to it, by one process. Raises: UserError: the list changes."""
    is_readable = path is not None and os.path.isfile(path) and os.access(path, os.R_OK)
    if not is_readable or os.path.getsize(path) < MIN_BYTES:
        return make()
    file = Path(path).with_name(f".{Path(path).name}.splits.pt")
    key = {"format": 3, "list": hashlib.sha256(Path(path).read_bytes()).hexdigest(), **settings}
    try:
        lock = FileLock(file.with_suffix(".lock")).acquire()
    except OSError:  # nothing can be written here
        return _load(file, key) or make()
    with lock:
        if splits := _load(file, key):
            return splits
        splits, partial = make(), file.with_suffix(".part")
        if hashlib.sha256(Path(path).read_bytes()).hexdigest() != key["list"]:
            raise UserError(f"{path} was changed while it was read: start again when it is complete")
        values = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in vars(splits).items()}
        with suppress(OSError, RuntimeError):  # torch raises a RuntimeError where the disk is full
            torch.save({"key": key, "splits": values}, partial)
            os.replace(partial, file)
        partial.unlink(missing_ok=True)
        return splits


def _load(file: Path, key: dict[str, Any]) -> Splits | None:
    try:
        damaged = zipfile.ZipFile(file).testzip()  # a changed bit, which torch does not notice
        saved = torch.load(file, mmap=True, weights_only=True)
        splits = Splits(**{k: v.numpy() if torch.is_tensor(v) else v for k, v in saved["splits"].items()})
        is_whole = splits.ids.max() < len(splits.characters) and (splits.ids == 0).sum() == splits.num_names
        return splits if is_whole and not damaged and saved["key"] == key else None
    except Exception:  # there is none, or it is damaged, which fails in many ways
        return None
