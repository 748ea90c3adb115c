"""The random generators that training may draw from: a dropout's, a callback's."""

import random
from typing import Any

import numpy as np
import torch
from lightning import Trainer

from namemlp.errors import UserError


def random_states(trainer: Trainer) -> list[dict[str, Any]]:
    """The states of Python's, NumPy's and torch's generators in each process, in tensors and plain values."""
    ours = process_states(trainer.strategy.root_device)
    if trainer.world_size == 1:
        return [ours]
    states = [None] * trainer.world_size
    torch.distributed.all_gather_object(states, ours)
    return states


def start_random_states(states: Any, trainer: Trainer) -> None:
    """Go on from a checkpoint's states, if there are any of this process.

    Raises:
        UserError: they are not such states.
    """
    try:
        states = [states] if isinstance(states, dict) else states or []  # of an older one, by one process
        if trainer.global_rank < len(states):
            set_process_states(states[trainer.global_rank])
        elif trainer.global_rank:  # so that not all processes leave the same units out
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)
    except Exception as error:
        raise UserError("the checkpoint's random_states are damaged: give another --ckpt_path") from error


def process_states(device: torch.device) -> dict[str, Any]:
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    return {
        "python": (version, torch.tensor(words), gauss),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if device.type == "cuda" else [],
    }


def set_process_states(states: dict[str, Any]) -> None:
    """Go on from such states; those of GPUs are left where there are now others."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
