"""What TensorBoard shows of a model besides its curves: made at each validation, in some milliseconds."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard.summary import histogram_raw

from namemlp.datamodule import NamesDataModule
from namemlp.module import NameModule
from namemlp.network import NameMLP
from namemlp.runs import is_finite
from namemlp.viz.embedding_image import render_embedding, render_saturation
from namemlp.viz.errors import describe_names_by_loss, evaluate_examples
from namemlp.viz.labels import character_classes, character_labels
from namemlp.windows import ContextDataset

SATURATED, BINS = 0.97, 64  # |tanh| above which a unit hardly learns: its gradient is 6% of the largest
NUM_NAMES, MAX_LENGTH, SEED = 20, 20, 0  # the same random numbers each time, so that one sees the names become better
LAYOUT = {
    "namemlp": {
        "loss: train and val": ["Multiline", ["^train/loss$", "^val/loss$", "^val/counting_loss$"]],
        "tanh units: share saturated, share dead": ["Multiline", ["^val/saturated_units", "^val/dead_units$"]],
        "log10 of update size / weight size": ["Multiline", ["^weights/update/"]],
        "log10 of gradient size / weight size": ["Multiline", ["^weights/gradient/"]],
    }
}


@contextmanager
def one_thread() -> Iterator[None]:
    """Small products gain nothing from several threads, and wait for them where other processes hold the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class ModelDiagnostics(Callback):
    """Log to TensorBoard at each validation the embedding, names, tanh units, gradients and sizes of updates.

    At the start and at the end it logs which tanh units are saturated; at the end also the Projector, and the names of
    the validation split with the lowest and with the highest loss. Of a network other than NameMLP it shows each
    `nn.Tanh` as a layer, and the `nn.Embedding` of its characters.

    It uses no random generator of training; without TensorBoardLogger, NameModule or NamesDataModule it does nothing.
    """

    writer = None  # the SummaryWriter of a run that it knows

    @one_thread()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_known = isinstance(trainer.datamodule, NamesDataModule) and isinstance(pl_module, NameModule)
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        self.writer = loggers[0].experiment if is_known and trainer.is_global_zero and loggers else None
        if self.writer is not None:
            self.writer.add_custom_scalars(LAYOUT)
            if trainer.global_step == 0:
                self.log_saturation(trainer, pl_module)

    @one_thread()
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.writer is None or trainer.sanity_checking or not is_finite(pl_module):
            return  # a run that has diverged has nothing to show
        step, writer, summary = trainer.global_step, self.writer, []
        network, val_set = pl_module.network, trainer.datamodule.val_set
        values, gradients = update_sizes(trainer, pl_module)
        for layer, units in tanh_layers(network, val_set).items():
            values[f"val/saturated_units{layer}"] = (units.abs() > SATURATED).float().mean().item()
            if type(network) is NameMLP:
                values["val/dead_units"] = count_dead(network, val_set, units) / units.shape[1]
            summary += histogram(f"val/tanh_units{layer}", units, 1)
        if embedding := character_embedding(pl_module):
            picture = render_embedding(embedding.weight, pl_module.vocabulary.characters)
            summary.append(image("weights/embedding", *picture))
        summary += [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        for name, gradient in gradients.items():
            summary += histogram(f"weights/gradients/{name}", gradient, gradient.abs().max().item())
        writer.file_writer.add_summary(Summary(value=summary), step)
        names = pl_module.sample(NUM_NAMES, seed=SEED, max_length=MAX_LENGTH)
        is_new = [not seen for seen in pl_module.seen_in_training(names)]
        lines = "\n".join(f"- {name}{' (new)' if new else ''}" for name, new in zip(names, is_new, strict=True))
        writer.add_text("names", f"{sum(is_new) / NUM_NAMES:.0%} of these {NUM_NAMES} are new\n\n{lines}", step)

    @one_thread()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.writer is not None and is_finite(pl_module):
            self.log_saturation(trainer, pl_module)
            evaluation = evaluate_examples(pl_module.network, pl_module.vocabulary, trainer.datamodule.val_set)
            self.writer.add_text("val_names", describe_names_by_loss(evaluation), trainer.global_step)
            if embedding := character_embedding(pl_module):
                labels, kinds = (f(pl_module.vocabulary.characters) for f in (character_labels, character_classes))
                rows, header = [list(row) for row in zip(labels, kinds, strict=True)], ["character", "kind"]
                weights = embedding.weight.float()
                self.writer.add_embedding(weights, rows, None, trainer.global_step, "characters", header)

    def log_saturation(self, trainer: Trainer, pl_module: LightningModule) -> None:
        summary = []
        for layer, units in tanh_layers(pl_module.network, trainer.datamodule.val_set).items():
            summary.append(image(f"val/saturated{layer}", *render_saturation(units.abs() > SATURATED)))
            if trainer.global_step == 0:  # at the end the validation has logged it
                summary += histogram(f"val/tanh_units{layer}", units, 1)
        self.writer.file_writer.add_summary(Summary(value=summary), trainer.global_step)


def image(name: str, png: bytes, size: tuple[int, int]) -> Summary.Value:
    encoded = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=png)
    return Summary.Value(tag=name, image=encoded)


def histogram(name: str, values: Tensor, limit: float) -> list[Summary.Value]:
    """A histogram of values from -limit to limit, in one pass over them."""
    if not math.isfinite(limit) or limit == 0:
        return []
    values = values.float()
    sums = values.sum().item(), values.square().sum().item()
    limits = torch.linspace(-limit, limit, BINS + 1)[1:].tolist()
    counts = torch.histc(values, BINS, -limit, limit).tolist()
    return histogram_raw(name, -limit, limit, values.numel(), *sums, limits, counts).value


def character_embedding(module: NameModule) -> nn.Embedding | None:
    embeddings = (part for part in module.network.modules() if isinstance(part, nn.Embedding))
    return next((part for part in embeddings if part.num_embeddings == len(module.vocabulary.characters)), None)


@torch.inference_mode()
def tanh_layers(network: nn.Module, examples: ContextDataset) -> dict[str, Tensor]:
    """The tanh layers for 256 examples that are spread over a split, by what their names end in: (B, H) each.

    Of NameMLP it is one, ""; of another network they are the `nn.Tanh` in it, "/1", "/2", …, at the last place.
    """
    if type(network) is NameMLP:
        return {"": tanh_units(network, examples)}
    layers: list[Tensor] = []
    network = copy.deepcopy(network).eval()
    for part in network.modules():
        if isinstance(part, nn.Tanh):
            part.register_forward_hook(lambda _, __, units: layers.append(units))
    x = examples[evenly_spaced(examples, 256)][0].to(next(network.parameters()).device)
    use_batch_statistics(network, x)
    network(x)
    layers = [units for units in layers if units.dim() > 1 and len(units) == len(x)]
    return {f"/{n}": units.reshape(len(x), -1, units.shape[-1])[:, -1].float() for n, units in enumerate(layers, 1)}


def use_batch_statistics(network: nn.Module, x: Tensor) -> None:  # as in training, where there is more than one example
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d) and len(x) > 1:
            part.running_mean = part.running_var = None


@torch.inference_mode()
def tanh_units(network: NameMLP, examples: ContextDataset) -> Tensor:
    """The tanh units for 256 examples that are spread over a split, (B, H)."""
    embedded = network.embedding(examples[evenly_spaced(examples, 256)][0].to(network.hidden.weight.device)).flatten(
        1
    )  # (B, T * C)
    return torch.tanh(network.hidden(embedded)).float()


@torch.inference_mode()
def count_dead(network: NameMLP, examples: ContextDataset, hidden: Tensor) -> int:
    """How many tanh units are saturated for all of a split; `hidden` are the units for some of it."""
    dead = (hidden.abs() > SATURATED).all(0).nonzero()[:, 0]  # so far: of the others it is clear that they are not
    for part in torch.arange(len(examples)).split(2**15) if len(dead) else ():
        embedded = network.embedding(examples[part][0].to(dead.device)).flatten(1)  # (B, T * C)
        units = F.linear(embedded, network.hidden.weight[dead], network.hidden.bias[dead]).float().tanh()  # (B, dead)
        dead = dead[(units.abs() > SATURATED).all(0)]
    return len(dead)


def evenly_spaced(examples: ContextDataset, count: int) -> Tensor:
    """The indices of `count` examples from the first to the last, or of all; by float64, exact in the longest list."""
    return torch.linspace(0, len(examples) - 1, min(len(examples), count), dtype=torch.float64).long()


def update_sizes(trainer: Trainer, module: NameModule) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The sizes of one more step over spread examples and of its gradients, by tensor, and the gradients.

    `weights/update` and `weights/gradient` are log10 of norms over the norm of the weights.
    """
    if len(trainer.optimizers) != 1 or isinstance(trainer.optimizers[0], torch.optim.LBFGS):
        return {}, {}  # LBFGS cannot be copied
    [optimizer], examples = trainer.optimizers, trainer.datamodule.train_set
    count = trainer.datamodule.hparams.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    group, weights = optimizer.param_groups[0], dict(module.network.named_parameters())
    weights = {name: p for name, p in weights.items() if p.requires_grad}
    no_cudnn = torch.backends.cudnn.flags(enabled=False)  # whose recurrent networks learn in training mode alone
    with torch.inference_mode(False), torch.enable_grad(), no_cudnn:
        x, y = (part.to(module.device) for part in examples[evenly_spaced(examples, count)])
        is_sgd = type(optimizer) is torch.optim.SGD and not (group["momentum"] or group["weight_decay"])
        if (
            type(module.network) is NameMLP
            and is_sgd
            and len(optimizer.param_groups) == 1
            and not trainer.gradient_clip_val
        ):  # a third of the time
            gradients = torch.autograd.grad(F.cross_entropy(module.network(x), y), weights.values())
            changes = [group["lr"] * gradient for gradient in gradients]
        else:
            network, optimizer = copy.deepcopy((module.network, optimizer))
            use_batch_statistics(network, x)
            F.cross_entropy(network(x), y).backward()
            trained = [p for p in network.parameters() if p.requires_grad]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense().clone() for p in trained]
            module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
            optimizer.step()
            changes = [after - before for after, before in zip(trained, weights.values(), strict=True)]
        sizes = {}
        for (name, before), change, gradient in zip(weights.items(), changes, gradients, strict=True):
            norms = torch.stack([before.norm(), change.norm(), gradient.norm()]).double()
            update_ratio, gradient_ratio = (norms[1:] / norms[0]).log10().tolist()
            sizes |= {f"weights/update/{name}": update_ratio, f"weights/gradient/{name}": gradient_ratio}
            sizes[f"weights/gradient_norm/{name}"] = norms[2].item()
    finite = {name: size for name, size in sizes.items() if math.isfinite(size)}
    return finite, dict(zip(weights, gradients, strict=True))
