"""Every private name of other packages in this one, as read in Lightning 2.6.6, torch 2.13 and jsonargparse 4.53."""

import argparse
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def count_steps(trainer: Any, steps: int, scheduler_steps: int) -> int:
    """Tell a Trainer about to fetch a batch that it has passed so many more; returns the x of the first in self.log."""
    epoch_loop = trainer.fit_loop.epoch_loop
    optimizer = epoch_loop.automatic_optimization.optim_progress.optimizer
    for progress in (epoch_loop.batch_progress, optimizer.step, optimizer.zero_grad):
        progress.increment_by(steps)
    epoch_loop.scheduler_progress.increment_by(scheduler_steps)
    trainer.fit_loop._data_fetcher.fetched += steps  # by which the Trainer knows the last batch of an epoch
    epoch_loop._batches_that_stepped += steps  # the x axis of self.log
    return epoch_loop._batches_that_stepped - steps


def batches_ready(trainer: Any) -> tuple[int, int]:  # the batches that a Trainer has begun: in this epoch, and in all
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.current.ready, progress.total.ready


def log_step(trainer: Any) -> None:  # in `on_train_batch_end`, after which the Trainer does it once more
    trainer._logger_connector.update_train_step_metrics()


def restore_logged_step(trainer: Any) -> None:
    """Have the x axis of self.log continue at the Trainer's step, whatever Lightning adds when it is resumed."""
    # It adds 1 in `_TrainingEpochLoop.reset`, or in `on_advance_end` after a validation that it does not repeat.
    loop = trainer.fit_loop.epoch_loop
    will_add_one = validation_is_next(trainer) if loop.restarted_on_last else not is_accumulating(trainer)
    if trainer.lightning_module.automatic_optimization:
        loop._batches_that_stepped = trainer.global_step - (loop.restarting and will_add_one)


def is_accumulating(trainer: Any) -> bool:  # whether gradients wait for more batches to make a step
    return trainer.fit_loop._should_accumulate()


def validation_is_next(trainer: Any) -> bool:  # whether the Trainer validates after the current batch
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def save_intervals(trainer: Any) -> list[int]:  # after how many steps each callback that saves by the step does so
    names = ("every_n_steps", "_every_n_train_steps")  # of a LastCheckpoint, and of a ModelCheckpoint
    intervals = (getattr(callback, name, None) for callback in trainer.checkpoint_callbacks for name in names)
    return [interval for interval in intervals if interval]


def set_root_device(strategy: Any, device: torch.device) -> None:  # of a SingleDeviceStrategy
    strategy._root_device = torch.device(device)


def has_communication_hook(strategy: Any) -> bool:  # whether not just the mean of gradients goes between processes
    return getattr(strategy, "_ddp_comm_hook", None) is not None


def is_compiled(module: nn.Module) -> bool:  # whether `torch.compile(module)` or `module.compile()` was called
    return getattr(module, "_compiler_ctx", None) is not None or module._compiled_call_impl is not None


def has_hooks(module: nn.Module) -> bool:
    """Whether anything is called at the forward or backward of a module, its submodules or its parameters."""
    has_some = any(getattr(submodule, hooks) for submodule in module.modules() for hooks in HOOKS)
    has_some |= any(p._backward_hooks or p._post_accumulate_grad_hooks for p in module.parameters())
    return has_some or _has_any_global_hook()


def is_step_watched(optimizer: Optimizer) -> bool:
    """Whether anything is called at `optimizer.step()` beside the step of its class (and a scheduler's check)."""
    step = optimizer.step
    if getattr(step, "_wrapped_by_lr_sched", False):  # torch calls the step that was there before
        step = step.__wrapped__
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    is_replaced = getattr(step, "__func__", step) is not type(optimizer).step
    return is_replaced or any([*hooks, _global_optimizer_pre_hooks, _global_optimizer_post_hooks])


def mark_as_stepped(optimizer: Optimizer) -> None:  # else its scheduler warns that it is ahead of the steps
    optimizer._opt_called = True


def hide_options(parser: Any, hidden: set[str], shown: set[str] | None) -> None:
    """Leave links between options out of a parser's help, and hidden options, and all but the shown ones if given."""
    for group in parser._action_groups:
        for action in group._group_actions:
            if (
                group is parser._links_group
                or action.dest in hidden
                or (shown is not None and action.dest not in shown)
            ):
                action.help = argparse.SUPPRESS


def flush_kernel_cache(kernel: Any) -> None:  # have Numba forget what it has compiled of a function and kept on disk
    kernel._cache.flush()
