"""Where a model is right and where it is wrong: by position, by length, by name, and how sure it is of it."""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from namemlp.network import eval_mode
from namemlp.vocabulary import Vocabulary
from namemlp.windows import ContextDataset

MAX_EXAMPLES = 2**17  # those of the first names of a split, which is shuffled
MAX_LOGITS, BATCH_LOGITS = 2**27, 2**22  # of a split, and at once: fewer examples where there are many characters
EDGES = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, *(i / 20 for i in range(1, 20))]  # of bins of probabilities
BINS, SHOWN = len(EDGES) + 1, 20  # likeliest and least likely names


class Evaluation(NamedTuple):
    """The losses of the first names of a split."""

    names: list[str]
    lengths: np.ndarray  # characters of each name and its end mark, (names,)
    losses: np.ndarray  # of each of their characters, in nats, (examples,)

    @property
    def name_losses(self) -> np.ndarray:  # mean over a name's characters and its end mark, (names,)
        return np.add.reduceat(self.losses, self.lengths.cumsum() - self.lengths) / self.lengths

    @property
    def positions(self) -> np.ndarray:  # of each character in its name, from 1, (examples,)
        return np.arange(len(self.losses)) - np.repeat(self.lengths.cumsum() - self.lengths, self.lengths) + 1


def evaluate_examples(network: nn.Module, vocabulary: Vocabulary, examples: ContextDataset) -> Evaluation:
    """Evaluate the whole names among the first examples of a split, by a network (B, T) ids -> (B, V) logits."""
    V, ids = len(vocabulary), examples.columns[-1]
    ends = np.flatnonzero(ids == 0) + 1  # behind each name
    ends = ends[ends <= max(ends[0], min(MAX_EXAMPLES, MAX_LOGITS // V))]
    device = next(network.parameters()).device
    with eval_mode(network):
        batches = (examples[part] for part in torch.arange(int(ends[-1])).split(max(1, BATCH_LOGITS // V)))
        parts = [F.cross_entropy(network(x.to(device)).float(), y.to(device), reduction="none") for x, y in batches]
    names, losses = vocabulary.decode_names(ids[: ends[-1]]), torch.cat(parts).cpu().double().numpy()
    return Evaluation(names, np.diff(ends, prepend=0), losses)


class Calibration(NamedTuple):
    """Pairs of an example and a character, by the probability that a model gives the character."""

    counts: np.ndarray  # pairs, (BINS,)
    predicted: np.ndarray  # mean of these probabilities, (BINS,)
    observed: np.ndarray  # share of the pairs whose character comes next, (BINS,)


def calibrate(network: nn.Module, vocabulary: Vocabulary, examples: ContextDataset) -> Calibration:
    """How sure a network is of each character for the first examples of a split, and how often it is right."""
    V, sums = len(vocabulary), torch.zeros(3, BINS, dtype=torch.float64)  # of pairs, probabilities, hits
    count = max(1, min(len(examples), MAX_EXAMPLES, MAX_LOGITS // V))
    with eval_mode(network):
        for part in torch.arange(count).split(max(1, BATCH_LOGITS // V)):
            x, y = examples[part]
            probabilities = network(x).float().softmax(1)  # (B, V)
            bins = torch.bucketize(probabilities, torch.tensor(EDGES), right=True)
            hits = torch.zeros_like(probabilities).scatter(1, y[:, None], 1)
            for total, weights in zip(sums, (torch.ones_like(hits), probabilities, hits), strict=True):
                total += torch.bincount(bins.flatten(), weights.double().flatten(), BINS)
    counts, predicted, observed = sums.numpy()
    return Calibration(counts, predicted / np.maximum(counts, 1), observed / np.maximum(counts, 1))


def describe_names_by_loss(evaluation: Evaluation) -> str:
    """The names with the lowest and with the highest loss per character, each once, as Markdown."""
    losses = dict(zip(evaluation.names, evaluation.name_losses.tolist(), strict=True))
    ordered = sorted(losses.items(), key=lambda item: item[1])
    count = max(1, min(SHOWN, len(ordered) // 2))
    parts = {"likeliest": ordered[:count], "least likely": ordered[::-1][:count]}
    text = ""
    for what, names in parts.items():
        text += f"The {what} names of the validation split, by their mean loss per character (nats):\n\n"
        text += "".join(f"- {loss:.4f} {name}\n" for name, loss in names) + "\n"
    return text.rstrip()
