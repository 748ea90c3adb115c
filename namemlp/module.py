"""The network as a LightningModule: loss, metrics, optimizer."""

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F

from namemlp.blocks import Blocks, obstacle
from namemlp.checkpoint import read_checkpoint, refuse_hostile_file, trainer_settings
from namemlp.datamodule import NamesDataModule
from namemlp.engines import check_losses, engine
from namemlp.errors import SMALLER, UserError
from namemlp.metrics import NameMetrics
from namemlp.network import NameMLP, evaluating
from namemlp.optimizers import SGD, check_length, learning_rate, make_optimizer, step_plateau_schedulers
from namemlp.randomness import random_states, start_random_states
from namemlp.sampling import Generation
from namemlp.vocabulary import Vocabulary
from namemlp.windows import TrainingLoader

log = logging.getLogger(__name__)
Batch = tuple[Tensor, Tensor]  # (B, T) contexts and (B,) next characters


class NameModule(Generation, LightningModule):
    """A `NameMLP` with cross-entropy, its metrics and an optimizer.

    Everything that builds the model again is kept in its checkpoints: `NameModule.load_from_checkpoint(path)`.

    Args:
        vocabulary: the characters the model knows, '.' first; comes from the data
        context_length: how many characters the model sees (T)
        embedding_dim: numbers that stand for a character (C)
        hidden_size: tanh units
        dropout: share of the tanh units that are left out of an update, others each time
        init: start of the weights: notebook: every tensor N(0, 1); scaled: by fan-in, with biases 0
        init_seed: seed of the start of the weights, the notebook's own; seed_everything does not change it
        optimizer: {class_path, init_args} of a torch optimizer; null: SGD with lr 0.01
        lr_scheduler: {class_path, init_args} of a torch scheduler, stepped once an update; null: constant
        updates_per_block: SGD updates made in one go where nothing in the run forbids it; 1: none, the textbook path

    Raises:
        UserError: a number is out of its range, or the model too large for the memory.
    """

    def __init__(
        self,
        vocabulary: str,
        context_length: int = 3,
        embedding_dim: int = 5,
        hidden_size: int = 200,
        dropout: float = 0.0,
        init: Literal["notebook", "scaled"] = "notebook",
        init_seed: int = 2147483647,
        optimizer: dict[str, Any] | None = None,
        lr_scheduler: dict[str, Any] | None = None,
        updates_per_block: int = 2500,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.blocks = self._make_updates = None  # what there is while training in blocks
        self._in_block = False
        self._random_states: Any = None  # of a checkpoint, for the start of training
        for name in ("context_length", "embedding_dim", "hidden_size", "updates_per_block"):
            if self.hparams[name] < 1:
                raise UserError(f"{name} is {self.hparams[name]}: it must be at least 1")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}: it must be from 0 to below 1")
        if not 0 <= init_seed < 2**63:
            raise UserError(f"init_seed is {init_seed}: it must be from 0 to 2**63 - 1")
        self.vocabulary = Vocabulary(vocabulary)
        size = len(self.vocabulary)
        try:
            self.network = NameMLP(size, context_length, embedding_dim, hidden_size, init, init_seed, dropout)
        except RuntimeError as error:
            raise UserError(f"a model of this size cannot be made: {error}") from error
        self.metrics = NameMetrics()
        self.known_names = np.zeros(0, np.int32)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "blocks": None, "_make_updates": None}  # a copy is not itself in training

    def forward(self, x: Tensor) -> Tensor:  # (B, T) -> (B, V)
        return self.network(x)

    def on_train_start(self) -> None:
        start_random_states(self._random_states, self.trainer)
        self._random_states = None
        if isinstance(self.trainer.datamodule, NamesDataModule):
            self.known_names = np.union1d(self.known_names, self.trainer.datamodule.corpus.known)
        loop = self.trainer.fit_loop
        if loop.restarted_mid_epoch and loop.epoch_progress.current.processed == loop.epoch_progress.current.ready:
            loop.reset_restart_stage()  # a new epoch begins, which the Trainer would not count
        self.last_step = check_length(self.trainer)
        longest = self.hparams.updates_per_block
        if reason := "updates_per_block is 1" if longest == 1 else obstacle(self, NameModule):
            self.leave_blocks(f"one update at a time: {reason}")
            return
        self.blocks = Blocks(self, longest, lambda: obstacle(self, NameModule))
        self.trainer.train_dataloader.sampler.blocks = self.blocks
        self._make_updates, name = engine(self, self.blocks)
        log.info(f"up to {self.blocks.longest:,} updates at once, {name}")

    def leave_blocks(self, message: str) -> None:
        """Take the textbook path from the next batch on."""
        self.blocks = self._make_updates = None
        if isinstance(self.trainer.train_dataloader, TrainingLoader):
            self.trainer.train_dataloader.sampler.blocks = None
        if self.trainer.is_global_zero:
            log.info(message)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        self._in_block = y.dim() == 2
        if self._in_block:
            return self._train_block(x, y)
        self.batch_loss = self.loss(x, y)
        return self.batch_loss

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean loss of a batch; of several processes the parts whose mean is that over all their examples."""
        trainer = self._trainer
        if trainer is None or trainer.world_size == 1 or not isinstance(trainer.train_dataloader, TrainingLoader):
            return F.cross_entropy(self(x), y)
        losses = F.cross_entropy(self(x), y, reduction="sum")  # there may be none
        return losses * (trainer.world_size / trainer.train_dataloader.examples_in_update())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._in_block:
            self._write_curves([self.batch_loss], [learning_rate(self.trainer)])

    def _train_block(self, x: Tensor, y: Tensor) -> Tensor:
        """Make all updates of a block, (K, B, T) and (K, B), and return the last loss."""
        losses, rates = self._make_updates(x, y)
        self.batch_loss = losses[-1]
        self._write_curves(losses, rates)
        check_losses(losses, rates, self.trainer.global_step)
        self.blocks.count_updates(len(y) - 1)
        return losses[-1]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if not self._in_block:
            whole = loss.detach()
            if self.trainer.world_size > 1:
                whole = self.batch_loss = self.trainer.strategy.reduce(self.batch_loss.detach(), reduce_op="mean")
            check_losses(whole[None], [learning_rate(self.trainer)], self.trainer.global_step)
            super().backward(loss, *args, **kwargs)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if self.blocks:
            optimizer_closure()  # has made the updates
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def _write_curves(self, losses: Sequence[Tensor], rates: Sequence[float]) -> None:
        """Write the points that are due at the next updates, whose losses and learning rates these are."""
        # Written here and not with self.log, which works at every step for what is shown at one in fifty.
        first, every = self.trainer.global_step + 1, self.trainer.log_every_n_steps
        for i in range(-first % every, len(losses), every) if every else ():
            loss = losses[i].detach()
            curves = {"train/loss": loss.item(), "train/log10_loss": loss.log10().item(), "lr": rates[i]}
            for logger in self.loggers:
                logger.log_metrics(curves, first + i)

    def on_train_end(self) -> None:
        if self.blocks:
            self.blocks = self._make_updates = self.trainer.train_dataloader.sampler.blocks = None

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.trainer.global_step >= self.last_step:
            self.trainer.should_stop = True  # the Trainer then validates, also where the interval does not end here

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        self.metrics.update(self(x), y)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The log-probability of each example's next character, (B,)."""
        x, y = batch
        return -F.cross_entropy(self(x).float(), y, reduction="none")

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Loss (in nats), perplexity, bits per character, top-1 and top-5 accuracy over all examples of batches."""
        with evaluating(self):
            for x, y in batches:
                self.metrics.update(self(x.to(self.device)), y.to(self.device))
            return self.metrics.compute()

    def configure_optimizers(self) -> Any:
        return make_optimizer(self.parameters(), self.hparams.optimizer or SGD, self.hparams.lr_scheduler)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> "NameModule":
        """The model of a checkpoint, a local file, read without running anything that it may hold.

        Raises:
            UserError: it is damaged, is not such a checkpoint, or is made to do harm.
        """
        # Shapes are those of a NameMLP.
        (read_checkpoint if cls is NameModule else refuse_hostile_file)(Path(checkpoint_path))
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **{**kwargs, "weights_only": True})
        except RuntimeError as error:
            raise UserError(f"{checkpoint_path} does not hold the weights of its model: {error}") from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["trainer"] = trainer_settings(self.trainer)
        checkpoint["random_states"] = random_states(self.trainer)
        checkpoint["known_names"] = torch.from_numpy(self.known_names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._random_states = checkpoint.get("random_states")
        self.known_names = np.unique(checkpoint.get("known_names", torch.zeros(0, dtype=torch.int32)).numpy())
        if self._trainer is not None:  # else 64-bit weights would be restored as 32-bit ones
            self.trainer.precision_plugin.convert_module(self)

    def _log_metrics(self, split: str) -> None:
        values = {f"{split}/{name}": value for name, value in self.metrics.compute().items()}
        fitting = self.trainer.state.fn == "fit"
        if fitting and not self.trainer.sanity_checking:
            if not math.isfinite(values["val/loss"]):  # before it is saved as a checkpoint
                step = self.trainer.global_step
                loss = f"val/loss is {values['val/loss']:.3g} at step {step:,}"
                raise UserError(f"{loss} with learning rate {learning_rate(self.trainer):g}: {SMALLER}")
            step_plateau_schedulers(self.trainer, values)
            # By log_dict the x axis would count batches; its "step" metric would mislead the names of checkpoints.
            for logger in self.loggers:
                logger.log_metrics({**values, "epoch": self.trainer.current_epoch}, self.trainer.global_step)
        self.log_dict(values, logger=False if fitting else None, sync_dist=True)
