"""`namemlp describe`: what is in a list and what to set for it, without Lightning."""

import sys
from typing import Literal

from namemlp.corpus import BUNDLED, make_splits, read_names
from namemlp.lists import describe_names


def describe(
    path: str | None = None,
    lowercase: bool = False,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
    shuffles: int = 1,
    split_seed: int = 42,
    duplicates: Literal["keep", "drop", "together"] = "keep",
) -> None:
    """Print what is in a list: names, characters, lengths, case, repeated names, and advice."""
    names = read_names(path, lowercase)
    splits = make_splits(names, None, split, split_seed, shuffles, path or BUNDLED, duplicates)
    sys.stdout.reconfigure(encoding="utf-8")
    for subject, text in describe_names(names, splits, path):
        print(f"{subject:<17}{text}")
