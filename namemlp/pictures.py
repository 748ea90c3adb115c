"""The pictures that commands draw into a run folder. (Those of TensorBoard are drawn by inspection.py.)"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from namemlp.errors import MAKE_ROOM, UserError
from namemlp.module import NameModule
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


@torch.inference_mode()
def next_characters(model: NameModule, examples: ContextWindows) -> tuple[np.ndarray, np.ndarray]:
    """How often each character follows each other one in the examples of a split, and how often the model expects it.

    Returns:
        (V, V) counts of examples, a row for each last character of a context, a column for each next one.
        (V, V) sums of the model's probabilities over the same contexts.
    """
    size = len(model.vocabulary)
    counts, expected = torch.zeros(size * size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    for part in torch.arange(len(examples)).split(2048):
        x, y = examples[part]
        last = x[:, -1]
        counts += torch.bincount(last * size + y, minlength=size * size)
        expected.index_add_(0, last, model(x.to(model.device)).softmax(1).double().cpu())
    return counts.view(size, size).numpy(), expected.numpy()


def next_character_picture(counts: np.ndarray, expected: np.ndarray, characters: str) -> Figure:
    """P(next | last character) of the model, of the data, and their difference.

    Args:
        counts: as `next_characters` returns them, (V, V).
        expected: the same of the model.
        characters: V of them; the commonest are shown where there are too many.
    """
    often = counts.sum(1)
    data, model = (each / np.maximum(often, 1)[:, None] for each in (counts, expected))
    shown = np.sort(np.argsort(-often, kind="stable")[:MOST_CHARACTERS])
    model, data = (each[np.ix_(shown, shown)] for each in (model, data))
    title = "" if len(shown) == len(characters) else f" (the {len(shown)} commonest of {len(characters):,} characters)"
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
        _label(axes, [characters[i] for i in shown])
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
        figure.savefig(path, dpi=100)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): {MAKE_ROOM}") from error
