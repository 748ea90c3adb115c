"""Which names go to which split, and the stream in which training reads them."""

import random
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from namemlp.corpus import NAMES, Corpus
from namemlp.errors import UserError


def shuffled_order(n: int, seed: int, shuffles: int) -> np.ndarray:
    """The order of a list of n names that was shuffled again and again in place, each time from the same seed.

    Source: the notebook's `random.seed(42); random.shuffle(words)`, whose cell had been run three times.

    Returns:
        (n,) int32 (int64 for a very long list): what stands at place i of the shuffled list is name order[i] of the
        file.
    """
    index = np.int32 if n < 2**31 else np.int64
    once = array(np.dtype(index).char, np.arange(n, dtype=index).tobytes())  # a list of numbers would be ten times this
    random.Random(seed).shuffle(once)
    order, again = np.arange(n, dtype=index), np.frombuffer(once, index)
    while shuffles:  # by squaring: twice as often at each turn
        if shuffles % 2:
            order = order[again]
        if shuffles := shuffles // 2:
            again = again[again]
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


def flat_stream(corpus: Corpus, order: np.ndarray, zeros: int) -> np.ndarray:
    """Lay the names out in the given order, each followed by the end mark, after so many zeros.

    Args:
        corpus: the names.
        order: which names, in which order, (n,) integers.
        zeros: at least the context length.

    Returns:
        (zeros + examples,) ids, in the type of the corpus.
    """
    starts = corpus.sizes.cumsum() - corpus.sizes
    stream = np.zeros(zeros + corpus.sizes[order].sum(), corpus.ids.dtype)
    end = zeros
    for part in np.array_split(order, len(order) // NAMES + 1):
        sizes = corpus.sizes[part]
        places = np.arange(sizes.sum()) + np.repeat(starts[part] - (sizes.cumsum() - sizes), sizes)
        stream[end : end + len(places)] = corpus.ids[places]
        end += len(places)
    return stream


def split_stream(corpus: Corpus, names: Sequence[int], seed: int, shuffles: int, zeros: int) -> dict[str, Any]:
    """The shuffled names as a `flat_stream`, and before which example validation (first) and test (second) begin.

    Args:
        corpus: the names.
        names: how many of them go to training, validation and test.
        seed: of the shuffles.
        shuffles: how often the list is shuffled.
        zeros: ahead of the stream.
    """
    order = shuffled_order(len(corpus), seed, shuffles)
    first, second = (int(corpus.sizes[order[:cut]].sum()) for cut in (names[0], names[0] + names[1]))
    return dict(stream=flat_stream(corpus, order, zeros), first=first, second=second)
