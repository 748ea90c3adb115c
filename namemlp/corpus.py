"""Read a list of names, check it, shuffle and split it."""

import codecs
import hashlib
import random
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import IncrementalNewlineDecoder
from pathlib import Path
from typing import IO
from zlib import crc32

import fsspec
import numpy as np

from namemlp.errors import UserError, check_range
from namemlp.vocabulary import END, NUL, Vocabulary

BUNDLED = "the bundled names.txt"
MAX_NAME_LENGTH = 10_000  # characters
CHUNK_BYTES, CHUNK_NAMES = 2**22, 2**17  # of a file, and of a list, that are worked on at once
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as surrogateescape decodes them
SEPARATORS = {"\t": ("tab", "cut"), ";": ("semicolon", "cut -d';'"), ",": ("comma", "cut -d,")}  # of columns


def read_names(path: str | None = None, lowercase: bool = False) -> list[str]:
    """The names of a UTF-8 list, one per line, a path or an fsspec URL; None: the bundled list. Raises: UserError."""
    source = BUNDLED if path is None else str(path)
    if "reference:" in source:  # a file of that protocol can stand for any number of bytes
        raise UserError(f"{source}: the protocol reference is not supported; data.path takes a list of names")
    try:
        with (files("namemlp") / "names.txt").open("rb") if path is None else fsspec.open(source, "rb") as file:
            names = [name for chunk in _checked_chunks(file, source, lowercase) for name in chunk if name]
    except UserError:
        raise
    except FileNotFoundError as error:
        if "://" in source and error.__cause__ is not None:  # no answer from the host
            raise UserError(f"{source} cannot be read: {error.__cause__}") from error
        raise UserError(f"{source}: no such file; data.path takes a list of names, one per line") from None
    except IsADirectoryError:
        raise UserError(f"{source} is a folder; data.path takes a file, a list of names, one per line") from None
    except Exception as error:  # no permission, an unknown protocol, a damaged archive, a lost host, …
        raise UserError(f"{source} cannot be read: {error}") from error
    if not names:
        raise UserError(f"{source} holds no names: write one per line")
    _check_no_table(names[:1000], source)
    return names


def _check_no_table(names: list[str], source: str) -> None:  # UserError where each has as many commas, tabs or …
    for separator, (word, cut) in SEPARATORS.items():
        count = names[0].count(separator)
        if count and len(names) > 1 and all(name.count(separator) == count for name in names):
            new = shlex.quote(f"{Path(source).stem}_names.txt")  # not names.txt, which may be the table
            paths = "" if "://" in source else f" {shlex.quote(source)} > {new}"
            what = f"a table, its first lines have {count} {word}{'s'[: count != 1]} each"
            raise UserError(f"{source} looks like {what}: keep one column, as with {cut} -f1{paths}")


def _checked_chunks(file: IO[bytes], source: str, lowercase: bool) -> Iterator[list[str]]:
    """The stripped lines of a file, many at a time."""
    # Bytes that are not UTF-8 become surrogates first, so that the error can name their line.
    decoder = IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")("surrogateescape"), translate=True)
    rest, first_line, data = "", 1, b"not yet read"
    while data:
        data = file.read(CHUNK_BYTES)
        text = rest + decoder.decode(data, final=not data)
        *lines, rest = text.split("\n") if data else [*text.split("\n"), ""]
        # Line by line, because how a Σ at the end of a chunk is lowered depends on what follows it.
        lines = [line.strip().lower() if lowercase else line.strip() for line in lines]
        is_too_long = max(map(len, [*lines, rest])) > MAX_NAME_LENGTH
        if is_too_long or NUL in text or (not text.isascii() and NOT_UTF8.search(text)):
            for number, line in enumerate([*lines, rest], first_line):
                if problem := _problem(line):
                    raise UserError(f"{source}, line {number}: {problem}")
        first_line += len(lines)
        yield lines


def _problem(line: str) -> str | None:
    if len(line) > MAX_NAME_LENGTH:
        return f"longer than {MAX_NAME_LENGTH:,} characters; write one name per line"
    if NOT_UTF8.search(line):
        return "not valid UTF-8; save the file as UTF-8"
    return "contains a NUL byte; save the file as UTF-8" if NUL in line else None


def shuffle_names(names: Sequence[str], seed: int, shuffles: int) -> list[str]:
    """Shuffle a list in place again and again, each time from the same seed, as the notebook's cell did."""
    names = list(names)
    for _ in range(shuffles):
        random.Random(seed).shuffle(names)
    return names


def split_points(n: int, fractions: Sequence[float]) -> tuple[int, int]:
    """Where validation and test start in a list of n names: at int(0.8 n) and int(0.9 n) for 80/10/10."""
    train, val, test = fractions
    if not min(fractions) > 0 or not abs(train + val + test - 1) < 1e-6:
        raise UserError(f"data.split {list(fractions)} must be three fractions above 0 that add up to 1")
    # Rounded, because in floating point 0.7 + 0.2 is a little less than 0.9 and would lose a name.
    return int(train * n), int(round(train + val, 9) * n)


def keep_together(names: list[str], points: tuple[int, int]) -> tuple[list[str], tuple[int, int]]:
    """Put all copies of a name into the part of the first one; returns the names and where parts start now."""
    part_of: dict[str, int] = {}
    for i, name in enumerate(names):
        part_of.setdefault(name, sum(i >= point for point in points))
    sizes = np.bincount([part_of[name] for name in names], minlength=3)
    return sorted(names, key=part_of.get), (int(sizes[0]), int(sizes[0] + sizes[1]))


def check_split(n: int, fractions: Sequence[float], source: str) -> None:  # UserError where a part would be empty
    val_start, test_start = split_points(n, fractions)
    sizes = val_start, test_start - val_start, n - test_start
    if min(sizes) < 1:
        raise UserError(
            f"{source} has {n} name{'s'[: n != 1]}, too few for a split of {list(fractions)}, which gives "
            f"{' / '.join(map(str, sizes))} names: add names or change data.split"
        )


def encode_names(names: Sequence[str], vocabulary: Vocabulary, source: str) -> np.ndarray:
    """The ids of names, each followed by an end mark, (examples,). Raises: UserError: a character has none."""
    try:
        parts = [vocabulary.encode(text).numpy().astype(vocabulary.dtype) for text in _texts(names)]
    except UserError:
        parts = []
    ids = np.concatenate([np.zeros(0, vocabulary.dtype), *parts])
    if len(ids) - np.count_nonzero(ids) != len(names):  # also where a `.` without an id was taken for an end mark
        raise UserError(f"{source} has {vocabulary.describe_unknown(''.join(names))}")
    return ids


def _texts(names: Sequence[str]) -> Iterator[str]:  # names with an end mark after each, many in one text
    for start in range(0, len(names), CHUNK_NAMES):
        yield NUL.join([*names[start : start + CHUNK_NAMES], ""])


def hash_names(names: Sequence[str]) -> np.ndarray:
    """The CRC-32 of each name, (names,) int32; an unknown name has that of a given one once in 4 billion times."""
    return np.fromiter(map(crc32, map(str.encode, names)), np.uint32, len(names)).view(np.int32)


def are_known(names: Sequence[str], known: np.ndarray) -> np.ndarray:  # (names,) bool, by sorted `hash_names`
    hashes = hash_names(names)  # searched for, as np.isin would sort the known ones each time
    return known[np.searchsorted(known, hashes).clip(max=len(known) - 1)] == hashes if len(known) else hashes != hashes


@dataclass
class Splits:  # what training takes from a list
    ids: np.ndarray  # the shuffled names, each followed by an end mark, (examples,)
    val_start: int  # the first example of validation
    test_start: int
    characters: str  # the vocabulary of the ids
    num_names: int  # without those that were dropped
    sha256: str  # of the names in the order of the file: identifies the list
    name_hashes: np.ndarray  # the sorted distinct `hash_names`, (distinct,) int32

    @property
    def parts(self) -> list[np.ndarray]:  # the ids of train, val and test
        return np.split(self.ids, [self.val_start, self.test_start])


def check_parts(splits: Splits, fractions: Sequence[float], source: str) -> None:  # UserError where a part is empty
    check_split(splits.num_names, fractions, source)
    if not all(map(len, splits.parts)):  # a list of few names with many copies, which are kept together
        raise UserError(f"{source}: its copies leave a part of the split empty: set data.duplicates to keep")


def make_splits(
    names: list[str], vocabulary: Vocabulary | None, split: Sequence[float], seed: int, shuffles: int, source: str,
    duplicates: str = "keep",
) -> Splits:  # fmt: skip
    """Shuffle and split a list; a vocabulary of None is that of the list. Raises: UserError: it cannot be split."""
    check_range(0, shuffles=shuffles)
    try:
        vocabulary = vocabulary or Vocabulary.from_names(names)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    sha256, hashes = hashlib.sha256(), np.sort(hash_names(names))
    hashes = hashes[np.diff(hashes, prepend=hashes[0] - 1) != 0]  # ten times as fast as np.unique
    end = "\n" if END in "".join(names) else END  # not `.` alone: a.b is not a and b
    for text in _texts(names):
        sha256.update(text.replace(NUL, end).encode())
    if duplicates == "drop":
        names = list(dict.fromkeys(names))
    names, points = shuffle_names(names, seed, shuffles), split_points(len(names), split)
    if duplicates == "together":
        names, points = keep_together(names, points)
    ids = encode_names(names, vocabulary, source)
    ends = np.flatnonzero(ids == 0) + 1  # behind each name
    starts = (int(ends[point - 1]) if point else 0 for point in points)
    return Splits(ids, *starts, vocabulary.characters, len(names), sha256.hexdigest(), hashes)
