"""The network as a LightningModule: loss, metrics, optimizer."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from lightning import Callback, LightningModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric

import namemlp
from namemlp import sampling
from namemlp.corpus import are_known
from namemlp.errors import UserError, check_range, shorten
from namemlp.network import build_network, check_context_length, eval_mode
from namemlp.optimizers import SGD, RunChecks, build_optimizer, init_args, learning_rate
from namemlp.resume import correct_counters, get_rng_states, restore_rng_states
from namemlp.vocabulary import Vocabulary
from namemlp.windows import EpochSampler

Batch = tuple[Tensor, Tensor]  # (B, T) contexts and (B,) next characters


class NameModule(LightningModule):
    """A network with cross-entropy, metrics and an optimizer; its checkpoints hold all that builds it again.

    Args:
        vocabulary: the characters the model knows, '.' first; comes from the data
        context_length: characters that the model sees (T)
        network: name of a network, or {name, its settings}, or {class_path, init_args}; the next four are for mlp
        embedding_dim: embedding dimension (C)
        hidden_size: tanh units (H)
        dropout: dropout probability after tanh
        init: initial weights: notebook: every tensor N(0, 1); small_output: the logits a hundredth; scaled: by fan-in,
            with biases 0; zeros
        init_seed: seed of the initial weights, the notebook's own; seed_everything does not change it
        optimizer: {class_path, init_args} of a torch optimizer, or its name; null: SGD with lr 0.01
        lr_scheduler: {class_path, init_args} of a torch scheduler, or its name; stepped once a step; null: constant

    Raises: UserError: a number is out of range, or the model too large for the memory.
    """

    def __init__(
        self,
        vocabulary: str,
        context_length: int = 3,
        network: str | dict[str, Any] = "mlp",
        embedding_dim: int = 5,
        hidden_size: int = 200,
        dropout: float = 0.0,
        init: Literal["notebook", "small_output", "scaled", "zeros"] = "notebook",
        init_seed: int = 2147483647,
        optimizer: str | dict[str, Any] | None = None,
        lr_scheduler: str | dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.hparams.vocabulary = str(vocabulary)
        check_range(1, context_length=context_length, embedding_dim=embedding_dim, hidden_size=hidden_size)
        check_range(0, 1, "from 0 to below 1", dropout=dropout)
        check_range(0, 2**63, "from 0 to 2**63 - 1", init_seed=init_seed)
        self.vocabulary = Vocabulary(str(vocabulary))
        if complete_network := namemlp.plug("complete_network"):
            self.hparams.network = complete_network(self.hparams)
        self.network = build_network(self.hparams)
        self._metrics: dict[tuple[str, int], Any] = {}  # of each split and loader, new for each evaluation
        self.training_names = np.zeros(0, np.int32)  # the sorted `hash_names` of the lists it was trained on
        self._window: list[Tensor] = []  # losses of the batches that are accumulated for a step
        self._rng_states: Any = []  # of the checkpoint that a run is resumed from

    def forward(self, x: Tensor) -> Tensor:  # (B, T) -> (B, V)
        check_context_length(x, self.hparams.context_length)
        return self.network(x)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self(x), y)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(*batch)
        if self.trainer.world_size > 1 and isinstance(self._train_sampler, EpochSampler):
            loss = loss * self._train_sampler.loss_weight(batch_idx)  # the last batches may be of unequal size
        self._window = [*self._window[: batch_idx % self.trainer.accumulate_grad_batches], loss.detach()]
        self.log_train_loss(self._window[0] if len(self._window) == 1 else torch.stack(self._window).mean())
        if any(optimizer.param_groups for optimizer in self.trainer.optimizers[:1]):
            self.log("lr", torch.tensor(learning_rate(self.trainer), dtype=torch.float64))
        return loss

    def log_train_loss(self, loss: Tensor) -> None:
        self.log("train/loss", loss, prog_bar=True, sync_dist=self.trainer.world_size > 1)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._update_metrics("val", batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._update_metrics("test", batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:  # (B,) log-probabilities of the next characters
        x, y = batch
        return -F.cross_entropy(self(x).float(), y, reduction="none")

    def _update_metrics(self, split: str, batch: Batch, batch_idx: int, dataloader_idx: int) -> None:
        if batch_idx == 0 or (split, dataloader_idx) not in self._metrics:
            self._metrics[split, dataloader_idx] = split_metrics(self.device)
        (x, y), metrics = batch, self._metrics[split, dataloader_idx]
        update_metrics(metrics, self(x), y)
        if batch_idx == 0:  # once: Lightning computes and reduces the metrics when the epoch ends
            for name, metric in metrics.items():
                self.log(f"{split}/{name}", metric, prog_bar=name == "loss", metric_attribute=f"{split} {name}")

    @property
    def lr(self) -> float | None:  # where Lightning's `Tuner.lr_find` looks for the optimizer's setting
        return init_args(self.hparams.optimizer or SGD).get("lr")

    @lr.setter
    def lr(self, lr: float) -> None:
        settings = self.hparams.optimizer or SGD
        class_path = settings if isinstance(settings, str) else settings["class_path"]
        self.hparams.optimizer = {"class_path": class_path, "init_args": {**init_args(settings), "lr": lr}}

    def configure_optimizers(self) -> Any:
        return build_optimizer(self, self.hparams.optimizer or SGD, self.hparams.lr_scheduler)

    def configure_callbacks(self) -> list[Callback]:
        given = self.trainer.callbacks
        kinds = [kind for kind in (RunChecks, namemlp.plug("FastMatmul")) if kind]
        return [kind() for kind in kinds if not any(isinstance(callback, kind) for callback in given)]

    @property
    def _train_sampler(self) -> Any:
        return getattr(self.trainer.train_dataloader, "sampler", None)

    def on_train_start(self) -> None:
        if isinstance(self._train_sampler, EpochSampler):
            self._train_sampler.trainer = self.trainer  # it does not know it where fit was given loaders alone
        correct_counters(self.trainer)
        restore_rng_states(self._rng_states if self.trainer.ckpt_path else [], self.trainer.global_rank)
        if splits := getattr(self.trainer.datamodule, "splits", None):
            known, new = self.training_names, splits.name_hashes
            self.training_names = np.union1d(known, new) if len(known) else new

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rng_states"] = get_rng_states()
        checkpoint["training_names"] = torch.from_numpy(self.training_names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rng_states = checkpoint.get("rng_states", [])
        if "training_names" in checkpoint:
            self.training_names = np.unique(checkpoint["training_names"].numpy())

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> "NameModule":
        """The model of a checkpoint (a path or file object); runs nothing in it unless `weights_only=False`."""
        settings = {"weights_only": True, **kwargs}
        if settings["weights_only"] is not False and (check := namemlp.plug("check_checkpoint")):
            check(checkpoint_path, is_name_module=cls is NameModule)
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **settings)
        except RuntimeError as error:
            text = f"{checkpoint_path} does not hold the weights of its model: {shorten(str(error))}"
            raise UserError(text) from error

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Loss (in nats), perplexity, bits per character, top-1 and top-5 accuracy over the batches of this process."""
        metrics = split_metrics(self.device, sync_on_compute=False)
        with eval_mode(self):
            for x, y in batches:
                update_metrics(metrics, self(x.to(self.device)), y.to(self.device))
            if not metrics["loss"].update_called:
                raise UserError("there are no batches to evaluate")
            return {name: metric.compute().item() for name, metric in metrics.items()}

    def sample(self, *args: Any, **settings: Any) -> list[str]:
        """New names, by the settings of `namemlp.sampling.sample_names` from num_names on."""
        model = self.network, self.vocabulary, self.hparams.context_length
        return sampling.sample_names(*model, *args, training_names=self.training_names, **settings)

    def log_prob(self, names: Sequence[str]) -> Tensor:
        """The log-probability of each name with its end, in nats, (names,) float64."""
        return sampling.log_prob(self, self.vocabulary, self.hparams.context_length, names)

    score = log_prob  # its name in version 1

    def seen_in_training(self, names: Sequence[str]) -> list[bool]:  # validation and test included
        return are_known(names, self.training_names).tolist()


class Mean(MeanMetric):
    dtype = torch.float32  # of the values that are summed, also in a run whose default is bfloat16


class Perplexity(Mean):
    def compute(self) -> Tensor:
        return super().compute().exp()


class BitsPerCharacter(Mean):
    def compute(self) -> Tensor:
        return super().compute() / math.log(2)


def split_metrics(device: torch.device, **settings: Any) -> dict[str, Mean]:
    """What is computed over a split: means over its examples, in 32 bits (half precision does not count beyond 256)."""
    kinds = dict(loss=Mean, perplexity=Perplexity, bits_per_character=BitsPerCharacter, top1=Mean, top5=Mean)
    settings["nan_strategy"] = "disable"  # NaN stays NaN, and is not looked for, which takes longer than all the rest
    return {name: kind(**settings).set_dtype(torch.float32).to(device) for name, kind in kinds.items()}


def update_metrics(metrics: dict[str, Mean], logits: Tensor, y: Tensor) -> None:  # (B, V) and (B,) next characters
    logits = logits.float()  # half precision would round the loss to three digits
    losses = F.cross_entropy(logits, y, reduction="none")
    rank = (logits > logits.gather(1, y[:, None])).sum(1)  # of the next character among all, from 0
    hits = {"top1": (rank < 1).float(), "top5": (rank < 5).float()}
    for name, metric in metrics.items():
        metric.update(hits.get(name, losses))
