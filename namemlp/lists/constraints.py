"""Which of the sampled names are wanted."""

import itertools
import re
from collections.abc import Sequence

import numpy as np

from namemlp.errors import UserError, check_range

MAX_PAIRS = 2**24  # of sampled and known names that are compared at once


class Constraints:
    """Says which names of a batch are accepted, and counts them: what `sample_names` takes as `accept`.

    Args:
        min_length: characters
        suffix: common end
        contains: common part
        pattern: regular expression that the whole name matches
        avoid: parts that no name has, in upper or lower case
        apart: edit distance (insertions, deletions, substitutions) that a name keeps from all known names
        known_names: those of the list that the model was trained on, for `apart`

    Raises: UserError: a number is out of range, the pattern is no regular expression, or there are no known names.
    """

    def __init__(
        self,
        min_length: int = 1,
        suffix: str = "",
        contains: str = "",
        pattern: str | None = None,
        avoid: Sequence[str] = (),
        apart: int | None = None,
        known_names: Sequence[str] = (),
    ) -> None:
        check_range(1, min_length=min_length, apart=apart)
        if apart is not None and not len(known_names):
            raise UserError(f"apart is {apart}: give known_names, the names to compare with")
        try:
            whole_name = re.compile(pattern or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(f"pattern {pattern!r} is not a regular expression: {error}") from None
        avoided = re.compile("|".join(re.escape(part.casefold()) for part in avoid))
        checks = [
            (min_length > 1, lambda name: len(name) >= min_length),
            (suffix, lambda name: name.endswith(suffix)),
            (contains, lambda name: contains in name),
            (pattern is not None, whole_name.fullmatch),
            (avoid, lambda name: not avoided.search(name.casefold())),
        ]
        self.checks = [check for is_asked_for, check in checks if is_asked_for]
        self.apart, self.known_names = apart, [*dict.fromkeys(known_names)]
        self.num_drawn = self.num_accepted = 0

    def __call__(self, names: list[str]) -> list[bool]:
        accepted = [*range(len(names))]
        for check in self.checks:  # each reads only what those before it have accepted
            accepted = [i for i in accepted if check(names[i])]
        if self.apart is not None:
            accepted = [*itertools.compress(accepted, self._are_apart([names[i] for i in accepted]))]
        self.num_drawn += len(names)
        self.num_accepted += len(accepted)
        is_accepted = np.zeros(len(names), bool)
        is_accepted[accepted] = True
        return is_accepted.tolist()

    def _are_apart(self, names: list[str]) -> np.ndarray:  # (names,) bool
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist

        settings = dict(scorer=Levenshtein.distance, score_cutoff=self.apart - 1, dtype=np.uint16, workers=-1)
        is_apart, size = np.ones(len(names), bool), max(1, MAX_PAIRS // max(1, len(names)))
        for start in range(0, len(self.known_names), size):  # names that are too near are not compared any more
            rest = np.flatnonzero(is_apart)
            distances = cdist([names[i] for i in rest], self.known_names[start : start + size], **settings)
            is_apart[rest] = distances.min(1) >= self.apart
        return is_apart
