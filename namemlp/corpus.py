"""Read and check a list of names, split it, and lay it out as one flat stream of ids."""

import random
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.resources import files

import fsspec
import numpy as np
import torch
from torch import Tensor

from namemlp.errors import UserError
from namemlp.vocabulary import END, Vocabulary, code_points

BUNDLED = "the bundled names.txt"
WHITE_SPACE = np.zeros(0x110000, bool)  # what str.strip() takes away
WHITE_SPACE[[code for code in range(0x3001) if chr(code).isspace()]] = True


@dataclass
class Corpus:
    """A list of names as ids, in the order of the file.

    Attributes:
        ids: every name followed by the end mark, (examples,), in the smallest integer type.
        sizes: the length of each name with its end mark, (names,) int64.
        vocabulary: the characters behind the ids.
        source: where the list came from, for messages.
    """

    ids: np.ndarray
    sizes: np.ndarray
    vocabulary: Vocabulary
    source: str

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def digest(self) -> str:
        """What tells this list from another: the SHA-256 of its names."""
        return sha256(code_points(self.vocabulary.characters)[self.ids].tobytes()).hexdigest()

    @cached_property
    def names(self) -> list[str]:
        """The names as strings."""
        return self.vocabulary.decode(self.ids).split(END)[:-1]


def read_corpus(path: str | None = None, lowercase: bool = False, vocabulary: Vocabulary | None = None) -> Corpus:
    """Read a UTF-8 list of names, one a line; blank lines and white space around a name are passed over.

    Args:
        path: a local path or an fsspec URL; None: the bundled list.
        lowercase: turn the names to lower case.
        vocabulary: the characters to use; None: those of the list.

    Raises:
        UserError: the list cannot be read, is not UTF-8, holds no name, has an end mark inside a name, or characters
            that a given vocabulary does not have.
    """
    source = BUNDLED if path is None else str(path)
    text = _read_text(path, source)
    if END in text:
        line = _line_number(text, text.index(END))
        raise UserError(f"{source}, line {line}: {END!r} inside a name is not allowed, it marks the end of one")
    if lowercase:
        text = text.lower()
    codes = code_points(text + "\n").copy()  # (characters,); with the line end a name always has something behind it
    starts, ends = _name_bounds(codes)
    if len(starts) == 0:
        raise UserError(f"{source} holds no names: write one a line")
    sizes = ends - starts + 1

    # Keep every name and the one character behind it, in whose place the end mark goes.
    codes[ends] = ord(END)
    edges = np.zeros(len(codes) + 1, np.int8)
    edges[starts] = 1
    edges[ends + 1] -= 1
    codes = codes[edges[:-1].cumsum(dtype=np.int8).view(bool)]

    if vocabulary is None:
        vocabulary = Vocabulary.of(codes)
    ids = vocabulary.ids(codes)
    if ids.min() < 0:
        raise UserError(f"{source} has {vocabulary.unknown(''.join(map(chr, np.unique(codes[ids < 0]))))}")
    return Corpus(ids.astype(vocabulary.dtype), sizes, vocabulary, source)


def _read_text(path: str | None, source: str) -> str:
    try:
        if path is None:
            data = (files("namemlp") / "names.txt").read_bytes()
        else:
            with fsspec.open(str(path), "rb") as file:
                data = file.read()
    except FileNotFoundError:
        raise UserError(f"{source}: no such file; data.path takes a list of names, one a line") from None
    except IsADirectoryError:
        raise UserError(f"{source} is a folder; data.path takes a file, a list of names, one a line") from None
    except Exception as error:  # no permission, unknown or not installed protocol, a damaged archive, ...
        raise UserError(f"{source} cannot be read: {error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _line_number(error.object[: error.start].decode(), error.start)
        raise UserError(f"{source}, line {line}: not UTF-8; save the list as UTF-8") from None


def _line_number(text: str, position: int) -> int:
    return text[:position].replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1


def _name_bounds(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the names of a text start and end (end not included): two (names,) int64."""
    solid = np.flatnonzero(~WHITE_SPACE[codes])  # positions of all that is not white space
    line_ends = np.flatnonzero((codes == ord("\n")) | (codes == ord("\r")))
    # White space between solid[gap] and solid[gap + 1] parts two names where it holds the end of a line.
    gap = np.flatnonzero(np.diff(solid) > 1)
    gap = gap[np.searchsorted(line_ends, solid[gap]) < np.searchsorted(line_ends, solid[gap + 1])]
    starts = np.concatenate([solid[:1], solid[gap + 1]])
    ends = np.concatenate([solid[gap], solid[-1:]]) + 1
    return starts, ends


def shuffled_order(n: int, seed: int, shuffles: int) -> np.ndarray:
    """The order of a list of n names that was shuffled again and again in place, each time from the same seed.

    Source: the notebook's `random.seed(42); random.shuffle(words)`, whose cell had been run three times.

    Returns:
        (n,) int64: what stands at place i of the shuffled list is name order[i] of the file.
    """
    once = list(range(n))
    random.Random(seed).shuffle(once)
    order, once = np.arange(n), np.array(once)
    for _ in range(shuffles):
        order = order[once]
    return order


def split_sizes(n: int, fractions: tuple[float, float, float], source: str) -> tuple[int, int, int]:
    """How many of n names go to training, validation and test: cut at int(0.8 n) and int(0.9 n) for 80/10/10.

    Raises:
        UserError: the fractions do not add up to 1, or a split would be empty.
    """
    train, val, test = fractions
    if not min(fractions) > 0 or not abs(train + val + test - 1) < 1e-6:
        raise UserError(f"data.split {list(fractions)} must be three fractions above 0 that add up to 1")
    # Rounded, because in floating point 0.7 + 0.2 is a little less than 0.9 and would lose a name.
    first, second = int(train * n), int(round(train + val, 9) * n)
    sizes = first, second - first, n - second
    if min(sizes) < 1:
        raise UserError(
            f"{source} has {n} name{'s'[: n != 1]}, too few for a split of {list(fractions)}, which gives "
            f"{sizes[0]} / {sizes[1]} / {sizes[2]} names: add names or change data.split"
        )
    return sizes


def flat_stream(corpus: Corpus, order: np.ndarray, context_length: int) -> tuple[Tensor, Tensor]:
    """Lay the names out in the given order as T zeros, a name, T zeros, a name, … and T zeros.

    Args:
        corpus: the names.
        order: which names, in which order, (n,) int64.
        context_length: T.

    Returns:
        stream: (length,) ids. Its row p, stream[p : p + T + 1], is a context of T ids and the id that follows.
        positions: (examples,) int32 (int64 for a very long stream), the rows that are examples: one for each
            character and one for the end of each name, in order.
    """
    sizes = corpus.sizes[order]
    length = int(sizes.sum()) + len(order) * (context_length - 1) + context_length
    index = np.int32 if length < 2**31 else np.int64
    example = np.arange(sizes.sum(), dtype=index)
    # A name of n characters has n + 1 examples and takes n + T places: each name before one shifts it by T - 1 more.
    positions = example + np.repeat(np.arange(len(order), dtype=index) * (context_length - 1), sizes)
    moved = (corpus.sizes.cumsum()[order] - sizes.cumsum()).astype(index)  # from its place in the file to its new one
    stream = np.zeros(length, corpus.ids.dtype)
    stream[positions + context_length] = corpus.ids[example + np.repeat(moved, sizes)]
    return torch.from_numpy(stream), torch.from_numpy(positions)
