"""The network as a LightningModule: loss, metrics, optimizer."""

import math
import sys
from collections.abc import Iterable
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import ReduceLROnPlateau, instantiate_class
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from namemlp.errors import UserError
from namemlp.network import NameMLP
from namemlp.vocabulary import Vocabulary

SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}
Batch = tuple[Tensor, Tensor]  # (B, T) contexts and (B,) next characters


class NameModule(LightningModule):
    """A `NameMLP` with cross-entropy, its metrics and an optimizer.

    Everything that builds the model again is kept in its checkpoints: `NameModule.load_from_checkpoint(path)`.

    Args:
        vocabulary: the characters the model knows, '.' first; comes from the data
        context_length: how many characters the model sees (T)
        embedding_dim: numbers that stand for a character (C)
        hidden_size: tanh units
        init: start of the weights: notebook: every tensor N(0, 1); scaled: by fan-in, with biases 0
        init_seed: seed of the start of the weights, the notebook's own; seed_everything does not change it
        optimizer: {class_path, init_args} of a torch optimizer; null: SGD with lr 0.01
        lr_scheduler: {class_path, init_args} of a torch scheduler, stepped once an update; null: constant

    Raises:
        UserError: a number is out of its range, or the model too large for the memory.
    """

    def __init__(
        self,
        vocabulary: str,
        context_length: int = 3,
        embedding_dim: int = 5,
        hidden_size: int = 200,
        init: Literal["notebook", "scaled"] = "notebook",
        init_seed: int = 2147483647,
        optimizer: dict[str, Any] | None = None,
        lr_scheduler: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        for name in ("context_length", "embedding_dim", "hidden_size"):
            if self.hparams[name] < 1:
                raise UserError(f"{name} is {self.hparams[name]}: it must be at least 1")
        if not 0 <= init_seed < 2**63:
            raise UserError(f"init_seed is {init_seed}: it must be from 0 to 2**63 - 1")
        self.vocabulary = Vocabulary(vocabulary)
        size = len(self.vocabulary)
        try:
            self.network = NameMLP(size, context_length, embedding_dim, hidden_size, init, init_seed)
        except RuntimeError as error:
            raise UserError(f"a model of this size cannot be made: {error}") from error
        self.metrics = nn.ModuleDict(
            {
                "loss": MeanMetric(),
                "top1": MulticlassAccuracy(size, average="micro", validate_args=False),
                "top5": MulticlassAccuracy(size, top_k=min(5, size), average="micro", validate_args=False),
            }
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, T) -> (B, V)
        return self.network(x)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        self.batch_loss = F.cross_entropy(self(x), y)
        return self.batch_loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Written here and not with self.log, which works at every step for what is shown at one in fifty.
        step = self.trainer.global_step + 1
        every = self.trainer.log_every_n_steps
        if every and step % every == 0:
            loss = self.batch_loss.detach()
            curves = {"train/loss": loss.item(), "train/log10_loss": loss.log10().item()}
            for logger in self.loggers:
                logger.log_metrics({**curves, "lr": optimizer.param_groups[0]["lr"]}, step)

    def on_train_start(self) -> None:
        self.last_step = self.trainer.estimated_stepping_batches

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.trainer.global_step >= self.last_step:
            self.trainer.should_stop = True  # the Trainer then validates, also where the interval does not end here

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._update_metrics(batch)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._update_metrics(batch)

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The log-probability of each example's next character, (B,)."""
        x, y = batch
        return -F.cross_entropy(self(x).float(), y, reduction="none")

    @torch.inference_mode()
    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Loss (in nats), perplexity, bits per character, top-1 and top-5 accuracy over all examples of batches."""
        for x, y in batches:
            self._update_metrics((x.to(self.device), y.to(self.device)))
        return self._compute_metrics()

    def configure_optimizers(self) -> Any:
        try:
            optimizer = instantiate_class(self.parameters(), self.hparams.optimizer or SGD)
            if not self.hparams.lr_scheduler:
                return optimizer
            scheduler = instantiate_class(optimizer, self.hparams.lr_scheduler)
        except (ValueError, TypeError) as error:
            raise UserError(f"the optimizer or its lr_scheduler does not take its settings: {error}") from error
        config = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):  # stepped after each validation, never by the Trainer
            config.update(monitor=scheduler.monitor, interval="epoch", frequency=sys.maxsize)
        return {"optimizer": optimizer, "lr_scheduler": config}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["trainer"] = trainer_settings(self.trainer)

    def _update_metrics(self, batch: Batch) -> None:
        x, y = batch
        logits = self(x).float()  # half precision would round the loss to three digits
        self.metrics["loss"].update(F.cross_entropy(logits, y), weight=len(y))
        self.metrics["top1"].update(logits, y)
        self.metrics["top5"].update(logits, y)

    def _compute_metrics(self) -> dict[str, float]:
        values = {name: metric.compute() for name, metric in self.metrics.items()}
        for metric in self.metrics.values():
            metric.reset()
        values["perplexity"] = values["loss"].exp()
        values["bits_per_character"] = values["loss"] / math.log(2)
        return {name: value.item() for name, value in values.items()}

    def _log_metrics(self, split: str) -> None:
        values = {f"{split}/{name}": value for name, value in self._compute_metrics().items()}
        if self.trainer.state.fn == "fit":
            self._step_plateau_schedulers(values)
            values["step"] = float(self.trainer.global_step)  # the logger's x axis, else the number of batches less one
        self.log_dict(values, sync_dist=True)

    def _step_plateau_schedulers(self, metrics: dict[str, float]) -> None:
        """Here and not by the Trainer, which does so at the end of an epoch and forgets it when a run is resumed."""
        for config in self.trainer.lr_scheduler_configs:
            if not config.reduce_on_plateau or self.trainer.sanity_checking:
                continue
            if config.monitor not in metrics:
                raise UserError(f"lr_scheduler.monitor is {config.monitor!r}: give one of {', '.join(metrics)}")
            config.scheduler.step(metrics[config.monitor])


def trainer_settings(trainer: Trainer) -> dict[str, Any]:
    """The Trainer's settings that decide what an update is, as plain values."""
    return {
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": trainer.gradient_clip_algorithm and trainer.gradient_clip_algorithm.value,
        "precision": trainer.precision,
    }
