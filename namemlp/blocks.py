"""Blocks: one Trainer batch that carries many mini-batches, so that the Trainer's own work is done once for all.

Nobody outside sees them: the Trainer is told that as many batches have passed, and a block ends wherever the Trainer
or a callback has something to do.
"""

from collections.abc import Callable
from typing import Any

import torch
from lightning import Callback, LightningModule
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    ModelCheckpoint,
    RichProgressBar,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerStatus
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.data import default_convert

from namemlp.callbacks import LastCheckpoint
from namemlp.optimizers import step_schedulers
from namemlp.progress import StepProgress
from namemlp.windows import ContextWindows, TrainingLoader, TrainingOrder

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
    *("training_step", "loss", "forward", "backward", "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step"),
    *("configure_gradient_clipping", "clip_gradients", *HOOKS),
)

# Multiply-adds and input numbers of a block: it takes a tenth of a second, so that Ctrl-C need not wait, and some MB.
LARGEST_BLOCK, LARGEST_INPUTS = 4e9, 16e6


def obstacle(module: LightningModule, base: type[LightningModule]) -> str | None:
    """Why the run of a module with a `network` cannot go in blocks, or None.

    Whatever changes how an update comes about, or watches each one, is in the way.

    Args:
        module: with its Trainer, optimizers and loaders.
        base: the class whose steps a block replaces.
    """
    trainer, loader = module.trainer, module.trainer.train_dataloader
    if [type(optimizer) is torch.optim.LBFGS for optimizer in trainer.optimizers] != [False]:
        return "there is not one optimizer that takes gradients"
    hooks = trainer.optimizers[0]._optimizer_step_pre_hooks, trainer.optimizers[0]._optimizer_step_post_hooks
    if any([*hooks, _global_optimizer_pre_hooks, _global_optimizer_post_hooks]):
        return "the optimizer has hooks"
    if any((config.interval, config.frequency) != ("step", 1) for config in step_schedulers(trainer)):
        return "the learning rate does not change by the update"
    if trainer.accumulate_grad_batches != 1:
        return "gradients are accumulated"
    if type(trainer.precision_plugin) not in (Precision, DoublePrecision, HalfPrecision):
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
    if module._compiler_ctx is not None:
        return "the model is compiled"
    for callback in trainer.callbacks:
        watches = any(method(callback, hook) not in OF_BLOCKS for hook in HOOKS)
        if watches or isinstance(callback, (GradientAccumulationScheduler, StochasticWeightAveraging)):
            return f"{type(callback).__name__} works at every update"
    return None


def method(thing: object, name: str) -> Any:
    """The function behind a method, also where it has been replaced for this one thing."""
    return getattr(getattr(thing, name), "__func__", None)


def is_ours(loader: Any) -> bool:
    """Whether a loader is a `TrainingLoader` as `NamesDataModule` makes it."""
    if type(loader) is not TrainingLoader or loader.collate_fn is not default_convert:
        return False
    return type(loader.sampler) is TrainingOrder and type(loader.dataset) is ContextWindows


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
        order = self.trainer.train_dataloader.sampler
        examples = min(order.update_size, order.num_examples)
        work = 3 * examples * sum(p.numel() for p in module.parameters())  # forward, and backward twice
        most = LARGEST_BLOCK / work, LARGEST_INPUTS / (examples * module.hparams.context_length)
        self.longest = max(1, int(min(longest, *most)))
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
