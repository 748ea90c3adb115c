"""What makes a resumed run exact: where an epoch goes on, and the states of the random generators."""

import random
from typing import Any

import numpy as np
import torch

from namemlp.errors import UserError
from namemlp.lightning_internals import restore_logged_step


def batches_done(trainer: Any) -> int | None:
    """How many batches of its epoch a Trainer has finished, if it is about to fetch the next one; None otherwise.

    Between two batches all its counters agree. In every hook, where a callback may read the training loader, they do
    not: a batch or an epoch is ready but not yet started or completed, or a validation is running.
    """
    if trainer is None or not trainer.training or trainer.state.status != "running":
        return None
    epoch, batch = trainer.fit_loop.epoch_progress.current, trainer.fit_loop.epoch_loop.batch_progress.current
    if epoch.started != epoch.processed + 1 or not batch.ready == batch.started == batch.processed == batch.completed:
        return None
    return batch.ready


def correct_counters(trainer: Any) -> None:
    """Correct the Trainer's counters in `on_train_start` where a run is resumed between two epochs.

    Lightning 2.6 (`_FitLoop.on_advance_start`, `reset`) counts the finished epoch twice where the checkpoint was saved
    in `on_train_epoch_end`, skips the new one after `on_train_epoch_start`, and after the last batch does not count it.
    """
    loop, epoch = trainer.fit_loop, trainer.fit_loop.epoch_progress
    if loop.restarted_on_epoch_end or loop.restarted_on_epoch_start:
        for counts in (epoch.total, epoch.current):
            counts.completed = counts.processed
            counts.reset_on_restart()
        loop.epoch_loop.restarting = False
        loop.reset_restart_stage()
    elif loop.restarted_mid_epoch and epoch.current.processed == epoch.current.ready:
        loop.reset_restart_stage()
    restore_logged_step(trainer)


def get_rng_states() -> list[dict[str, Any]]:
    """The states of Python's, NumPy's and torch's generators in each process, in tensors and plain values."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    states = {
        "python": (version, torch.tensor(words), gauss),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch_cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [states]
    all_states = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(all_states, states)
    return all_states


def restore_rng_states(states: list[dict[str, Any]], rank: int) -> None:
    """Continue the generators of a process; one whose states were not saved is seeded for itself."""
    if rank >= len(states):
        if rank:
            torch.manual_seed(torch.initial_seed() + rank)
        return
    try:
        version, words, gauss = states[rank]["python"]
        random.setstate((version, tuple(words.tolist()), gauss))
        kind, keys, *rest = states[rank]["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(states[rank]["torch_cpu"])
        cuda = states[rank]["cuda"]
        if cuda and len(cuda) == torch.cuda.device_count():  # other GPUs keep their own
            torch.cuda.set_rng_state_all(cuda)
    except Exception as error:  # damaged states fail in many ways
        raise UserError("the checkpoint's rng_states are damaged: give another --ckpt_path") from error
