"""Read and check a list of names, and hold it as ids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.resources import files

import fsspec
import numpy as np

from namemlp.errors import UserError
from namemlp.vocabulary import END, Vocabulary, code_points

BUNDLED = "the bundled names.txt"
PART, NAMES = 2**22, 2**17  # bytes of a file, and names, that are worked on at a time
LONGEST = 10_000  # characters of a name
WHITE_SPACE = np.zeros(0x110000, bool)  # what str.strip() takes away
WHITE_SPACE[[code for code in range(0x3001) if chr(code).isspace()]] = True


@dataclass
class Corpus:
    """A list of names as ids, in the order of the file.

    Attributes:
        ids: every name followed by the end mark, (examples,), in the smallest integer type.
        sizes: the length of each name with its end mark, (names,) integers.
        vocabulary: the characters behind the ids.
        source: where the list came from, for messages.
    """

    ids: np.ndarray
    sizes: np.ndarray
    vocabulary: Vocabulary
    source: str

    @classmethod
    def of(cls, names: Sequence[str], vocabulary: Vocabulary) -> "Corpus":
        """These names, which may be empty.

        Raises:
            UserError: one has an end mark, or characters that the vocabulary does not have; they are shown.
        """
        for name in names:
            if END in name:
                raise UserError(f"{name!r}: {END!r} inside a name is not allowed, it marks the end of one")
        try:
            ids = vocabulary.encode(END.join([*names, ""])).numpy().astype(vocabulary.dtype)
        except UserError:
            for name in names:
                vocabulary.encode(name)  # names the one
            raise
        return cls(ids, np.array([len(name) + 1 for name in names], np.int64), vocabulary, "these names")

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def digest(self) -> str:
        """What tells this list from another: the SHA-256 of its names."""
        codes, digest = code_points(self.vocabulary.characters), sha256()
        for start in range(0, len(self.ids), PART):
            digest.update(codes[self.ids[start : start + PART]].tobytes())
        return digest.hexdigest()

    @cached_property
    def known(self) -> np.ndarray:
        """The `digests` of its names, sorted, (distinct,) int32."""
        return np.unique(digests(self))

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
            that a given vocabulary does not have, or is no such list at all: lines without end, NULs.
    """
    source = BUNDLED if path is None else str(path)
    codes, sizes, line = [], [], 1  # the line that a part starts with
    for part in _parts(path, source):
        for found, kept in zip((codes, sizes), _names(part, lowercase, source, line), strict=True):
            found.append(kept)
        line += _line_ends(part)
    if not any(map(len, sizes)):
        raise UserError(f"{source} holds no names: write one a line")
    if vocabulary is None:
        try:
            vocabulary = Vocabulary.of(*codes)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
    ids, end = np.empty(sum(map(len, codes)), vocabulary.dtype), 0
    for i, part in enumerate(codes):
        found = vocabulary.ids(part)
        if (found < 0).any():
            raise UserError(f"{source} has {vocabulary.unknown(''.join(map(chr, np.unique(part))))}")
        ids[end : end + len(part)] = found
        end += len(part)
        codes[i] = None  # which frees it
    return Corpus(ids, np.concatenate(sizes), vocabulary, source)


def _parts(path: str | None, source: str) -> Iterator[bytes]:
    """The content of a file in parts that end where lines end, so that no more than a part need be held as text."""
    if "reference:" in source:  # a file of that protocol can stand for any number of bytes
        raise UserError(f"{source}: the protocol reference is not read; data.path takes a list of names, one a line")
    try:
        opened = (files("namemlp") / "names.txt").open("rb") if path is None else fsspec.open(str(path), "rb")
        with opened as file:
            rest, line = b"", 1
            while block := file.read(PART):
                data = rest + block
                end = max(data.rfind(b"\n"), data.rfind(b"\r", 0, -1)) + 1  # after a last \r there may be a \n
                part, rest = data[:end], data[end:]
                yield part
                line += _line_ends(part)
                if len(rest) > 4 * LONGEST:  # of up to 4 bytes a character
                    raise UserError(_too_long(source, line))
            yield rest
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{source}: no such file; data.path takes a list of names, one a line") from None
    except IsADirectoryError:
        raise UserError(f"{source} is a folder; data.path takes a file, a list of names, one a line") from None
    except Exception as error:  # no permission, unknown or not installed protocol, a damaged archive, a lost host, ...
        raise UserError(f"{source} cannot be read: {error}") from error


def _names(part: bytes, lowercase: bool, source: str, line: int) -> tuple[np.ndarray, np.ndarray]:
    """The names of a part that starts with some line: their code points, each with an end mark, and their sizes."""
    try:
        text = part.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += _line_ends(error.object[: error.start])
        raise UserError(f"{source}, line {line}: not UTF-8; save the list as UTF-8") from None
    for wrong, reason in (
        (END, f"{END!r} inside a name is not allowed, it marks the end of one"),
        ("\0", "a NUL, which no text has; save the list as UTF-8"),
    ):
        if wrong in text:
            line += _line_ends(text[: text.index(wrong)].encode())
            raise UserError(f"{source}, line {line}: {reason}")
    if lowercase:
        text = text.lower()
    codes = code_points(text + "\n").copy()  # (characters,); with the line end a name always has something behind it
    starts, ends = _name_bounds(codes)
    sizes = ends - starts + 1
    if (long := np.flatnonzero(sizes > LONGEST + 1)).size:
        raise UserError(_too_long(source, line + _line_ends(text[: starts[long[0]]].encode())))
    # Keep every name and the one character behind it, in whose place the end mark goes.
    codes[ends] = ord(END)
    edges = np.zeros(len(codes) + 1, np.int8)
    edges[starts] = 1
    edges[ends + 1] -= 1
    codes = codes[edges[:-1].cumsum(dtype=np.int8).view(bool)]
    largest = codes.max(initial=0)
    smallest = np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.uint32
    return codes.astype(smallest), sizes.astype(np.int16)


def _too_long(source: str, line: int) -> str:
    return f"{source}, line {line}: longer than {LONGEST:,} characters; write one name a line"


def _line_ends(data: bytes) -> int:
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


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


def digests(corpus: Corpus) -> np.ndarray:
    """What tells the names of a list from others, (names,) int32: a polynomial of their ids, modulo 2**64 and mixed.

    Another name has the same one by chance, once in 4 billion for each name of the list.
    """
    powers = np.multiply.accumulate(np.full(corpus.sizes.max(initial=0), 0x9E3779B97F4A7C15, np.uint64))
    found, end = np.zeros(len(corpus), np.int32), 0
    for part in np.array_split(np.arange(len(corpus)), len(corpus) // NAMES + 1) if len(corpus) else ():
        sizes = corpus.sizes[part]
        starts = sizes.cumsum() - sizes
        begin, end = end, end + int(sizes.sum())
        place = np.arange(end - begin) - np.repeat(starts, sizes)
        sums = np.add.reduceat(corpus.ids[begin:end].astype(np.uint64) * powers[place], starts)
        sums = (sums ^ (sums >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        found[part] = (sums >> np.uint64(32)).astype(np.uint32).view(np.int32)
    return found
