"""The fused path: Lightning strategies that make many training steps while the Trainer fetches one batch."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, StrategyRegistry
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from namemlp.errors import UserError, check_at_least
from namemlp.fast import autograd, sgd
from namemlp.fast.interrupts import uninterrupted
from namemlp.fast.support import is_plain_loader, next_block_size, step_limit, unsupported_reason
from namemlp.lightning_internals import count_steps, logged_step, set_root_device
from namemlp.optimizers import RunChecks
from namemlp.resume import batches_done
from namemlp.windows import TrainingLoader

log = logging.getLogger(__name__)


class BlockSteps:
    """What strategies for one device and for several processes share: training in blocks of steps.

    A block ends where the Trainer validates, a callback saves, or an epoch or the run ends. Its steps but the last are
    made before the Trainer gets its next batch, and counted as the Trainer counts; the last step is the Trainer's own,
    with all hooks and logging, so that nobody need know of the others. A run that cannot be trained in blocks takes
    Lightning's standard path.

    Args:
        max_block_size: steps in a block at most; fewer where they are large
        settings: as of the Lightning strategy for as many devices
    """

    def __init__(self, max_block_size: int = 2500, **settings: Any) -> None:
        super().__init__(**settings)
        check_at_least(1, max_block_size=max_block_size)
        self.max_block_size = max_block_size
        self._steps: Callable | None = None  # what makes the steps of the current block
        self._last_step: Callable | None = None  # what makes its last step instead of the optimizer, if anything does
        self._batch: tuple[Tensor, Tensor] | None = None
        self._message = ""

    def process_dataloader(self, dataloader: Any) -> Any:
        return BlockLoader(dataloader, self) if is_plain_loader(dataloader) else dataloader

    def on_train_start(self) -> None:
        self._message = ""
        self._select_steps(self.lightning_module.trainer)

    def make_block(self) -> None:
        """Make all steps of the next block but its last, for which the Trainer is about to fetch a batch."""
        trainer = self.lightning_module.trainer
        first_batch = batches_done(trainer)
        if first_batch is None or trainer.strategy is not self:  # a callback or another Trainer reads the loader
            return
        max_block_size = self._select_steps(trainer)
        steps = next_block_size(trainer, max_block_size) - 1
        if steps < 1:
            return
        loader, first_step, first_point = trainer.train_dataloader, trainer.global_step + 1, logged_step(trainer)
        x, y = loader.dataset[loader.sampler.batches(first_batch, steps)]  # (K, B, T) and (K, B)
        with uninterrupted():
            losses, lrs, scheduler_steps = self._steps(trainer, first_batch, x, y)
            count_steps(trainer, steps, scheduler_steps)
        losses = self.reduce(losses, reduce_op="mean")  # so that all processes stop where one diverges
        log_block(trainer, losses, lrs, first_point)
        RunChecks.check_losses(trainer, losses, lrs, first_step)

    def _select_steps(self, trainer: Trainer) -> int:
        """Choose what makes the next steps, say so where it is new, and return how many fit into a block."""
        max_block_size, self._steps, self._last_step = 1, None, None
        reason = unsupported_reason(trainer)
        level = logging.WARNING if reason else logging.INFO
        if reason:
            message = f"fused path disabled: {reason}"
        elif reason := sgd.why_not_fused(trainer):
            max_block_size, self._steps = min(self.max_block_size, autograd.MAX_BLOCK_SIZE), autograd.autograd_steps
            message = f"fused path: autograd, up to {step_limit(trainer, max_block_size):,} steps per block ({reason})"
        else:
            max_block_size, self._steps, self._last_step = self.max_block_size, sgd.fused_steps, sgd.fused_step
            message = f"fused path: compiled CPU kernel, up to {step_limit(trainer, max_block_size):,} steps per block"
        if message != self._message:
            if trainer.is_global_zero:
                log.log(level, message)
            self._message = message
            if self._last_step:
                with uninterrupted():  # Numba swallows a Ctrl-C while it loads
                    sgd.prepare(trainer.lightning_module.network)
        return max_block_size

    def training_step(self, batch: Any, *args: Any) -> Any:
        self._batch, output = batch, super().training_step(batch, *args)
        if self._last_step:  # logged again as the kernel has it, so that the curve does not depend on where blocks end
            self.lightning_module.log_train_loss(sgd.fused_loss(self.lightning_module.network, *batch))
        return output

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        if self._last_step is None:
            return super().optimizer_step(optimizer, closure, model, **kwargs)
        loss = closure()  # the Trainer's forward and backward, for its hooks and logs and for the gradients
        # The step itself by the kernel, as all others, so that the weights do not depend on where blocks end.
        with uninterrupted():
            self._last_step(self.lightning_module.trainer, *self._batch)
        return loss


class FusedStrategy(BlockSteps, SingleDeviceStrategy):
    """Train in blocks of steps on one device."""

    strategy_name = "fused"

    @property
    def parallel_devices(self) -> list[torch.device]:
        return []  # so that the Trainer sets the devices it was given, also where the strategy was given by name

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device]) -> None:
        if len(devices) > 1:
            raise UserError(f"strategy fused trains on one device, not on {len(devices)}: use strategy fused_ddp")
        set_root_device(self, devices[0])


class FusedDDPStrategy(BlockSteps, DDPStrategy):
    """Train in blocks of steps on several devices, with one message a step."""

    strategy_name = "fused_ddp"


class BlockLoader(TrainingLoader):
    """A training loader whose batches reach the Trainer when a strategy has made the steps before them."""

    def __init__(self, loader: DataLoader, strategy: BlockSteps) -> None:
        vars(self).update(vars(loader), strategy=strategy)  # the same loader in all but its iteration

    def __iter__(self) -> Iterator[Any]:
        batches = super().__iter__()
        while True:
            self.strategy.make_block()
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch


def log_block(trainer: Trainer, losses: Tensor, lrs: list[float], first_point: int) -> None:
    """Log the points of the curves that are due at steps of a block, which self.log does not see."""
    every = trainer.log_every_n_steps
    due = range(-(first_point + 1) % every, len(losses), every) if every else ()
    for logger in trainer.loggers if due and trainer.is_global_zero else ():
        for i in due:
            metrics = {"train/loss": losses[i].item(), "lr": lrs[i], "epoch": trainer.current_epoch}
            logger.log_metrics(metrics, first_point + i)
        logger.save()


for strategy in (FusedStrategy, FusedDDPStrategy):
    StrategyRegistry.register(strategy.strategy_name, strategy, strategy.__doc__)
