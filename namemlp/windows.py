"""Training examples out of a stream of names, and the order in which training reads them."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from namemlp.resume import batches_done


class ContextDataset(Dataset):
    """Examples (context, next character): each character of a stream of names, after the T before it in its name.

    Left of the start of a name are end marks. `ids` are names, each followed by an end mark. An index is a number, a
    list, a slice or a tensor: (B,) gives (B, T) contexts and (B,) targets, (K, B) gives (K, B, T) and (K, B).
    """

    def __init__(self, ids: np.ndarray, context_length: int) -> None:
        stream = np.concatenate([np.zeros(context_length, ids.dtype), ids])
        stops = range(len(ids), len(stream) + 1)
        self.columns = [stream[t:stop] for t, stop in enumerate(stops)]  # T + 1 views: nothing is copied

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int | list[int] | slice | Tensor) -> tuple[Tensor, Tensor]:
        # Column by column: the first read of a place waits for the memory, the others find it in the cache.
        index = index if isinstance(index, slice) else np.asarray(index)
        columns = [column[index] if isinstance(index, slice) else column.take(index) for column in self.columns]
        for t in range(len(columns) - 2, 0, -1):
            columns[t - 1] = columns[t - 1] * (columns[t] != 0)  # left of an end mark there are only end marks
        rows = torch.from_numpy(np.stack(columns, -1)).long()  # (B, T + 1)
        return rows[..., :-1], rows[..., -1]

    def __getitems__(self, indices: list[int]) -> TensorDataset:  # stacked, so that `collate` need not do it one by one
        return TensorDataset(*self[indices])


def collate(examples: TensorDataset) -> tuple[Tensor, ...]:
    return examples.tensors


class EpochSampler(DistributedSampler):
    """The order of the examples in an epoch, a pure function of (seed, epoch).

    Reading it changes nothing. Until a Trainer calls `set_epoch`, each pass is the next epoch, as in a plain loop over
    a DataLoader that shuffles. An epoch that was interrupted begins where the counters of the trainer stand; any other
    reader sees whole epochs. `processes` are how many share an epoch (with `batch_size` examples in a step for each)
    and the number of this one; None: as torch.distributed has them.
    """

    def __init__(
        self, dataset: Any, batch_size: int, seed: int, replacement: bool = False, trainer: Any = None,
        processes: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(dataset, num_replicas=1, rank=0, seed=seed)  # a loader may be made before there are others
        self.batch_size, self.replacement, self.trainer = batch_size, replacement, trainer
        self._processes, self._epoch_is_set, self._passes, self._last_order = processes, False, 0, (None, None)

    @property
    def processes(self) -> tuple[int, int]:
        if self._processes or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self._processes or (1, 0)
        return torch.distributed.get_world_size(), torch.distributed.get_rank()

    @property
    def step_size(self) -> int:  # examples that all processes together read in a step
        return self.batch_size * self.processes[0]

    @property
    def epoch_size(self) -> int:  # examples that all processes together read in an epoch
        n = len(self.dataset)
        return -(-n // self.step_size) * self.step_size if self.replacement else n

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self._epoch_is_set = epoch, True

    def __len__(self) -> int:  # examples that this process reads in an epoch
        full, rest = divmod(self.epoch_size, self.step_size)
        return full * self.batch_size + (max(1, self._share(rest)) if rest else 0)

    def _share(self, examples: int) -> int:  # how many of the examples of a step are of this process
        count, process = self.processes
        return examples // count + (process < examples % count)

    def loss_weight(self, batch: int) -> float:
        """How much this process counts in the mean over processes: not 1 where a last step is shared unevenly."""
        examples = min(self.step_size, self.epoch_size - batch * self.step_size)
        return self._share(examples) * self.processes[0] / examples

    def order(self, epoch: int) -> Tensor:
        """The indices of the examples in the order of an epoch, (epoch_size,) int32 (int64 for very many)."""
        size = self.epoch_size
        if self._last_order[0] != (epoch, size):
            # Hashed, because the generator takes 32 bits and seed + epoch would give neighbouring seeds equal epochs.
            seed = random.Random(f"{self.seed} {epoch}").getrandbits(32)
            generator, n = torch.Generator().manual_seed(seed), len(self.dataset)
            settings = dict(dtype=torch.int32 if n < 2**31 else torch.int64, generator=generator)
            order = torch.randint(n, (size,), **settings) if self.replacement else torch.randperm(n, **settings)
            self._last_order = (epoch, size), order
        return self._last_order[1]

    def batches(self, first: int, count: int) -> Tensor:  # full ones of this process and epoch, (count, B) indices
        steps = self.order(self.epoch)[first * self.step_size : (first + count) * self.step_size]
        processes, process = self.processes
        return steps.view(count, processes, self.batch_size)[:, process]

    def __iter__(self) -> Iterator[int]:
        epoch, self._passes = (self.epoch if self._epoch_is_set else self._passes), self._passes + 1
        order, batch, (processes, process) = self.order(epoch), 0, self.processes
        # Asked before every batch: a strategy may have made steps of its own in between.
        while (batch := max(batch, batches_done(self.trainer) or 0)) * self.step_size < len(order):
            step = order[batch * self.step_size : (batch + 1) * self.step_size]
            share = step.tensor_split(processes)[process]
            # Processes need as many batches as each other: one without examples reads one that has no weight.
            yield from (share if len(share) else step[:1]).tolist()
            batch += 1

    def __getstate__(self) -> dict[str, Any]:  # a copy, as of a worker, is not read by a Trainer
        return {**vars(self), "trainer": None, "_last_order": (None, None)}


class TrainingLoader(DataLoader):
    """A DataLoader that begins only when its first batch is asked for."""

    def __iter__(self) -> Iterator[Any]:  # the Trainer calls it before it sets the epoch or restores its counters
        yield from super().__iter__()

    # Resumed by the Trainer's counters alone; with these methods it does not warn that a loader cannot be resumed.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
