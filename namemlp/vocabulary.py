"""Characters <-> ids."""

import numpy as np
import torch
from torch import Tensor

from namemlp.errors import UserError, shortened

END = "."  # the mark for the start and the end of a name; always id 0

LARGEST = 2**16  # characters; all that are in use in writing today are fewer, and in any list of names by far


def code_points(text: str) -> np.ndarray:
    """The Unicode code points of a text, (characters,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


class Vocabulary:
    """The characters of a model, each with its id: the end mark `.` is 0, the others count from 1 in sorted order.

    Args:
        characters: every character once, the end mark first.

    Raises:
        UserError: the end mark is not first, a character stands twice, something is no character (a surrogate), or
            there are too many.
    """

    def __init__(self, characters: str) -> None:
        surrogate = any("\ud800" <= character <= "\udfff" for character in characters)
        if characters[:1] != END or len(set(characters)) != len(characters) or surrogate:
            raise UserError(
                f"vocabulary {shortened(ascii(characters))} must start with {END!r} and hold each character once"
            )
        if len(characters) > LARGEST:
            raise UserError(f"{len(characters):,} different characters are more than a model can have, {LARGEST:,}")
        self.characters = characters
        codes = code_points(characters)
        # One slot for each code point up to the largest, and a last one for everything beyond it.
        self._ids = np.full(int(codes.max()) + 2, -1, np.int32)
        self._ids[codes] = np.arange(len(characters))

    @classmethod
    def of(cls, *parts: np.ndarray) -> "Vocabulary":
        """The vocabulary of all code points in arrays of them."""
        present = np.zeros(0x110000, bool)
        for codes in parts:
            present[codes] = True
        present[ord(END)] = False
        return cls(END + "".join(map(chr, present.nonzero()[0])))

    def __len__(self) -> int:
        return len(self.characters)

    def __str__(self) -> str:
        return self.characters

    @property
    def dtype(self) -> type[np.integer]:
        """The smallest integer type that holds every id and that torch can compute with."""
        return np.uint8 if len(self) <= 2**8 else np.int16 if len(self) <= 2**15 else np.int32

    def ids(self, codes: np.ndarray) -> np.ndarray:
        """The ids of code points, same shape; -1 for a character that is not in the vocabulary."""
        return self._ids.take(codes, mode="clip")

    def encode(self, text: str) -> Tensor:
        """The ids of a text, (characters,) int64.

        Raises:
            UserError: characters that the vocabulary does not have; they are shown.
        """
        ids = self.ids(code_points(text))
        if (ids < 0).any():
            raise UserError(f"{text!r} has {self.unknown(text)}")
        return torch.from_numpy(ids.astype(np.int64))

    def decode(self, ids: Tensor) -> str:
        """The text of (characters,) ids."""
        return "".join(self.characters[i] for i in ids.tolist())

    def unknown(self, text: str) -> str:
        """The characters of a text that the vocabulary does not have, worded for an error message."""
        characters = sorted(set(text) - set(self.characters))
        shown = ", ".join(map(repr, characters[:10])) + (", …" if len(characters) > 10 else "")
        return f"{len(characters)} character{'s'[: len(characters) != 1]} that the model does not know: {shown}"
