"""The figures that commands save into a run folder, by Matplotlib."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import nn

from namemlp.network import eval_mode
from namemlp.runs import write_error
from namemlp.viz.embedding_image import label
from namemlp.vocabulary import Vocabulary
from namemlp.windows import ContextDataset

RAW, SMOOTH, OTHER = "#b9cfe8", "#1f5fa8", "#d1495b"
MAX_CHARACTERS = 60  # that a map can show

Curve = tuple[Sequence[int], Sequence[float]]  # steps and values


def plot_losses(train: Curve, val: Curve) -> Figure:
    """Loss, and its logarithm as in the notebook, against the step."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, title in zip(figure.subplots(1, 2), ("loss", "log10 of the loss"), strict=True):
        train_losses, val_losses = (curve[1] if title == "loss" else np.log10(curve[1]) for curve in (train, val))
        axes.plot(train[0], train_losses, color=RAW, linewidth=0.8, label="train, a batch")
        axes.plot(train[0], gaussian_smooth(train_losses, len(train[0]) / 100), color=SMOOTH, label="train, smoothed")
        axes.plot(val[0], val_losses, color=OTHER, marker="o", markersize=4, label="val")
        axes.set(xlabel="step", ylabel=f"{title} (nats)" if title == "loss" else title, title=title)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.grid(alpha=0.3)
    axes.legend()
    return figure


def plot_lr_range_test(lrs: np.ndarray, losses: np.ndarray, suggested: float) -> Figure:
    """Loss against learning rate, each step with its own, and the suggested one."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes, smooth = figure.subplots(), gaussian_smooth(losses)
    axes.plot(lrs, losses, color=RAW, linewidth=0.8, label="loss of a batch")
    axes.plot(lrs, smooth, color=SMOOTH, label="smoothed")
    axes.axvline(suggested, color=OTHER, linestyle="--", label=f"suggested: {suggested:.2g}")
    # What it does once it has diverged would flatten all that comes before.
    low, high = losses.min(), max(np.quantile(losses[: smooth.argmin() + 1], 0.99), 1.3 * smooth.min())
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (nats)", title="loss against learning rate")
    axes.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def gaussian_smooth(values: np.ndarray, width: float = 20) -> np.ndarray:
    """A curve averaged with a Gaussian kernel whose standard deviation is `width` points."""
    reach = int(4 * width) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(width, 0.1)) ** 2)
    total, weight = (np.convolve(curve, kernel)[reach:-reach] for curve in (values, np.ones(len(values))))
    return total / weight


class CharacterPairs(NamedTuple):
    """How often the commonest K characters of a split follow each other, and how often a model expects them to."""

    characters: str
    vocabulary_size: int
    context_counts: np.ndarray  # contexts that end in each, (K,)
    counts: np.ndarray  # how often each other one follows, (K, K), a row for each last character
    expected: np.ndarray  # the sums of the model's probabilities of it over the same contexts, (K, K)


def count_pairs(
    network: nn.Module, vocabulary: Vocabulary, examples: ContextDataset, max_characters: int = MAX_CHARACTERS
) -> CharacterPairs:
    """Count the examples of a split and what a network expects of them, for so many characters at most."""
    size, parts = len(vocabulary), torch.arange(len(examples)).split(2048)
    frequency = sum(torch.bincount(examples[part][0][:, -1], minlength=size) for part in parts)
    shown = frequency.argsort(descending=True, stable=True)[:max_characters].sort().values
    place = torch.full((size,), -1).scatter(0, shown, torch.arange(len(shown)))
    counts = torch.zeros(len(shown), len(shown), dtype=torch.float64)
    expected = torch.zeros_like(counts)
    with eval_mode(network):
        for part in parts:
            x, y = examples[part]
            mask = place[x[:, -1]] >= 0
            x, y = x[mask], place[y[mask]]
            last = place[x[:, -1]]
            counts.index_put_((last[y >= 0], y[y >= 0]), torch.ones(1, dtype=torch.float64), accumulate=True)
            expected.index_add_(0, last, network(x).softmax(1).double().index_select(1, shown))
    return CharacterPairs(vocabulary.decode(shown), size, frequency[shown].numpy(), counts.numpy(), expected.numpy())


def plot_next_characters(pairs: CharacterPairs) -> Figure:
    """P(next | last character) of the model, of the data, and their difference."""
    data, model = (sums / np.maximum(pairs.context_counts, 1)[:, None] for sums in (pairs.counts, pairs.expected))
    is_part, num_shown = len(pairs.characters) < pairs.vocabulary_size, len(pairs.characters)
    title = f" (the {num_shown} commonest of {pairs.vocabulary_size:,} characters)" if is_part else ""
    figure = Figure(figsize=(18, 6), layout="constrained")
    figure.suptitle(f"P(next character | last character); '.' is the start and the end of a name{title}")
    largest, difference = max(model.max(), data.max()), abs(model - data).max()
    norm = PowerNorm(0.5, vmin=0, vmax=largest)  # the root: most probabilities are small
    panels = (
        ("model", model, dict(cmap="Blues", norm=norm)),
        ("data", data, dict(cmap="Blues", norm=norm)),
        ("model − data", model - data, dict(cmap="RdBu_r", vmin=-difference, vmax=difference)),
    )
    for axes, (name, values, colors) in zip(figure.subplots(1, 3), panels, strict=True):
        image = axes.imshow(values, **colors)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(range(num_shown), [label(character) for character in pairs.characters])
            axis.set_ticks(np.arange(num_shown) - 0.5, minor=True)
            axis.set_tick_params(labelsize=9, length=0)
        axes.set(title=name, xlabel="next character", ylabel="last character")
        axes.grid(which="minor", color="white", linewidth=0.4)
        axes.tick_params(which="minor", length=0)
        figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG. Raises: UserError: it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # it draws a box for it
            figure.savefig(path, dpi=100)
    except OSError as error:
        raise write_error(path, error) from error
