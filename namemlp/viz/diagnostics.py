"""What TensorBoard shows of a model besides its curves: made at each validation, in some milliseconds."""

import copy
import math

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.nn import functional as F

from namemlp.datamodule import NamesDataModule
from namemlp.module import NameModule
from namemlp.network import NameMLP
from namemlp.viz.embedding_image import render_embedding
from namemlp.viz.labels import character_classes, character_labels
from namemlp.windows import ContextDataset

SATURATED, BINS = 0.97, 64  # |tanh| above which a unit hardly learns: its gradient is 6% of the largest
NUM_NAMES, MAX_LENGTH, SEED = 20, 20, 0  # the same random numbers each time, so that one sees the names become better
LAYOUT = {
    "namemlp": {
        "loss: train and val": ["Multiline", ["^train/loss$", "^val/loss$"]],
        "tanh units: share saturated, share dead": ["Multiline", ["^val/saturated_units$", "^val/dead_units$"]],
        "log10 of update size / weight size": ["Multiline", ["^weights/update/"]],
    }
}


class ModelDiagnostics(Callback):
    """Log to TensorBoard at each validation: the embedding, names, tanh units, update sizes; at the end, the Projector.

    It uses no random generator of training; without TensorBoardLogger, NameMLP or NamesDataModule it does nothing.
    """

    writer = None  # the SummaryWriter of a run that it knows

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_known = isinstance(trainer.datamodule, NamesDataModule) and isinstance(pl_module, NameModule)
        is_known = is_known and type(pl_module.network) is NameMLP and trainer.is_global_zero
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        self.writer = loggers[0].experiment if is_known and loggers else None
        if self.writer is not None:
            self.writer.add_custom_scalars(LAYOUT)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.writer is None or trainer.sanity_checking:
            return
        step, writer = trainer.global_step, self.writer
        hidden, num_dead = tanh_units(pl_module.network, trainer.datamodule.val_set)
        share = (hidden.abs() > SATURATED).float().mean().item()
        values = {"val/saturated_units": share, "val/dead_units": num_dead / hidden.shape[1]}
        values |= update_ratios(trainer, pl_module)
        png, size = render_embedding(pl_module.network.embedding.weight, pl_module.vocabulary.characters)
        image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=png)
        summary = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        writer.file_writer.add_summary(
            Summary(value=[*summary, Summary.Value(tag="weights/embedding", image=image)]), step
        )
        sums = hidden.sum().item(), hidden.square().sum().item()
        limits, counts = torch.linspace(-1, 1, BINS + 1)[1:].tolist(), torch.histc(hidden, BINS, -1, 1).tolist()
        writer.add_histogram_raw("val/tanh_units", -1, 1, hidden.numel(), *sums, limits, counts, step)
        names = pl_module.sample(NUM_NAMES, seed=SEED, max_length=MAX_LENGTH)
        is_new = [not seen for seen in pl_module.seen_in_training(names)]
        lines = "\n".join(f"- {name}{' (new)' if new else ''}" for name, new in zip(names, is_new, strict=True))
        writer.add_text("names", f"{sum(is_new) / NUM_NAMES:.0%} of these {NUM_NAMES} are new\n\n{lines}", step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.writer is not None:
            characters = pl_module.vocabulary.characters
            rows = [list(row) for row in zip(character_labels(characters), character_classes(characters), strict=True)]
            weights, header = pl_module.network.embedding.weight.float(), ["character", "kind"]
            self.writer.add_embedding(weights, rows, None, trainer.global_step, "characters", header)


@torch.inference_mode()
def tanh_units(network: NameMLP, examples: ContextDataset) -> tuple[Tensor, int]:
    """The tanh units for 256 examples spread over a split, (256, H), and how many are saturated for all of it."""

    def units(index: Tensor, subset: Tensor) -> Tensor:
        embedded = network.embedding(examples[index][0].to(subset.device)).flatten(1)  # (B, T * C)
        return torch.tanh(F.linear(embedded, network.hidden.weight[subset], network.hidden.bias[subset])).float()

    everyone = torch.arange(network.hidden.out_features, device=network.hidden.weight.device)
    some = units(evenly_spaced(examples, 256), everyone)
    dead = everyone[(some.abs() > SATURATED).all(0)]  # so far: of the others it is clear that they are not
    for part in torch.arange(len(examples)).split(2**15) if len(dead) else ():
        dead = dead[(units(part, dead).abs() > SATURATED).all(0)]
    return some, len(dead)


def evenly_spaced(examples: ContextDataset, count: int) -> Tensor:
    """The indices of `count` examples from the first to the last, or of all; by float64, exact in the longest list."""
    return torch.linspace(0, len(examples) - 1, min(len(examples), count), dtype=torch.float64).long()


def update_ratios(trainer: Trainer, module: NameModule) -> dict[str, float]:
    """log10 of the size of a step over that of the weights, by tensor, of one more step over spread examples."""
    if len(trainer.optimizers) != 1 or isinstance(trainer.optimizers[0], torch.optim.LBFGS):
        return {}  # LBFGS cannot be copied
    [optimizer], examples = trainer.optimizers, trainer.datamodule.train_set
    count = trainer.datamodule.hparams.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    group, weights = optimizer.param_groups[0], dict(module.network.named_parameters())
    with torch.inference_mode(False), torch.enable_grad():
        x, y = (part.to(module.device) for part in examples[evenly_spaced(examples, count)])
        is_sgd = type(optimizer) is torch.optim.SGD and not (group["momentum"] or group["weight_decay"])
        if is_sgd and len(optimizer.param_groups) == 1 and not trainer.gradient_clip_val:  # a third of the time
            gradients = torch.autograd.grad(F.cross_entropy(module.network(x), y), weights.values())
            changes = [group["lr"] * gradient for gradient in gradients]
        else:
            network, optimizer = copy.deepcopy((module.network, optimizer))
            F.cross_entropy(network(x), y).backward()
            module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
            optimizer.step()
            changes = [after - before for after, before in zip(network.parameters(), weights.values(), strict=True)]
        pairs = zip(weights.values(), changes, strict=True)
        ratios = [(change.norm() / before.norm()).log10().item() for before, change in pairs]
    return {
        f"weights/update/{name}": ratio for name, ratio in zip(weights, ratios, strict=True) if math.isfinite(ratio)
    }
