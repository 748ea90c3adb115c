"""What a long list comes to, kept in files beside it that the next start maps into memory."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from namemlp.corpus import PART, Corpus, read_corpus
from namemlp.errors import UserError
from namemlp.vocabulary import Vocabulary

LEAST = 2**24  # bytes of a list; a shorter one is read in well under a second
FORMAT = 1  # of these files; another is not read


def is_long(path: str | None) -> bool:
    """Whether what a list comes to is kept: a local file that takes seconds to read."""
    return path is not None and os.path.isfile(path) and os.path.getsize(path) >= LEAST


def read_long_corpus(path: str, lowercase: bool, vocabulary: Vocabulary | None) -> Corpus:
    """`read_corpus`, kept for the next time."""
    try:
        digest = file_digest(path)
    except OSError:
        return read_corpus(path, lowercase, vocabulary)  # which tells why

    def read() -> dict[str, Any]:
        corpus = read_corpus(path, lowercase)
        found = dict(ids=corpus.ids, sizes=corpus.sizes, characters=corpus.vocabulary.characters)
        found |= dict(digest=corpus.digest, known=corpus.known)
        if file_digest(path) != digest:
            raise UserError(f"{path} was changed while it was read: start again when it is complete")
        return found

    def is_whole(values: dict[str, Any]) -> bool:
        return values["sizes"].sum() == len(values["ids"]) and values["ids"].max() < len(values["characters"])

    values = kept(path, "corpus", dict(list=digest, lowercase=lowercase), read, is_whole)
    if vocabulary is not None and vocabulary.characters != values["characters"]:
        return read_corpus(path, lowercase, vocabulary)
    corpus = Corpus(values["ids"], values["sizes"], Vocabulary(values["characters"]), path)
    corpus.digest, corpus.known = values["digest"], values["known"]
    return corpus


def kept(
    path: str,
    what: str,
    key: dict[str, Any],
    make: Callable[[], dict[str, Any]],
    is_whole: Callable[[dict[str, Any]], bool],
) -> dict[str, Any]:
    """The arrays and plain values that `make` makes of a list, out of the file beside it if that was made for this key.

    The file is .NAME.WHAT.pt. One for another key, and one that is cut off or changed, is written anew. Of several
    processes that need it at once, one makes it and the others wait. Where no file can be written there is none.

    Args:
        path: of the list.
        what: is kept.
        key: what it depends on.
        make: makes it.
        is_whole: whether it can be what `make` makes.
    """
    file = Path(path).with_name(f".{Path(path).name}.{what}.pt")
    if (values := _read(file, key, is_whole)) is not None:
        return values
    try:
        lock = FileLock(Path(path).with_name(f".{Path(path).name}.lock")).acquire()
    except OSError:
        return make()
    with lock:
        if (values := _read(file, key, is_whole)) is None:
            values = make()
            with suppress(OSError, RuntimeError):  # as torch tells of a full disk
                _write(file, key, values)
    return values


def file_digest(path: str) -> str:
    """The SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(PART):
            digest.update(part)
    return digest.hexdigest()


def _read(file: Path, key: dict[str, Any], is_whole: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    try:
        held = torch.load(file, mmap=True, weights_only=True)
        values = {name: each.numpy() if torch.is_tensor(each) else each for name, each in held["values"].items()}
        expected = {"format": FORMAT, **key}, _digest(values)
        return values if (held["key"], held["digest"]) == expected and is_whole(values) else None
    except Exception:  # there is none, or it is damaged, which fails in many ways
        return None


def _write(file: Path, key: dict[str, Any], values: dict[str, Any]) -> None:
    tensors = {name: torch.from_numpy(each) if isinstance(each, np.ndarray) else each for name, each in values.items()}
    unfinished = file.with_name(f"{file.name}.part")
    try:
        with open(unfinished, "wb") as opened:
            torch.save({"key": {"format": FORMAT, **key}, "digest": _digest(values), "values": tensors}, opened)
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def _digest(values: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, each in sorted(values.items()):
        is_array = isinstance(each, np.ndarray)
        digest.update(f"{name} {(each.dtype, each.shape) if is_array else each!r}\n".encode(errors="surrogatepass"))
        digest.update(each if is_array else b"")
    return digest.hexdigest()
