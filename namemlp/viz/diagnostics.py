"""What TensorBoard shows of a model besides its curves: made at each validation, in some milliseconds."""

import copy

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.nn import functional as F

from namemlp.datamodule import NamesDataModule
from namemlp.module import NameModule
from namemlp.network import NameMLP
from namemlp.viz.embedding_image import character_class, label, render_embedding
from namemlp.windows import ContextDataset

SATURATED = 0.97  # |tanh| above which a unit hardly learns: its gradient is 6% of the largest
BINS = 64
NUM_NAMES, MAX_LENGTH, SEED = 20, 20, 0  # the same random numbers each time, so that one sees the names become better
LAYOUT = {
    "namemlp": {
        "loss: train and val": ["Multiline", ["^train/loss$", "^val/loss$"]],
        "tanh units: share saturated, share dead": ["Multiline", ["^tanh/saturated$", "^tanh/dead$"]],
        "log10 of update size / weight size": ["Multiline", ["^update/"]],
    }
}


class ModelDiagnostics(Callback):
    """Log to the TensorBoard of a run, at each validation: a picture of the embedding, generated names, the tanh units
    over the validation split, and the size of a step beside that of the weights; at the end, the Projector.

    None of it draws from the random generators of training. It needs a TensorBoardLogger, a NameModule with a NameMLP
    and a NamesDataModule, and does nothing without them.
    """

    logger: TensorBoardLogger | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        is_known = isinstance(trainer.datamodule, NamesDataModule) and isinstance(pl_module, NameModule)
        self.logger = None
        if loggers and is_known and type(pl_module.network) is NameMLP and trainer.is_global_zero:
            self.logger = loggers[0]
            self.logger.experiment.add_custom_scalars(LAYOUT)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.logger is None or trainer.sanity_checking:
            return
        step, writer = trainer.global_step, self.logger.experiment
        hidden, num_dead = tanh_units(pl_module.network, trainer.datamodule.val_set)
        values = {
            "tanh/saturated": (hidden.abs() > SATURATED).float().mean().item(),
            "tanh/dead": num_dead / hidden.shape[1],
            **update_ratios(trainer, pl_module),
        }
        png, (width, height) = render_embedding(embedding_weights(pl_module), pl_module.vocabulary.characters)
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
        summary = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        summary.append(Summary.Value(tag="embedding", image=image))
        writer.file_writer.add_summary(Summary(value=summary), step)
        edges, counts = np.linspace(-1, 1, BINS + 1), torch.histc(hidden, BINS, -1, 1).cpu().numpy()
        middles = (edges[1:] + edges[:-1]) / 2
        moments = (counts @ middles, counts @ middles**2)
        writer.add_histogram_raw("tanh", -1, 1, counts.sum(), *moments, edges[1:].tolist(), counts.tolist(), step)
        names = pl_module.sample(NUM_NAMES, seed=SEED, max_length=MAX_LENGTH)
        is_new = [not seen for seen in pl_module.seen_in_training(names)]
        lines = "\n".join(f"- {name}{' (new)' if new else ''}" for name, new in zip(names, is_new, strict=True))
        writer.add_text("names", f"{sum(is_new) / NUM_NAMES:.0%} of these {NUM_NAMES} are new\n\n{lines}", step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.logger is not None:
            characters = pl_module.vocabulary.characters
            self.logger.experiment.add_embedding(
                embedding_weights(pl_module),
                metadata=[[label(character), character_class(character)] for character in characters],
                metadata_header=["character", "kind"],
                global_step=trainer.global_step,
                tag="characters",
            )


def embedding_weights(module: NameModule) -> Tensor:
    return module.network.embedding.weight.detach().float().cpu()


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
    """The indices of this many examples from the first to the last (of all where they are fewer), (count,)."""
    # In 64 bits: in a long list the last would be beyond the end otherwise.
    return torch.linspace(0, len(examples) - 1, min(len(examples), count), dtype=torch.float64).long()


def update_ratios(trainer: Trainer, module: NameModule) -> dict[str, float]:
    """log10 of the size of a step over that of the weights, by tensor: of one more step, which is undone.

    It is made with as many examples as a step has, spread over the training split.
    """
    if len(trainer.optimizers) != 1 or isinstance(trainer.optimizers[0], torch.optim.LBFGS):
        return {}  # LBFGS cannot be copied
    with torch.inference_mode(False), torch.enable_grad():
        examples, count = trainer.datamodule.train_set, trainer.datamodule.hparams.batch_size * trainer.world_size
        index = evenly_spaced(examples, count * trainer.accumulate_grad_batches)
        x, y = (part.to(module.device) for part in examples[index])
        weights, [optimizer] = dict(module.network.named_parameters()), trainer.optimizers
        group = optimizer.param_groups[0]
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
        norms = zip(weights.items(), changes, strict=True)
        ratios = {name: (change.norm() / before.norm()).log10().item() for (name, before), change in norms}
    return {f"update/{name}": ratio for name, ratio in ratios.items() if np.isfinite(ratio)}
