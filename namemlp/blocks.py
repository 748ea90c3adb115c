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
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.plugins.precision import DoublePrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.data import default_convert

from namemlp.callbacks import LastCheckpoint
from namemlp.network import NameMLP
from namemlp.progress import StepProgress
from namemlp.windows import ContextWindows, TrainingLoader, TrainingOrder

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
TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
STEPS = (
    *("training_step", "forward", "backward", "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step"),
    *("configure_gradient_clipping", "clip_gradients", *HOOKS),
)

# Multiply-adds of an update beyond which a CPU of very many cores does it faster by torch; see benchmarks/fit.py.
LARGEST_UPDATE = 18e6
# Multiply-adds and input numbers of a block: it takes a tenth of a second, so that Ctrl-C need not wait, and some MB.
LARGEST_BLOCK, LARGEST_INPUTS = 4e9, 16e6


def obstacle(module: LightningModule, base: type[LightningModule]) -> str | None:
    """Why the run of a module with a `network` cannot go in blocks, or None.

    In blocks each update is plain SGD on one mini-batch; whatever asks for more or watches each one is in the way.

    Args:
        module: with its Trainer, optimizers and loaders.
        base: the class whose steps a block replaces.
    """
    trainer, network, loader = module.trainer, module.network, module.trainer.train_dataloader
    if reason := more_than_sgd(trainer):
        return reason
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
    if not is_ours(loader):
        return "the training batches come from another loader"
    if loader.num_workers:
        return "other processes prepare the batches"
    if trainer.num_training_batches != len(loader) or trainer.reload_dataloaders_every_n_epochs:
        return "the batches of an epoch are limited, or their loader is made anew"
    owners = module, trainer.datamodule or module
    if any(method(owner, name) is not getattr(DataHooks, name) for owner in owners for name in TRANSFER):
        return "the batches are changed on their way"
    if any(method(module, name) is not getattr(base, name) for name in STEPS):
        return f"{type(module).__name__} has steps of its own"
    if not is_plain(network) or module._compiler_ctx is not None:
        return "the network is not a plain NameMLP"
    trained = {id(p) for p in trainer.optimizers[0].param_groups[0]["params"] if p.requires_grad}
    if trained != {*map(id, network.parameters())}:
        return "not all parameters are trained"
    for callback in trainer.callbacks:
        watches = any(method(callback, hook) not in OF_BLOCKS for hook in HOOKS)
        if watches or isinstance(callback, (GradientAccumulationScheduler, StochasticWeightAveraging)):
            return f"{type(callback).__name__} works at every update"
    work, threads = multiply_adds(network, loader.sampler), torch.get_num_threads()
    # The compiled updates use one core, so that it depends on how many torch has.
    if module.device.type == "cpu" and work * (threads - 1) > LARGEST_UPDATE * threads:
        return f"torch is faster at updates of {work / 1e6:,.0f} million multiply-adds on {threads} cores"
    return None


def more_than_sgd(trainer: Trainer) -> str | None:
    """What the optimizer does beside plain SGD on one set of parameters, or None."""
    optimizer, *others = trainer.optimizers
    if type(optimizer) is not torch.optim.SGD or others:
        return f"the optimizer is {type(optimizer).__name__}"
    settings, *more_settings = optimizer.param_groups
    for name in ("momentum", "weight_decay", "maximize"):
        if settings[name]:
            return f"the optimizer has {name}"
    if more_settings:
        return "the optimizer has several groups of parameters"
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    if any([*hooks, _global_optimizer_pre_hooks, _global_optimizer_post_hooks]):
        return "the optimizer has hooks"
    return None


def method(thing: object, name: str) -> Any:
    """The function behind a method, also where it has been replaced for this one thing."""
    return getattr(getattr(thing, name), "__func__", None)


def step_schedulers(trainer: Trainer) -> list:
    """The learning-rate schedules that are stepped with the updates."""
    return [config for config in trainer.lr_scheduler_configs if not config.reduce_on_plateau]


def is_ours(loader: Any) -> bool:
    """Whether a loader is a `TrainingLoader` as `NamesDataModule` makes it."""
    if type(loader) is not TrainingLoader or loader.collate_fn is not default_convert:
        return False
    return type(loader.sampler) is TrainingOrder and type(loader.dataset) is ContextWindows


def is_plain(network: nn.Module) -> bool:
    """Whether a network is a `NameMLP` as it was made, with hooks nowhere."""
    modules, parameters = list(network.modules()), list(network.parameters())
    if [type(module) for module in modules] != [NameMLP, nn.Embedding, nn.Linear, nn.Linear]:
        return False
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if _has_any_global_hook() or any(getattr(module, hook) for module in modules for hook in hooks):
        return False
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in parameters):
        return False
    if any("forward" in vars(module) for module in modules):
        return False
    embedding, hidden, output = modules[1:]
    if embedding.padding_idx is not None or embedding.max_norm or embedding.scale_grad_by_freq or embedding.sparse:
        return False
    if {p.dtype for p in parameters} not in ({torch.float32}, {torch.float64}):
        return False
    size, dim, units = output.out_features, embedding.embedding_dim, hidden.out_features
    shapes = [(size, dim), (units, hidden.in_features // dim * dim), (units,), (size, units), (size,)]
    return [tuple(p.shape) for p in parameters] == shapes


def multiply_adds(network: NameMLP, order: TrainingOrder) -> int:
    """Multiply-adds in one update: those of two layers, forward and twice backward."""
    batch_size = min(order.update_size, order.num_examples)
    return 3 * batch_size * (network.hidden.weight.numel() + network.output.weight.numel())


class Blocks:
    """How many mini-batches the blocks of a run carry, and how the Trainer counts them.

    A block ends where the Trainer validates, a callback saves by the update, or the run ends.

    Args:
        module: about to be trained.
        longest: mini-batches in a block at most; fewer where the updates are large.
        obstacle: why there cannot be another block, or None; asked before each.
    """

    def __init__(self, module: LightningModule, longest: int, obstacle: Callable[[], str | None]) -> None:
        self.trainer, self.obstacle = module.trainer, obstacle
        order, network = self.trainer.train_dataloader.sampler, module.network
        inputs = order.update_size * network.hidden.in_features
        most = int(LARGEST_BLOCK / multiply_adds(network, order)), int(LARGEST_INPUTS / inputs)
        self.longest = max(1, min(longest, *most))
        # Where the Trainer has trained before with other loaders, its counts are ahead of this one's.
        self.batches_before = self.trainer.fit_loop.total_batch_idx + 1 - order.batches_read
        self.steps_before = self.trainer.global_step - order.batches_read
        # of a LastCheckpoint, or of Lightning's ModelCheckpoint
        names = ("every_n_steps", "_every_n_train_steps")
        self.saves = [getattr(saver, name, None) for saver in self.trainer.checkpoint_callbacks for name in names]

    def may_go_on(self) -> bool:
        """Whether the next batch may be a block: the Trainer asks for it, and nothing has come in the way."""
        module = self.trainer.lightning_module
        if self.trainer.state.status != TrainerStatus.RUNNING or module._current_fx_name is not None:
            return False  # the run is over, or a callback asks
        if reason := self.obstacle():
            module.leave_blocks(f"one update at a time from step {self.trainer.global_step:,}: {reason}")
        return reason is None

    def length(self, read: int, in_epoch: int) -> int:
        """Of the block that begins after so many batches since training started, and since the epoch started."""
        trainer = self.trainer
        step = read + self.steps_before
        room = [self.longest, *(every - step % every for every in self.saves if every)]
        # At min_steps the Trainer stops if it was told to before.
        room += [end - step for end in (trainer.max_steps, trainer.min_steps) if end is not None and end > step]
        if isinstance(trainer.val_check_batch, int):
            done = in_epoch if trainer.check_val_every_n_epoch else read + self.batches_before
            room.append(trainer.val_check_batch - done % trainer.val_check_batch)
        return min(room)

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
