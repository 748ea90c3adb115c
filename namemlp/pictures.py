"""The pictures that commands draw into a run folder. (Those of TensorBoard are drawn by inspection.py.)"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from namemlp.errors import MAKE_ROOM, UserError
from namemlp.inspection import label
from namemlp.module import NameModule
from namemlp.network import evaluating
from namemlp.sweep import smoothed
from namemlp.windows import ContextWindows

RAW, SMOOTH, OTHER = "#b9cfe8", "#1f5fa8", "#d1495b"
MOST_CHARACTERS = 60  # that a map can show

Curve = tuple[Sequence[int], Sequence[float]]  # steps and values


def loss_picture(train: Curve, val: Curve) -> Figure:
    """Loss, and its logarithm as in the notebook, against updates."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name, of in zip(
        figure.subplots(1, 2), ("loss", "log10 of the loss"), (np.asarray, np.log10), strict=True
    ):
        steps, losses = train[0], of(train[1])
        axes.plot(steps, losses, color=RAW, linewidth=0.8, label="train, a batch")
        axes.plot(steps, smoothed(losses, len(losses) / 100), color=SMOOTH, label="train, smoothed")
        axes.plot(val[0], of(val[1]), color=OTHER, marker="o", markersize=4, label="val")
        axes.set(xlabel="step (updates)", ylabel=f"{name} (nats)" if of is np.asarray else name, title=name)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.grid(alpha=0.3)
    axes.legend()
    return figure


def sweep_picture(rates: np.ndarray, losses: np.ndarray, suggested: float) -> Figure:
    """Loss against learning rate, each step with its own, and the suggested one."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    smooth = smoothed(losses)
    axes.plot(rates, losses, color=RAW, linewidth=0.8, label="loss of a batch")
    axes.plot(rates, smooth, color=SMOOTH, label="smoothed")
    axes.axvline(suggested, color=OTHER, linestyle="--", label=f"suggested: {suggested:.2g}")
    # What it does once it has diverged would flatten all that comes before.
    low, high = losses.min(), max(np.quantile(losses[: smooth.argmin() + 1], 0.99), 1.3 * smooth.min())
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (nats)", title="loss against learning rate")
    axes.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


@dataclass
class NextCharacters:
    """How often the commonest K characters of a split follow each other, and how often a model expects them to.

    Attributes:
        characters: K of them.
        of: how many the vocabulary has.
        often: contexts that end in each, (K,).
        counts: those that each other one follows, (K, K), a row for each last character.
        expected: the sums of the model's probabilities of it over the same contexts, (K, K).
    """

    characters: str
    of: int
    often: np.ndarray
    counts: np.ndarray
    expected: np.ndarray


def next_characters(model: NameModule, examples: ContextWindows, most: int = MOST_CHARACTERS) -> NextCharacters:
    """Count the examples of a split and what a model expects of them, for so many characters at most."""
    size, parts = len(model.vocabulary), torch.arange(len(examples)).split(2048)
    often = sum(torch.bincount(examples[part][0][:, -1], minlength=size) for part in parts)
    shown = often.argsort(descending=True, stable=True)[:most].sort().values
    place = torch.full((size,), -1).scatter(0, shown, torch.arange(len(shown)))
    counts = torch.zeros(len(shown), len(shown), dtype=torch.float64)
    expected = torch.zeros_like(counts)
    with evaluating(model):
        for part in parts:
            x, y = examples[part]
            kept = place[x[:, -1]] >= 0
            x, y = x[kept], place[y[kept]]
            last = place[x[:, -1]]
            counts.index_put_((last[y >= 0], y[y >= 0]), torch.ones(1, dtype=torch.float64), accumulate=True)
            expected.index_add_(0, last, model(x.to(model.device)).softmax(1).cpu().double().index_select(1, shown))
    return NextCharacters(model.vocabulary.decode(shown), size, often[shown].numpy(), counts.numpy(), expected.numpy())


def next_character_picture(found: NextCharacters) -> Figure:
    """P(next | last character) of the model, of the data, and their difference."""
    data, model = (each / np.maximum(found.often, 1)[:, None] for each in (found.counts, found.expected))
    many = len(found.characters) < found.of
    title = f" (the {len(found.characters)} commonest of {found.of:,} characters)" if many else ""
    figure = Figure(figsize=(18, 6), layout="constrained")
    figure.suptitle(f"P(next character | last character); '.' is the start and the end of a name{title}")
    most, apart = max(model.max(), data.max()), abs(model - data).max()
    shades = PowerNorm(0.5, vmin=0, vmax=most)  # the root: most probabilities are small
    panels = (
        ("model", model, dict(cmap="Blues", norm=shades)),
        ("data", data, dict(cmap="Blues", norm=shades)),
        ("model − data", model - data, dict(cmap="RdBu_r", vmin=-apart, vmax=apart)),
    )
    for axes, (name, values, colors) in zip(figure.subplots(1, 3), panels, strict=True):
        image = axes.imshow(values, **colors)
        _label(axes, [label(character) for character in found.characters])
        axes.set_title(name)
        figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def _label(axes: Axes, characters: list[str]) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(len(characters)), characters)
        axis.set_tick_params(labelsize=9, length=0)
    axes.set(xlabel="next character", ylabel="last character")
    axes.set_xticks(np.arange(len(characters)) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(characters)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.4)
    axes.tick_params(which="minor", length=0)


def save(figure: Figure, path: Path) -> None:
    """Write a picture as PNG.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # it draws a box for it
            figure.savefig(path, dpi=100)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): {MAKE_ROOM}") from error
