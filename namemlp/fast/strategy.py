"""The fused path: Lightning strategies that make many training steps while the Trainer fetches one batch."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, StrategyRegistry
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from namemlp import lightning_internals as internals
from namemlp.errors import UserError, check_range
from namemlp.fast import sgd
from namemlp.fast.closed_form import ClosedForm, use_fused_step, why_not_closed_form
from namemlp.fast.support import is_plain_loader, max_block_size, next_block_size, unsupported_reason
from namemlp.fast.torch_steps import torch_steps
from namemlp.optimizers import RunChecks, learning_rate
from namemlp.resume import batches_done
from namemlp.windows import TrainingLoader


class Engine(NamedTuple):
    """What makes steps: its name, and how many steps and multiply-adds of it take a tenth of a second."""

    name: str
    max_steps: int
    max_macs: float


KERNEL = Engine("compiled CPU kernel", 5000, 6e9)
CLOSED_FORM = Engine("gradients in closed form", 500, 12e9)
AUTOGRAD = Engine("autograd", 500, 4e9)


class BlockSteps:
    """What strategies for one device and for several processes share: training in blocks of steps.

    A block ends where the Trainer validates, a callback saves, or an epoch or the run ends. Its steps but the last are
    made before the Trainer gets its next batch, and counted as the Trainer counts; the last is the Trainer's own, with
    all hooks and logging. A run that cannot be trained in blocks takes Lightning's standard path.

    Args:
        max_block_size: steps in a block at most; fewer where they are large
        settings: as of the Lightning strategy for as many devices
    """

    def __init__(self, max_block_size: int = 5000, **settings: Any) -> None:
        super().__init__(**settings)
        check_range(1, max_block_size=max_block_size)
        self.max_block_size = max_block_size
        self._engine: Engine | None = None  # what makes the steps of the current block; None: the Trainer alone

    def process_dataloader(self, dataloader: Any) -> Any:
        return BlockLoader(dataloader, self) if is_plain_loader(dataloader) else dataloader

    def on_train_start(self) -> None:
        self._message = ""
        self._select_engine(self.lightning_module.trainer)

    def make_block(self) -> None:
        """Make all steps of the next block but its last, for which the Trainer is about to fetch a batch."""
        trainer = self.lightning_module.trainer
        first_batch = batches_done(trainer)
        if first_batch is None or trainer.strategy is not self:  # a callback or another Trainer reads the loader
            return
        steps = next_block_size(trainer, self._select_engine(trainer)) - 1
        if steps < 1:
            return
        loader = trainer.train_dataloader
        x, y = loader.dataset[loader.sampler.batches(first_batch, steps)]  # (K, B, T) and (K, B)
        with uninterrupted():
            if self._engine is KERNEL:
                losses, lrs, scheduler_steps = sgd.fused_steps(trainer, first_batch, x, y)
            else:
                losses, lrs, scheduler_steps = torch_steps(trainer, first_batch, x, y, self._closed_form())
            first_point = internals.count_steps(trainer, steps, scheduler_steps)
        log_block(trainer, losses, lrs, first_point)
        RunChecks.check_losses(trainer, losses, lrs)

    def _select_engine(self, trainer: Trainer) -> int:
        """Choose what makes the next steps, say so where it is new, and return how many fit into a block."""
        self._engine, max_steps, level = None, 1, logging.INFO
        if reason := unsupported_reason(trainer):
            message, level = f"fused path disabled: {reason}", logging.WARNING
        else:
            self._engine = KERNEL
            if reason := why_not_closed_form(trainer):
                self._engine = AUTOGRAD
            elif reason := sgd.why_not_compiled(trainer):
                self._engine = CLOSED_FORM
                use_fused_step(trainer.optimizers[0])
            max_steps = max_block_size(trainer, min(self.max_block_size, self._engine.max_steps), self._engine.max_macs)
            message = f"fused path: {self._engine.name}, up to {max_steps:,} steps per block"
            message += f" ({reason})" if reason else ""
        if message != self._message:
            self._message = message
            if trainer.is_global_zero:
                logging.getLogger(__name__).log(level, message)
            if self._engine in (KERNEL, CLOSED_FORM):
                from namemlp.fast.compilation import prepare  # not above: importing Numba takes half a second

                with uninterrupted():  # Numba swallows a Ctrl-C while it loads
                    prepare(trainer.lightning_module.network, self._closed_form())
        return max_steps

    def _closed_form(self) -> ClosedForm | None:  # from the next step on
        if self._engine is not CLOSED_FORM:
            return None
        module = self.lightning_module
        trainer = module.trainer
        return ClosedForm(module.network, trainer.train_dataloader.sampler.seed, trainer.global_step, self.global_rank)

    def training_step(self, batch: Any, *args: Any) -> Any:
        self._batch, module = batch, self.lightning_module
        if closed_form := self._closed_form():
            vars(module)["loss"] = closed_form
        try:
            output = super().training_step(batch, *args)
        finally:
            if closed_form:
                del module.loss
        if self._engine is KERNEL:
            # Logged again as the kernel has it, so that the curve does not depend on where blocks end.
            module.log_train_loss(self._fused_step([0.0], in_place=False))
        return output

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        if self._engine is not KERNEL:
            return super().optimizer_step(optimizer, closure, model, **kwargs)
        loss = closure()  # the Trainer's forward and backward, for its hooks and logs and for the gradients
        internals.mark_as_stepped(optimizer)
        # The step itself by the kernel, as all others, so that the weights do not depend on where blocks end.
        with uninterrupted():
            self._fused_step([learning_rate(self.lightning_module.trainer)])
        return loss

    def _fused_step(self, lrs: list[float], in_place: bool = True) -> Tensor:  # of the current batch; returns its loss
        x, y = self._batch
        return sgd.fused_sgd_steps(self.lightning_module.network, x[None], y[None], lrs, in_place)[0]


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
        internals.set_root_device(self, devices[0])


class FusedDDPStrategy(BlockSteps, DDPStrategy):
    """Train in blocks of steps on several devices, with one message a step."""

    strategy_name = "fused_ddp"


class BlockLoader(TrainingLoader):
    """A training loader whose batches reach the Trainer when a strategy has made the steps before them."""

    def __init__(self, loader: DataLoader, strategy: BlockSteps) -> None:
        vars(self).update(vars(loader), strategy=strategy)  # the same loader in all but its iteration

    def __iter__(self) -> Iterator[Any]:
        self.strategy.make_block()
        for batch in super().__iter__():
            yield batch
            self.strategy.make_block()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the end of the block, so that weights and counts stay those of the same steps."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread is interrupted
        yield
        return
    received = []
    handler = signal.signal(signal.SIGINT, lambda *args: received.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if received and callable(handler):
        handler(*received[-1])


def log_block(trainer: Trainer, losses: Tensor, lrs: list[float], first_point: int) -> None:
    """Log the points of the curves that are due at steps just made, which self.log does not see."""
    every = trainer.log_every_n_steps
    due = range(-(first_point + 1) % every, len(losses), every) if every else ()
    for logger in trainer.loggers if due and trainer.is_global_zero else ():
        for i in due:
            metrics = {"train/loss": losses[i].item(), "lr": lrs[i], "epoch": trainer.current_epoch}
            logger.log_metrics(metrics, first_point + i)
        logger.save()


for strategy in (FusedStrategy, FusedDDPStrategy):
    StrategyRegistry.register(strategy.strategy_name, strategy, strategy.__doc__, override=True)  # also at a reload
