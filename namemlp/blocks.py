"""Blocks: one Trainer batch that carries many mini-batches, so that the Trainer's own work is done once for all.

Nobody outside sees them: the Trainer is told that as many batches have passed, and a block ends wherever the Trainer
or a callback has something to do.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    ModelCheckpoint,
    RichProgressBar,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.plugins.precision import DoublePrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from namemlp.callbacks import LastCheckpoint, StepProgress
from namemlp.network import NameMLP
from namemlp.windows import TrainingLoader

# (K, B, T) contexts, (K, B) next characters and K learning rates -> K losses
UpdatesMaker = Callable[[Tensor, Tensor, list[float]], Tensor]

# What is called at every update; that of the callbacks here may be called at the end of a block instead.
HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
OF_BLOCKS = {
    getattr(kind, hook)
    for kind in (Callback, LastCheckpoint, ModelCheckpoint, RichProgressBar, StepProgress, Timer, TQDMProgressBar)
    for hook in HOOKS
}
STEPS = ("training_step", "forward", "backward", "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step", *HOOKS)

# Multiply-adds of an update beyond which a CPU of very many cores does it faster by torch; see benchmarks/fit.py.
LARGEST_UPDATE = 18e6
# Multiply-adds and input numbers of a block: it takes a tenth of a second, so that Ctrl-C need not wait, and some MB.
LARGEST_BLOCK = 4e9, 16e6


def obstacle(module: LightningModule, base: type[LightningModule]) -> str | None:
    """Why the run of a module with a `network` cannot go in blocks, or None.

    In blocks each update is plain SGD on one mini-batch; whatever asks for more or watches each one is in the way.

    Args:
        module: with its Trainer, optimizers and loaders.
        base: the class whose steps a block replaces.
    """
    trainer, network = module.trainer, module.network
    optimizer, *others = trainer.optimizers
    settings, *more_settings = optimizer.param_groups
    if type(optimizer) is not torch.optim.SGD or others:
        return f"the optimizer is {type(optimizer).__name__}"
    for name in ("momentum", "weight_decay", "maximize"):
        if settings[name]:
            return f"the optimizer has {name}"
    if any((config.interval, config.frequency) != ("step", 1) for config in step_schedulers(trainer)):
        return "the learning rate does not change by the update"
    if trainer.gradient_clip_val:
        return "gradients are clipped"
    if trainer.accumulate_grad_batches != 1:
        return "gradients are accumulated"
    if type(trainer.precision_plugin) not in (Precision, DoublePrecision):
        return f"the precision is {trainer.precision}"
    if type(trainer.strategy) is not SingleDeviceStrategy:
        return f"the strategy is {type(trainer.strategy).__name__}"
    if module.device.type not in ("cpu", "cuda"):
        return f"the device is {module.device.type}"
    if trainer._detect_anomaly:
        return "anomalies are to be detected"
    if not isinstance(trainer.train_dataloader, TrainingLoader):
        return "the training batches come from another loader"
    if trainer.num_training_batches != len(trainer.train_dataloader):
        return "the batches of an epoch are limited"
    if any(method(module, name) is not getattr(base, name) for name in STEPS):
        return f"{type(module).__name__} has steps of its own"
    if not is_plain(network) or module._compiler_ctx is not None:
        return "the network is not a plain NameMLP"
    if more_settings or {*map(id, settings["params"])} != {id(p) for p in network.parameters() if p.requires_grad}:
        return "not all parameters are trained alike"
    for callback in trainer.callbacks:
        watches = any(method(callback, hook) not in OF_BLOCKS for hook in HOOKS)
        if watches or isinstance(callback, (GradientAccumulationScheduler, StochasticWeightAveraging)):
            return f"{type(callback).__name__} works at every update"
    work, threads = multiply_adds(network, trainer.train_dataloader.sampler.update_size), torch.get_num_threads()
    # The compiled updates use one core, so that it depends on how many torch has.
    if module.device.type == "cpu" and work * (threads - 1) > LARGEST_UPDATE * threads:
        return f"torch is faster at updates of {work / 1e6:,.0f} million multiply-adds on {threads} cores"
    return None


def method(thing: object, name: str) -> Any:
    """The function behind a method, also where it has been replaced for this one thing."""
    return getattr(getattr(thing, name), "__func__", None)


def step_schedulers(trainer: Trainer) -> list:
    """The learning-rate schedules that are stepped with the updates."""
    return [config for config in trainer.lr_scheduler_configs if not config.reduce_on_plateau]


def is_plain(network: nn.Module) -> bool:
    """Whether a network is a `NameMLP` that nobody has put hooks on or changed the layers of."""
    layers = [NameMLP, nn.Embedding, nn.Linear, nn.Linear]
    modules = list(network.modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [type(m) for m in modules] == layers and not any(getattr(m, hook) for m in modules for hook in hooks)


def multiply_adds(network: NameMLP, batch_size: int) -> int:
    """Multiply-adds in one update: those of two layers, forward and twice backward."""
    return 3 * batch_size * (network.hidden.weight.numel() + network.output.weight.numel())


class Blocks:
    """How many mini-batches the blocks of a run carry, and how the Trainer counts them.

    A block ends where the Trainer validates, a callback saves by the update, or the run ends.

    Args:
        trainer: about to train.
        network: what it trains.
        longest: mini-batches in a block at most; fewer where the updates are large.
    """

    def __init__(self, trainer: Trainer, network: NameMLP, longest: int) -> None:
        self.trainer = trainer
        order = trainer.train_dataloader.sampler
        sizes = multiply_adds(network, order.update_size), order.update_size * network.hidden.in_features
        self.longest = max(
            1, min(longest, *(int(most / size) for most, size in zip(LARGEST_BLOCK, sizes, strict=True)))
        )
        # Where the Trainer has trained before with other loaders, its counts are ahead of this one's.
        self.batches_before = trainer.fit_loop.total_batch_idx + 1 - order.batches_read
        self.steps_before = trainer.global_step - order.batches_read
        saving = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        self.saves = [callback._every_n_train_steps for callback in saving if callback._every_n_train_steps]

    def length(self, read: int, in_epoch: int) -> int:
        """Of the block that begins after so many batches since training started, and since the epoch started."""
        trainer = self.trainer
        step = read + self.steps_before
        room = [self.longest, *(every - step % every for every in self.saves)]
        if trainer.max_steps > 0:
            room.append(trainer.max_steps - step)
        if isinstance(trainer.val_check_batch, int):
            done = in_epoch if trainer.check_val_every_n_epoch else read + self.batches_before
            room.append(trainer.val_check_batch - done % trainer.val_check_batch)
        return max(1, min(room))

    def count_batches(self, more: int) -> None:
        """Tell the Trainer, which has just asked for a batch, that it stands for more."""
        self.trainer.fit_loop.epoch_loop.batch_progress.increment_by(more)

    def count_updates(self, more: int) -> None:
        """Tell the Trainer, which makes an update, that it stands for more, and as many steps of schedules."""
        loop = self.trainer.fit_loop.epoch_loop
        optimizer = loop.automatic_optimization.optim_progress.optimizer
        optimizer.step.increment_by(more)
        optimizer.zero_grad.increment_by(more)
        loop.scheduler_progress.increment_by(more * len(step_schedulers(self.trainer)))
        loop._batches_that_stepped += more
        loop.batch_progress.is_last_batch = loop.batch_progress.current.ready == self.trainer.num_training_batches


def updates_maker(network: NameMLP, batch_size: int, longest: int) -> tuple[UpdatesMaker, str]:
    """What makes the updates of a block on the network's device, ready to go, and its name for the log."""
    # Imported here, because importing Numba takes half a second.
    if network.hidden.weight.is_cuda:
        from namemlp.graph import GraphUpdates

        return GraphUpdates(network, batch_size, longest), "replayed as a CUDA graph"
    from namemlp import fused

    fused.prepare(network)
    return partial(fused.make_updates, network), "compiled for this CPU"
