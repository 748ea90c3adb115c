"""What tests of several files share."""

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from namemlp import NameModule

# Small settings with which a whole fit takes a moment; an epoch of the list below is 12 steps.
SMALL = ("--model.hidden_size=20", "--data.batch_size=32", "--trainer.log_every_n_steps=5", "--trainer.accelerator=cpu")
SMALL_LIST = ["emma", "olivia", "ava", "isabella", "sophia", "mia", "zoë", "Jürgen", "anna-lena", "bo"] * 8


class OneCycle(NameModule):
    """A schedule whose length is read where Lightning drops a loader's state."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Manual(NameModule):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.loss(*batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def curves(run):
    """All curves of a run as TensorBoard shows them: {tag: {step: value}}."""
    events = EventAccumulator(str(run)).Reload()
    tags = events.Tags()["scalars"]
    return {tag: dict(sorted((point.step, point.value) for point in events.Scalars(tag))) for tag in tags}


def assert_equal(ours, theirs):
    """Two checkpoints, down to the last bit of weights, optimizer, schedule and random generators."""
    assert ours["global_step"] == theirs["global_step"]
    for name, weights in ours["state_dict"].items():
        assert torch.equal(weights, theirs["state_dict"][name]), name
    for name in ("optimizer_states", "lr_schedulers", "rng_states"):
        for first, second in zip(leaves(ours[name]), leaves(theirs[name]), strict=True):
            assert torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second, name


def leaves(value):
    if isinstance(value, dict):
        return [leaf for key in value for leaf in (key, *leaves(value[key]))]
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, list | tuple) else [value]
