"""What TensorBoard shows of a model besides its curves: made at each validation, in some milliseconds."""

import copy
import importlib.util
import io
import unicodedata
from functools import cache, lru_cache
from math import ceil, floor
from pathlib import Path

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageColor, ImageDraw, ImageFont
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.nn import functional as F

from namemlp.datamodule import NamesDataModule
from namemlp.engines import more_than_sgd
from namemlp.network import NameMLP
from namemlp.vocabulary import END
from namemlp.windows import ContextWindows

SATURATED = 0.97  # |tanh| above which a unit hardly learns: its gradient is 6% of the largest
BINS = 64
NAMES, LONGEST, SEED = 20, 20, 0  # the same random numbers each time, so that one sees the names become better
LAYOUT = {
    "namemlp": {
        "loss: train and val": ["Multiline", ["^train/loss$", "^val/loss$"]],
        "tanh units: share saturated, share dead": ["Multiline", ["^tanh/saturated$", "^tanh/dead$"]],
        "log10 of update size / weight size": ["Multiline", ["^update/"]],
    }
}
COLORS = {"vowel": "#d1495b", "consonant": "#1f5fa8", "end mark": "#2a9d4a", "other": "#777777"}
VOWELS = set("aeiouøæœıə" + "аеиоуыэюяєі" + "αεηιουω")  # of Latin, Cyrillic and Greek letters, accents taken off
WIDTH, TOP, MARGIN = 340, 30, 20  # of the picture, in pixels; TensorBoard shows as many
MOST_CHARACTERS = 300


class Inspection(Callback):
    """Writes to the TensorBoard of a run, at each validation: a picture of the embedding, generated names, the tanh
    units over the validation split, and the size of an update beside that of the weights; at the end, the Projector.

    None of it draws from the random generators of training or is in its way.
    """

    logger: TensorBoardLogger | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        known = isinstance(trainer.datamodule, NamesDataModule) and type(pl_module.network) is NameMLP
        if loggers and known and trainer.is_global_zero:
            self.logger = loggers[0]
            self.logger.experiment.add_custom_scalars(LAYOUT)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.logger is None or trainer.sanity_checking:
            return
        step, writer = trainer.global_step, self.logger.experiment
        hidden, dead = tanh_units(pl_module.network, trainer.datamodule.val_set)
        values = {
            "tanh/saturated": (hidden.abs() > SATURATED).float().mean().item(),
            "tanh/dead": dead / hidden.shape[1],
            **update_ratios(trainer, pl_module),
        }
        self.logger.log_metrics(values, step)
        edges, counts = np.linspace(-1, 1, BINS + 1), torch.histc(hidden, BINS, -1, 1).cpu().numpy()
        middles = (edges[1:] + edges[:-1]) / 2
        moments = (counts @ middles, counts @ middles**2)
        writer.add_histogram_raw("tanh", -1, 1, counts.sum(), *moments, edges[1:].tolist(), counts.tolist(), step)
        names = pl_module.sample(NAMES, seed=SEED, max_length=LONGEST)
        new = [not known for known in pl_module.knows(names)]
        lines = "\n".join(f"- {name}{' (new)' if is_new else ''}" for name, is_new in zip(names, new, strict=True))
        writer.add_text("names", f"{sum(new) / NAMES:.0%} of these {NAMES} are new\n\n{lines}", step)
        weights = pl_module.network.embedding.weight.detach().float().cpu()
        picture = embedding_picture(weights, pl_module.vocabulary.characters)
        writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="embedding", image=picture)]), step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.logger is not None:
            characters = pl_module.vocabulary.characters
            self.logger.experiment.add_embedding(
                pl_module.network.embedding.weight.detach().float().cpu(),
                metadata=[[label(character), kind(character)] for character in characters],
                metadata_header=["character", "kind"],
                global_step=trainer.global_step,
                tag="characters",
            )


@torch.inference_mode()
def tanh_units(network: NameMLP, examples: ContextWindows) -> tuple[Tensor, int]:
    """The tanh units for 256 examples spread over a split, (256, H), and how many are saturated for all of it."""

    def units(index: Tensor, which: Tensor) -> Tensor:
        embedded = network.embedding(examples[index][0].to(which.device)).flatten(1)  # (B, T * C)
        return torch.tanh(F.linear(embedded, network.hidden.weight[which], network.hidden.bias[which])).float()

    everyone = torch.arange(network.hidden.out_features, device=network.hidden.weight.device)
    some = units(examples.spread(256), everyone)
    dead = everyone[(some.abs() > SATURATED).all(0)]  # so far: of the others it is clear that they are not
    for part in torch.arange(len(examples)).split(2**15) if len(dead) else ():
        dead = dead[(units(part, dead).abs() > SATURATED).all(0)]
    return some, len(dead)


def update_ratios(trainer: Trainer, module: LightningModule) -> dict[str, float]:
    """log10 of the size of an update over that of the weights, by tensor: of one more update, which is not kept.

    It is made with as many examples as an update has, spread over the training split.
    """
    if len(trainer.optimizers) != 1 or isinstance(trainer.optimizers[0], torch.optim.LBFGS):
        return {}  # LBFGS cannot be copied
    with torch.inference_mode(False), torch.enable_grad():
        examples, count = trainer.datamodule.train_set, trainer.train_dataloader.sampler.update_size
        spread = examples.spread(count * trainer.accumulate_grad_batches)
        x, y = (part.to(module.device) for part in examples[spread])
        before = dict(module.network.named_parameters())
        if more_than_sgd(trainer) is None and not trainer.gradient_clip_val:  # quicker than with copies
            gradients = torch.autograd.grad(F.cross_entropy(module.network(x), y), before.values())
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            changes = {name: rate * gradient for name, gradient in zip(before, gradients, strict=True)}
        else:
            network, optimizer = copy.deepcopy((module.network, trainer.optimizers[0]))
            F.cross_entropy(network(x), y).backward()
            module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
            optimizer.step()
            changes = {name: weights - before[name] for name, weights in network.named_parameters()}
        ratios = {name: (change.norm() / before[name].norm()).log10().item() for name, change in changes.items()}
    return {f"update/{name}": ratio for name, ratio in ratios.items() if np.isfinite(ratio)}


def plane(weights: Tensor) -> tuple[Tensor, float | None]:
    """An embedding in two dimensions, (V, 2): as it is where it has no more, else its two first principal axes.

    Returns:
        The places, and the share of the variance that the axes hold (None: as it is).
    """
    if weights.shape[1] <= 2:
        return F.pad(weights, (0, 2 - weights.shape[1])), None
    centered = weights - weights.mean(0)
    _, sizes, axes = torch.linalg.svd(centered, full_matrices=False)
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # else it may be mirrored next time
    axes = F.pad(axes, (0, 0, 0, 2))[:2]  # there may be one only
    return centered @ axes.T, ((sizes[:2] ** 2).sum() / (sizes**2).sum()).item()


def embedding_picture(weights: Tensor, characters: str) -> Summary.Image:
    """The characters at the places of their embedding, (V, C) weights."""
    places, share = plane(weights)
    shown = min(len(places), MOST_CHARACTERS)
    title = "embedding" if shown == len(places) else f"embedding of {shown} of {len(places):,} characters"
    if share is not None:
        title += f": 2 of {weights.shape[1]} principal axes, {share:.0%} of the variance"
    low, high = places[:shown].amin(0), places[:shown].amax(0)
    places = (places[:shown] - low) / (high - low).clamp(min=1e-9)  # 0 to 1
    places[:, 1] = 1 - places[:, 1]  # a picture's rows count from the top
    places = places * (WIDTH - 2 * MARGIN) + torch.tensor([MARGIN, TOP + MARGIN])

    # Few colors make a small file, and TensorBoard takes a tenth of a millisecond for the checksum of a kilobyte.
    image = Image.new("P", (WIDTH, WIDTH + 2 * TOP))
    image.putpalette(palette())

    def write(text: str, color: str, points: int, x: float, y: float) -> None:
        drawn, mask, left, top = text_picture(text, color, points)
        image.paste(drawn, (round(x) + left, round(y) + top), mask)

    ImageDraw.Draw(image).rectangle((4, TOP, WIDTH - 5, TOP + WIDTH - 1), outline=shades("other")[80])
    write(title, "other", 11, WIDTH / 2, TOP / 2)
    for character, place in zip(characters[:shown], places.tolist(), strict=True):
        write("end" if character == END else label(character), kind(character), 17, *place)
    kinds = [name for name in COLORS if name in map(kind, characters[:shown])]
    for i, name in enumerate(kinds):
        write(name, name, 11, WIDTH * (i + 0.5) / len(kinds), WIDTH + 1.5 * TOP)
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=3)
    return Summary.Image(width=image.width, height=image.height, colorspace=3, encoded_image_string=encoded.getvalue())


@cache
def palette() -> list[int]:
    """16 shades of each color, from white on."""
    colors = [ImageColor.getrgb(color) for color in COLORS.values()]
    return [round(255 + (part - 255) * shade / 15) for color in colors for shade in range(16) for part in color]


def shades(color: str) -> list[int]:
    """The places in `palette` of what a color is where it covers 0 to 255 parts of 255."""
    return [16 * list(COLORS).index(color) + cover // 16 for cover in range(256)]


@lru_cache(1000)  # else half the time of a picture
def text_picture(text: str, color: str, points: int) -> tuple[Image.Image, Image.Image, int, int]:
    """A text in the colors of `palette`, where it is not white, and where its left top corner is from its middle."""
    left, top, right, bottom = font(points).getbbox(text, anchor="mm")
    cover = Image.new("L", (max(1, ceil(right - left)), max(1, ceil(bottom - top))))
    ImageDraw.Draw(cover).text((-left, -top), text, fill=255, font=font(points), anchor="mm")
    drawn, mask = cover.point(shades(color)), cover.point([0] * 16 + [255] * 240)
    drawn.putpalette(palette())
    return drawn, mask, floor(left), floor(top)


@cache
def font(points: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which Matplotlib brings: it has the letters of many scripts."""
    folder = Path(importlib.util.find_spec("matplotlib").origin).parent
    return ImageFont.truetype(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", points)


def kind(character: str) -> str:
    """What kind of character it is, a key of COLORS."""
    if character == END:
        return "end mark"
    plain = unicodedata.normalize("NFD", character)[0].lower()
    script = unicodedata.name(plain, "").split(" ")[0]
    return "vowel" if plain in VOWELS else "consonant" if script in ("LATIN", "CYRILLIC", "GREEK") else "other"


def label(character: str) -> str:
    """The character where it can be seen, else its code point."""
    return character if character.isprintable() and not character.isspace() else f"U+{ord(character):04X}"
