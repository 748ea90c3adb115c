"""Counting models of names: how often a character follows the n - 1 before it, smoothed three ways.

Additive smoothing adds a constant to each count. Interpolation mixes in the model with one character less: by the
number of different followers (Witten and Bell 1991, method C), or by an absolute discount with lower orders that count
in how many contexts a character is seen (Kneser and Ney 1995; Chen and Goodman 1999, section 2.7).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from namemlp.corpus import Splits

MAX_N, MAX_EXAMPLES = 6, 2**20  # that `best_ngram` counts, in less than half a second
CONSTANTS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # that additive smoothing tries
Table = tuple[np.ndarray, np.ndarray]  # of a level: P(x | context) = share(context, x) + rest(context) * P(x | shorter)


class Level(NamedTuple):
    """The examples of a list, each with so many characters as its context; left of a name are end marks."""

    keys: np.ndarray  # the distinct pairs (context, next character), as context * V + next, sorted, (P,)
    counts: np.ndarray  # of these in training, (P,)
    pair: np.ndarray  # of each example, an index of keys, (examples,)
    context: np.ndarray  # of each example, below num_contexts, (examples,)
    contexts: np.ndarray  # of each pair, (P,)
    num_contexts: int


class CountingModel(NamedTuple):  # printed as "4-gram, add 0.1"
    n: int  # characters of an n-gram
    smoothing: str
    losses: tuple[float, float, float]  # in nats per character: train, val, test
    constant: float = 0.0  # of additive smoothing

    def __str__(self) -> str:
        return f"{self.n}-gram, {self.smoothing}"

    def format_losses(self) -> str:
        return "  ".join(
            f"{split} {loss:.4f}" for split, loss in zip(("train", "val", "test"), self.losses, strict=True)
        )


def count_ngrams(splits: Splits, max_n: int) -> Iterator[Level]:
    """Count the 1- to n-grams of the training split: a level after the other."""
    V, ids = len(splits.characters), splits.ids
    context, num_contexts = np.zeros(len(ids), np.int32), 1
    for _ in range(max_n):
        keys, pair = np.unique(context * np.int64(V) + ids, return_inverse=True)
        pair = pair.astype(np.int32)
        counts, contexts = np.bincount(pair[: splits.val_start], minlength=len(keys)), keys // V
        yield Level(keys, counts, pair, context, contexts, num_contexts)
        # One character more: the context of an example is the pair of the one before it in its name, or its start.
        context, num_contexts = np.full(len(ids), len(keys), np.int32), len(keys) + 1
        context[1:] = np.where(ids[:-1] == 0, len(keys), pair[:-1])


def additive(level: Level, V: int, constant: float) -> Table:
    return interpolate(level, level.counts, constant * V)


def witten_bell(level: Level) -> Table:
    return interpolate(level, level.counts, followers(level, level.counts))


def kneser_ney(level: Level, next_level: Level | None) -> Table:
    """As a level below the next one, which counts contexts instead of examples; None: as the highest."""
    counts = level.counts
    if next_level is not None:
        shorter = np.empty(len(next_level.keys), np.int32)  # the pair of this level that each of the next one ends with
        shorter[next_level.pair] = level.pair
        counts = np.bincount(shorter[next_level.counts > 0], minlength=len(level.keys))
    once, twice = (np.count_nonzero(counts == count) for count in (1, 2))
    discount = once / (once + 2 * twice) if once else 0.5
    return interpolate(level, np.maximum(counts - discount, 0), discount * followers(level, counts))


def followers(level: Level, counts: np.ndarray) -> np.ndarray:  # distinct ones of each context, (contexts,)
    return np.bincount(level.contexts[counts > 0], minlength=level.num_contexts)


def interpolate(level: Level, counts: np.ndarray, weight: np.ndarray | float) -> Table:
    """Shares of counts beside a weight of the shorter contexts; a context that was not counted has only these."""
    totals = np.bincount(level.contexts, counts, minlength=level.num_contexts) + weight
    rest = np.divide(weight, totals, out=np.ones(level.num_contexts), where=totals > 0)
    return counts / np.maximum(totals, 1e-9)[level.contexts], rest


def mix(level: Level, table: Table, shorter: np.ndarray | float, part: slice = slice(None)) -> np.ndarray:
    """The probability of each example of a part of the list, (examples,)."""
    share, rest = table
    return share[level.pair[part]] + rest[level.context[part]] * shorter


def evaluate_counting(splits: Splits, max_n: int, additive_only: bool = False) -> Iterator[CountingModel]:
    """The losses of all counting models up to n, each additive constant chosen by the validation loss."""
    V, val = len(splits.characters), slice(splits.val_start, splits.test_start)
    uniform = 1 / V
    bell = ney = uniform
    previous = None
    for n, level in enumerate(count_ngrams(splits, max_n), 1):
        val_losses = {a: -np.log(mix(level, additive(level, V, a), uniform, val)).mean() for a in CONSTANTS}
        constant = min(val_losses, key=val_losses.get)
        losses = split_losses(mix(level, additive(level, V, constant), uniform), splits)
        yield CountingModel(n, f"add {constant:g}", losses, constant)
        if additive_only:
            continue
        bell = mix(level, witten_bell(level), bell)
        yield CountingModel(n, "Witten-Bell", split_losses(bell, splits))
        if previous is not None:
            ney = mix(previous, kneser_ney(previous, level), ney)
        yield CountingModel(n, "Kneser-Ney", split_losses(mix(level, kneser_ney(level, None), ney), splits))
        previous = level


def best_ngram(splits: Splits) -> CountingModel | None:
    """The additive model with the lowest validation loss, what runs stand beside; None for a list that is too long."""
    if len(splits.ids) > MAX_EXAMPLES:
        return None
    return min(evaluate_counting(splits, MAX_N, additive_only=True), key=lambda model: model.losses[1])


def split_losses(probabilities: np.ndarray, splits: Splits) -> tuple[float, ...]:
    parts = np.split(probabilities, [splits.val_start, splits.test_start])
    return tuple(float(-np.log(part).mean()) for part in parts)


class NgramNetwork(nn.Module):
    """A counting model as a network, (B, T) ids -> (B, V) log-probabilities, with T = n - 1, or 1 for n = 1."""

    def __init__(self, splits: Splits, model: CountingModel) -> None:
        super().__init__()
        self.size, self.n = len(splits.characters), model.n
        levels = [*count_ngrams(splits, model.n)]
        for k, level in enumerate(levels):
            if model.smoothing == "Kneser-Ney":
                table = kneser_ney(level, levels[k + 1] if k + 1 < len(levels) else None)
            elif model.smoothing == "Witten-Bell":
                table = witten_bell(level)
            else:  # the shorter contexts do not count
                is_last = level is levels[-1]
                share, rest = additive(level, self.size, model.constant)
                table = (share, rest) if is_last else (0 * share, 0 * rest + 1)
            for name, array in zip(("keys", "share", "rest"), (level.keys, *table), strict=True):
                self.register_buffer(f"{name}_{k}", torch.from_numpy(array))

    def forward(self, x: Tensor) -> Tensor:  # (B, T) -> (B, V)
        probabilities = torch.full((len(x), self.size), 1 / self.size, dtype=torch.float64)
        for k in range(self.n):
            keys, share, rest = (self.get_buffer(f"{name}_{k}") for name in ("keys", "share", "rest"))
            context = self.find_contexts(x[:, x.shape[1] - k :])  # (B,)
            is_known = context >= 0
            probabilities[is_known] *= rest[context[is_known], None]
            first, end = (torch.searchsorted(keys, (context + shift) * self.size) for shift in (0, 1))
            width = (end - first) * is_known  # pairs of each context, (B,)
            row = torch.arange(len(x)).repeat_interleave(width)
            pair = torch.arange(len(row)) + (first - width.cumsum(0) + width)[row]
            probabilities[row, keys[pair] % self.size] += share[pair]
        return probabilities.log()

    def find_contexts(self, x: Tensor) -> Tensor:  # (B, k) -> (B,) numbers of contexts, -1: not in the list
        context = torch.zeros(len(x), dtype=torch.long)
        for k, characters in enumerate(x.T):  # (B,)
            keys = self.get_buffer(f"keys_{k}")
            pair = torch.searchsorted(keys, key := context * self.size + characters).clamp(max=len(keys) - 1)
            context = torch.where((keys[pair] == key) & (context >= 0), pair, -1)
            context = torch.where(characters == 0, len(keys), context)  # before the name
        return context
