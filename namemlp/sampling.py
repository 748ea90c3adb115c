"""New names out of a model, many at a time, and how likely a name is."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from namemlp.corpus import LONGEST, Corpus, digests
from namemlp.errors import UserError, shortened
from namemlp.network import evaluating
from namemlp.splits import flat_stream
from namemlp.vocabulary import Vocabulary, code_points
from namemlp.windows import ContextWindows

LARGEST_TABLE = 2**24  # probabilities, of 8 bytes each
PART = 2**21  # numbers that are worked on at once
MOST_NAMES = 10**8
MOST_IN_VAIN = 100_000  # draws in a row that bring no name


class Generation:
    """What a `NameModule` is trained for: new names out of its `network`, and how likely a name is.

    Attributes:
        known_names: `digests` of the names that it was trained on, sorted, (names,) int32; none before training.
    """

    network: nn.Module
    vocabulary: Vocabulary
    hparams: Any
    known_names: np.ndarray

    def sample(
        self,
        num_names: int = 20,
        prefix: str = "",
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int | None = None,
        max_length: int = 100,
        novel: bool = False,
        unique: bool = False,
    ) -> list[str]:
        """Draw names. (None is empty: an end mark in the first place is never drawn.)

        Args:
            num_names: how many
            prefix: what each of them begins with
            temperature: below 1 makes likely characters likelier, above 1 less so
            top_k: draw only among so many of the likeliest characters; null: among all
            seed: gives the same names again, and the first of them where fewer are asked for; null: others each time
            max_length: characters; a name that has not ended by then is cut off there
            novel: leave out names of the list that the model was trained on, validation and test included
            unique: leave out names that have come before

        Raises:
            UserError: a number is out of its range, the prefix has characters that the model does not know, or there
                are not as many names.
        """
        for name, value in dict(num_names=num_names, top_k=top_k, max_length=max_length).items():
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: it must be at least 1")
        if num_names > MOST_NAMES:
            raise UserError(
                f"num_names is {num_names:,}: at most {MOST_NAMES:,} are held at once, draw the rest with other seeds"
            )
        if not 0 < temperature < math.inf:
            raise UserError(f"temperature is {temperature}: it must be above 0; top_k 1 takes the likeliest character")
        if seed is not None and not 0 <= seed < 2**64:
            raise UserError(f"seed is {seed}: it must be from 0 to 2**64 - 1")
        if not len(prefix) <= max_length <= LONGEST:
            least = f"{len(prefix)}, as long as the prefix," if prefix else "1"
            raise UserError(f"max_length is {max_length}: it must be from {least} to {LONGEST:,}")
        if novel and not len(self.known_names):
            raise UserError("novel: this model does not tell which names it was trained on: leave it out")
        seed = torch.randint(2**62, ()).item() if seed is None else seed
        try:
            prefix_ids = torch.from_numpy(Corpus.of([prefix], self.vocabulary).ids[:-1])
        except UserError as error:
            raise UserError(f"prefix {error}; it knows {shortened(str(self.vocabulary)[1:])}") from None

        size, context_length = len(self.vocabulary), self.hparams.context_length
        next_characters = NextCharacters(self.network, size, context_length, temperature, top_k)
        if size**context_length <= min(8 * num_names, LARGEST_TABLE // size):  # a name has about 8 characters
            next_characters.make_table()
        names, seen, drawn, found_at = [], set(), 0, 0
        batch, largest = num_names, max(4, PART // max(size, max_length))
        while len(names) < num_names:
            batch = -(-min(batch, largest) // 4) * 4  # as `uniform` needs it
            ids = draw(next_characters, prefix_ids, seed, drawn, batch, max_length)
            found = self._strings(ids)
            if novel:
                found = [name for name, known in zip(found, self.knows(found), strict=True) if not known]
            if unique:
                found = [name for name in dict.fromkeys(found) if name not in seen]
                seen.update(found)
            names += found
            drawn += batch
            found_at = drawn if found else found_at
            if drawn - found_at >= MOST_IN_VAIN:
                raise UserError(f"only {len(names):,} such names came in {drawn:,} draws: ask for fewer")
            batch = max(num_names - len(names), 2 * batch if novel or unique else 0)
        return names[:num_names]

    def knows(self, names: Sequence[str]) -> list[bool]:
        """Of each name, whether it is in the list that the model was trained on."""
        asked, known = digests(Corpus.of(names, self.vocabulary)), self.known_names
        nearest = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        return (known[nearest] == asked).tolist() if len(known) else [False] * len(names)

    def score(self, names: Sequence[str]) -> Tensor:
        """The log-probability of each name with its end, in nats, (names,) float64.

        Raises:
            UserError: the model does not know some characters.
        """
        if not names:
            return torch.zeros(0, dtype=torch.float64)
        corpus = Corpus.of(names, self.vocabulary)
        context_length = self.hparams.context_length
        windows = ContextWindows(flat_stream(corpus, np.arange(len(corpus)), context_length), context_length)
        with evaluating(self):
            parts = torch.arange(len(windows)).split(2048)
            scores = [self.predict_step([part.to(self.device) for part in windows[part]], 0).cpu() for part in parts]
        return per_name(corpus, torch.cat(scores))

    def _strings(self, ids: Tensor) -> list[str]:
        """The names in (names, L) ids, with zeros behind each."""
        codes = code_points("\0" + self.vocabulary.characters[1:]).take(ids)
        return codes.view(f"U{codes.shape[1]}")[:, 0].tolist()


class NextCharacters:
    """The distribution of the next character after any context, as running sums.

    Worked out in 64 bits on the CPU, so that a name is the same whatever is drawn beside it, and on any device.

    Args:
        network: (B, T) ids -> (B, V) logits.
        size: V.
        context_length: T.
        temperature: what the logits are divided by.
        top_k: characters that may be drawn, the likeliest; None: all.
    """

    def __init__(self, network: nn.Module, size: int, context_length: int, temperature: float, top_k: int | None):
        if not all(weights.isfinite().all() for weights in network.parameters()):
            raise UserError("the model's weights are not finite, so that it gives no names: give another checkpoint")
        self.network = copy.deepcopy(network).to("cpu", torch.float64).eval()
        self.temperature, self.top_k = temperature, top_k
        self.size, self.context_length = size, context_length
        self.places = size ** torch.arange(context_length)  # of a context in the table, as digits of its row
        self.table: Tensor | None = None

    def make_table(self) -> None:
        """Work out the distributions of all V**T contexts beforehand, (V**T, V)."""
        rows = torch.arange(self.size**self.context_length)
        self.table = self._running_sums(rows[:, None] // self.places % self.size)

    def draw(self, contexts: Tensor, uniform: Tensor) -> Tensor:
        """The next characters, (B,) ids, of (B, T) contexts by (B,) numbers uniform in [0, 1)."""
        if self.table is None:
            sums = self._running_sums(contexts)
        else:
            sums = self.table.index_select(0, (contexts * self.places).sum(1))  # (B, V)
        return torch.searchsorted(sums, uniform[:, None], right=True)[:, 0]

    @torch.inference_mode()
    def _running_sums(self, contexts: Tensor) -> Tensor:  # (B, T) -> (B, V)
        parts = [self._part(part) for part in contexts.split(2048)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _part(self, contexts: Tensor) -> Tensor:
        logits = self.network(contexts)
        if (start := (contexts == 0).all(1)).any():
            logits[start, 0] = -torch.inf  # a name has at least one character
        if self.top_k is not None and self.top_k < self.size:
            likeliest = logits.topk(self.top_k).indices
            logits = torch.full_like(logits, -torch.inf).scatter(1, likeliest, logits.gather(1, likeliest))
        if self.temperature != 1:  # less their largest, so that none becomes infinite
            logits = (logits - logits.amax(1, keepdim=True)) / self.temperature
        sums = logits.softmax(1).cumsum(1)
        return sums / sums[:, -1:]  # exactly 1 in the end


def draw(next_characters: NextCharacters, prefix: Tensor, seed: int, first: int, count: int, max_length: int) -> Tensor:
    """Names number `first` to `first + count - 1` of a seed's, (count, L) ids with zeros behind each."""
    context_length, start = next_characters.context_length, len(prefix)
    longest = start
    names = torch.zeros(count, context_length + max_length, dtype=torch.int32)  # after T zeros
    names[:, context_length : context_length + start] = prefix
    going_on = torch.arange(count)  # finished names leave the batch
    for t in range(start, max_length):
        contexts = names[:, t : t + context_length].index_select(0, going_on).long()  # (B, T)
        drawn = next_characters.draw(contexts, uniform(seed, t, first, count).index_select(0, going_on))
        unfinished = drawn.nonzero()[:, 0]
        if not len(unfinished):
            break
        going_on = going_on.index_select(0, unfinished)
        names[going_on, context_length + t] = drawn.index_select(0, unfinished).int()
        longest = t + 1
    return names[:, context_length : context_length + longest]


def uniform(seed: int, place: int, first: int, count: int) -> Tensor:
    """The numbers in [0, 1) by which names, from number `first` on, draw their character at a place, (count,).

    A function of seed, place and number alone. `first` is a multiple of 4, which is what the generator makes at a time.
    """
    generator = np.random.Philox(key=np.array([seed, place], np.uint64), counter=first // 4)
    return torch.from_numpy(np.random.Generator(generator).random(count))


def per_name(corpus: Corpus, of_characters: Tensor) -> Tensor:
    """The sums over each name of (examples,) log-probabilities, (names,) float64."""
    return torch.segment_reduce(of_characters.double(), "sum", lengths=torch.from_numpy(corpus.sizes).long())
