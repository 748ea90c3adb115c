"""Characters <-> ids."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from namemlp.errors import UserError, shorten

END, NUL = ".", "\0"  # both stand for id 0, the start and the end of a name: where it is shown, and between names
MAX_CHARACTERS = 2**16  # more than all writing systems in use have together


def code_points(text: str) -> np.ndarray:  # (characters,) uint32
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


class Vocabulary:
    """The characters of a model, each with its id: the end mark `.` is 0, the others count from 1 in sorted order.

    Among the others `.` is the full stop, as in "St. Ives"; only lists that have it give it an id.

    Raises: UserError: the end mark is not first, another stands twice, is NUL or a surrogate, or there are too many.
    """

    def __init__(self, characters: str) -> None:
        is_invalid = any(character == NUL or "\ud800" <= character <= "\udfff" for character in characters)
        if is_invalid or characters[:1] != END or len(set(characters[1:])) != len(characters) - 1:
            shown = shorten(ascii(characters))
            raise UserError(f"vocabulary {shown} must start with {END!r} and then hold each character once")
        if len(characters) > MAX_CHARACTERS:
            raise UserError(f"{len(characters):,} different characters exceed the maximum of {MAX_CHARACTERS:,}")
        self.characters = characters
        codes = code_points(characters)
        # One slot for each code point up to the largest, and a last one for everything beyond it.
        self._ids = np.full(int(codes.max()) + 2, -1, np.int32)
        self._ids[codes] = np.arange(len(characters))  # of two `.` the last counts
        self._ids[ord(NUL)] = 0

    @classmethod
    def from_names(cls, names: Iterable[str]) -> "Vocabulary":  # of all characters in names
        return cls(END + "".join(sorted(set("".join(names)))))

    def __len__(self) -> int:
        return len(self.characters)

    def __str__(self) -> str:
        return self.characters

    @property
    def dtype(self) -> type[np.integer]:  # the smallest that holds every id and that torch can compute with
        return np.uint8 if len(self) <= 2**8 else np.int16 if len(self) <= 2**15 else np.int32

    def encode(self, text: str) -> Tensor:
        """The ids of a text, (characters,) int64; a NUL, or a `.` without an id, is the end mark. Raises: UserError."""
        ids = self._ids.take(code_points(text), mode="clip")
        if (ids < 0).any():
            raise UserError(f"{shorten(repr(text))} has {self.describe_unknown(set(text) - {END, NUL})}")
        return torch.from_numpy(ids.astype(np.int64))

    def decode(self, ids: Tensor) -> str:  # (characters,)
        return "".join(self.characters[i] for i in ids.tolist())

    def decode_names(self, ids: np.ndarray) -> list[str]:  # names, each followed by an end mark
        return code_points(NUL + self.characters[1:]).take(ids).tobytes().decode("utf-32-le").split(NUL)[:-1]

    def describe_unknown(self, characters: Iterable[str]) -> str:
        """The characters that no name of the model has, worded for an error message."""
        unknown = sorted(set(characters) - set(self.characters[1:]))
        shown = ", ".join(map(repr, unknown[:10])) + (", …" if len(unknown) > 10 else "")
        return f"{len(unknown)} character{'s'[: len(unknown) != 1]} that the model does not know: {shown}"
