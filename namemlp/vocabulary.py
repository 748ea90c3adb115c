"""Characters <-> ids."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from namemlp.errors import UserError, shorten

END = "."  # marks the start and the end of a name; always id 0
MAX_CHARACTERS = 2**16  # more than all writing systems in use have together


def code_points(text: str) -> np.ndarray:  # (characters,) uint32
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


class Vocabulary:
    """The characters of a model, each with its id: the end mark `.` is 0, the others count from 1 in sorted order.

    Raises: UserError: the end mark is not first, a character stands twice or is a surrogate, or there are too many.
    """

    def __init__(self, characters: str) -> None:
        has_surrogates = any("\ud800" <= character <= "\udfff" for character in characters)
        if characters[:1] != END or len(set(characters)) != len(characters) or has_surrogates:
            shown = shorten(ascii(characters))
            raise UserError(f"vocabulary {shown} must start with {END!r} and hold each character once")
        if len(characters) > MAX_CHARACTERS:
            raise UserError(f"{len(characters):,} different characters exceed the maximum of {MAX_CHARACTERS:,}")
        self.characters = characters
        codes = code_points(characters)
        # One slot for each code point up to the largest, and a last one for everything beyond it.
        self._ids = np.full(int(codes.max()) + 2, -1, np.int32)
        self._ids[codes] = np.arange(len(characters))

    @classmethod
    def from_names(cls, names: Iterable[str]) -> "Vocabulary":  # of all characters in names
        return cls(END + "".join(sorted(set("".join(names)) - {END})))

    def __len__(self) -> int:
        return len(self.characters)

    def __str__(self) -> str:
        return self.characters

    @property
    def dtype(self) -> type[np.integer]:  # the smallest that holds every id and that torch can compute with
        return np.uint8 if len(self) <= 2**8 else np.int16 if len(self) <= 2**15 else np.int32

    def encode(self, text: str) -> Tensor:
        """The ids of a text, (characters,) int64. Raises: UserError: it has unknown characters, which are shown."""
        ids = self._ids.take(code_points(text), mode="clip")
        if (ids < 0).any():
            raise UserError(f"{shorten(repr(text))} has {self.describe_unknown(text)}")
        return torch.from_numpy(ids.astype(np.int64))

    def decode(self, ids: Tensor) -> str:  # (characters,)
        return "".join(self.characters[i] for i in ids.tolist())

    def describe_unknown(self, characters: Iterable[str]) -> str:
        """The characters that are not in the vocabulary, worded for an error message."""
        unknown = sorted(set(characters) - set(self.characters))
        shown = ", ".join(map(repr, unknown[:10])) + (", …" if len(unknown) > 10 else "")
        return f"{len(unknown)} character{'s'[: len(unknown) != 1]} that the model does not know: {shown}"
