"""Which runs can take the fused path, and how many steps fit into a block."""

from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, Timer, TQDMProgressBar
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler

from namemlp import lightning_internals as internals
from namemlp.module import NameModule
from namemlp.optimizers import RunChecks
from namemlp.windows import ContextDataset, EpochSampler, TrainingLoader, collate

STEP_HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_before_backward", "on_after_backward")
STEP_HOOKS += ("on_before_zero_grad", "on_before_optimizer_step")
PRECISIONS = (Precision, DoublePrecision, HalfPrecision)
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
STEP_METHODS = ("training_step", "backward", "optimizer_step", "optimizer_zero_grad", *STEP_HOOKS)
# Callbacks whose per-step hooks may be called at the last step of a block alone; others have `runs_in_blocks = True`.
BLOCK_CALLBACKS = (Callback, ModelCheckpoint, RichProgressBar, RunChecks, Timer, TQDMProgressBar)
MAX_BLOCK_INPUTS = 16e6  # of the training examples that are read at once, which takes some MB


def unsupported_reason(trainer: Trainer) -> str | None:
    """Why the run of a Trainer cannot take the fused path, or None: what changes or watches single steps."""
    module, loader, optimizers = trainer.lightning_module, trainer.train_dataloader, trainer.optimizers
    kind, overridden = type(module).__name__, overridden_method(module, NameModule, STEP_METHODS)
    hooks = [overridden_method(owner, DataHooks, TRANSFER_HOOKS) for owner in (module, trainer.datamodule or module)]
    is_one = len(optimizers) == 1 and optimizers[0].param_groups and not isinstance(optimizers[0], torch.optim.LBFGS)
    step_schedulers = [config for config in trainer.lr_scheduler_configs if config.interval == "step"]
    reasons = {
        f"{kind} is not a NameModule": not isinstance(module, NameModule),
        "the module optimizes manually": not module.automatic_optimization,
        f"{kind} overrides {overridden}": overridden,
        "the module is compiled": internals.is_compiled(module),
        "the training loader is not the one of NamesDataModule": not is_plain_loader(loader),
        "num_workers > 0": getattr(loader, "num_workers", 0),
        "batch-transfer hooks are overridden": any(hooks),
        "exactly one first-order optimizer is required": not is_one,
        "a scheduler follows a metric at every step": any(config.reduce_on_plateau for config in step_schedulers),
        "a DDP communication hook is set": internals.has_communication_hook(trainer.strategy),
        "gradients are accumulated": trainer.accumulate_grad_batches != 1,
        f"the precision is {trainer.precision}": type(trainer.precision_plugin) not in PRECISIONS,
        "detect_anomaly is on": torch.is_anomaly_enabled(),
        "a profiler measures the steps": type(trainer.profiler) is not PassThroughProfiler,
    }
    reasons = (reason for reason, applies in reasons.items() if applies)
    watchers = (f"{type(c).__name__} has per-step hooks" for c in trainer.callbacks if not runs_in_blocks(c))
    return next(reasons, None) or next(watchers, None)


def runs_in_blocks(callback: Callback) -> bool:
    """Whether each of its per-step hooks comes from a class whose hooks may be called once a block."""
    for hook in STEP_HOOKS:
        function = getattr(getattr(callback, hook), "__func__", None)  # also where it was replaced on the instance
        owners = [owner for owner in type(callback).__mro__ if vars(owner).get(hook) is function]
        if not owners or not (owners[0] in BLOCK_CALLBACKS or vars(owners[0]).get("runs_in_blocks")):
            return False
    return True


def overridden_method(thing: Any, base: type, names: tuple[str, ...]) -> str | None:
    """The first of these methods that is not the one of the base class, also where it was replaced on an instance."""
    overridden = (n for n in names if getattr(getattr(thing, n), "__func__", None) is not getattr(base, n))
    return next(overridden, None)


def is_plain_loader(loader: Any) -> bool:  # whether it is as `NamesDataModule` makes it for training
    if not isinstance(loader, TrainingLoader) or loader.collate_fn is not collate:
        return False
    is_plain = type(loader.sampler) is EpochSampler and type(loader.dataset) is ContextDataset
    return is_plain and loader.batch_size == loader.sampler.batch_size


def next_block_size(trainer: Trainer, max_steps: int) -> int:
    """The number of steps up to the next validation, save, or end of the epoch or run, but no more than so many."""
    (in_epoch, in_all), step = internals.batches_ready(trainer), trainer.global_step
    num_batches = min(trainer.num_training_batches, len(trainer.train_dataloader))
    room = [max_steps, num_batches - in_epoch]
    room += [interval - step % interval for interval in internals.save_intervals(trainer)]
    room += [end - step for end in (trainer.max_steps, trainer.min_steps or 0) if end > step]  # it may stop at both
    if isinstance(interval := trainer.val_check_batch, int):
        batches = in_all if trainer.check_val_every_n_epoch is None else in_epoch
        room.append(interval - batches % interval)
    return max(1, min(room))


def max_block_size(trainer: Trainer, max_steps: int, max_macs: float) -> int:
    """How many steps fit into a block of so many steps and multiply-adds, and of some MB."""
    loader = trainer.train_dataloader
    batch_size = min(loader.batch_size, len(loader.dataset))
    macs = 3 * batch_size * sum(p.numel() for p in trainer.lightning_module.parameters())  # forward, backward twice
    inputs = batch_size * len(loader.dataset.columns)
    return max(1, min(max_steps, int(max_macs / macs), int(MAX_BLOCK_INPUTS / inputs)))
