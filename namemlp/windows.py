"""Context windows out of a flat stream, and the order in which training reads them."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from namemlp.errors import UserError


class ContextWindows(Dataset):
    """Examples (context, next character): the characters of a stream of names, each after the T before it.

    A context never reaches into the name before: what is not of its name counts as end marks.

    An index may be a number, a list, a slice or a tensor of numbers; with B examples asked for, the answer is
    (B, T) contexts and (B,) targets, int64; with a tensor of (K, B) numbers (K, B, T) and (K, B).

    Args:
        stream: T end marks, then names, each followed by one.
        context_length: T.
        examples: which of the characters after those T; all.
    """

    def __init__(self, stream: np.ndarray, context_length: int, examples: slice = slice(None)) -> None:
        stops = range(len(stream) - context_length, len(stream) + 1)
        self.columns = [stream[t:stop][examples] for t, stop in enumerate(stops)]  # T + 1 views: nothing is copied

    def __len__(self) -> int:
        return len(self.columns[0])

    def spread(self, count: int) -> Tensor:
        """The indices of so many examples (of all, if they are fewer) from the first to the last, (count,)."""
        # In 64 bits: of a long list the last would be beyond the end otherwise.
        return torch.linspace(0, len(self) - 1, min(len(self), count), dtype=torch.float64).long()

    def __getitem__(self, index: int | list[int] | slice | Tensor) -> tuple[Tensor, Tensor]:
        index = index.numpy() if isinstance(index, Tensor) else index
        # One column after the other: the first read of a place waits for the memory, the others find it in the cache.
        columns = [column[index] if isinstance(index, slice) else column.take(index) for column in self.columns]
        for t in range(len(columns) - 2, 0, -1):
            columns[t - 1] = columns[t - 1] * (columns[t] != 0)  # before an end mark there are but end marks
        rows = torch.from_numpy(np.stack(columns, -1)).long()  # (B, T + 1)
        return rows[..., :-1], rows[..., -1]


class TrainingOrder(Sampler[Tensor]):
    """Which examples go into which batch: one pass is what is left of an epoch, as (B,) tensors of indices.

    The order of epoch e is a pure function of (seed, e), and the place in it is `batches_read`, the number of batches
    that training has taken since its start: nothing else is needed to go on exactly where a run stopped.

    Where there are `blocks` (`namemlp.blocks.Blocks`), K batches are read at once, as (K, B) tensors; a smaller last
    batch of an epoch stays by itself. Of an update with fewer examples than processes some get none.

    Args:
        num_examples: size of the training split.
        batch_size: B; without replacement the last batch of an epoch may be smaller.
        seed: of the shuffles.
        replacement: draw every example independently, as the notebook does, instead of going through all of them.
        num_replicas: processes that train together; an update reads B examples for each of them.
        rank: which of these processes this is.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        seed: int,
        replacement: bool = False,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.num_examples = num_examples
        self.update_size = batch_size * num_replicas  # examples in an update
        self.seed = seed
        self.replacement = replacement
        self.num_replicas = num_replicas
        self.rank = rank
        self.batches_read = 0
        self.blocks: Any = None

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return -(-self.num_examples // self.update_size)

    def examples_in(self, batch: int) -> int:
        """How many examples all processes together read for a batch of an epoch."""
        if self.replacement:
            return self.update_size
        return min(self.update_size, self.num_examples - batch * self.update_size)

    def epoch(self, epoch: int) -> Tensor:
        """The indices of one epoch in the order in which they are read, (examples,) int32 (int64 for very many)."""
        # Hashed, because the generator takes 32 bits and seed + epoch would give neighbouring seeds the same epochs.
        seed = random.Random(f"{self.seed} {epoch}").getrandbits(32)
        generator = torch.Generator().manual_seed(seed)
        index = torch.int32 if self.num_examples < 2**31 else torch.int64
        if self.replacement:
            return torch.randint(self.num_examples, (len(self) * self.update_size,), dtype=index, generator=generator)
        return torch.randperm(self.num_examples, dtype=index, generator=generator)

    def __iter__(self) -> Iterator[Tensor]:
        if len(self) == 0:
            return
        epoch, batch = divmod(self.batches_read, len(self))
        order = self.epoch(epoch)
        while batch < len(self):
            count, full = 1, len(order) // self.update_size - batch
            in_blocks = self.blocks is not None and self.blocks.may_go_on()
            if in_blocks and full > 0:
                count = min(full, self.blocks.length(epoch * len(self) + batch, batch))
            read = order[batch * self.update_size : (batch + count) * self.update_size]
            if in_blocks:
                read = read.view(count, -1)  # (K, B)
            elif self.num_replicas > 1:
                read = read.tensor_split(self.num_replicas)[self.rank]
            batch += count
            yield read


class TrainingLoader(DataLoader):
    """A DataLoader over a `TrainingOrder` that can stop after any batch and go on with the next one.

    The Trainer saves and restores its state with every checkpoint. Batches that workers have prepared but training has
    not taken do not count.
    """

    sampler: TrainingOrder

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            count = 1
            if self.sampler.blocks and batch[1].dim() == 2:
                count = len(batch[1])
                self.sampler.blocks.count_batches(count - 1)
            self.sampler.batches_read += count
            yield batch

    def examples_in_update(self) -> int:
        """How many examples all processes together have in the batch that was read last."""
        return self.sampler.examples_in((self.sampler.batches_read - 1) % len(self.sampler))

    def state_dict(self) -> dict[str, int]:
        return {"batches_read": self.sampler.batches_read, "update_size": self.sampler.update_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that a state counts, or at the start of the epoch that it names.

        Raises:
            UserError: those batches had another size.
        """
        if "epoch" in state:
            self.sampler.batches_read = state["epoch"] * len(self.sampler)
            return
        if state["update_size"] != self.sampler.update_size:
            raise UserError(
                f"an update reads {self.sampler.update_size} examples here but {state['update_size']} in the "
                "checkpoint: set data.batch_size times the number of devices to that"
            )
        self.sampler.batches_read = state["batches_read"]
