"""What the tests of the fused path share."""

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from namemlp import FusedStrategy

K = 5
STANDARD = None  # instead of a block size: Lightning's standard path, strategy "auto"
QUIET = dict(accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False)
NO_FILES = dict(logger=False, enable_checkpointing=False)
COMPILED = "fused path: compiled CPU kernel, up to 5 steps per block"


def strategy(max_block_size):
    return "auto" if max_block_size is STANDARD else FusedStrategy(max_block_size)


def logged(caplog):
    """The records that the fused path has logged."""
    return [record for record in caplog.records if record.name == "namemlp.fast.strategy"]


def curves(trainer):
    """Tag -> [(step, value)]."""
    events = EventAccumulator(trainer.log_dir).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_same_weights(ours, theirs, **tolerance):
    """Two modules have the same weights, to the last bit unless a tolerance is given."""
    for name, values in ours.state_dict().items():
        torch.testing.assert_close(values, theirs.state_dict()[name], **(tolerance or dict(rtol=0, atol=0)))
