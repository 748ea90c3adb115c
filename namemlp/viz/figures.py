"""The figures that commands save into a run folder, by Matplotlib."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.colors import CenteredNorm, PowerNorm
from matplotlib.figure import Figure
from torch import nn

from namemlp.network import eval_mode
from namemlp.runs import write_error
from namemlp.viz.errors import Calibration, Evaluation
from namemlp.viz.labels import FONT, drawn_labels
from namemlp.vocabulary import Vocabulary
from namemlp.windows import ContextDataset

RAW, SMOOTH, OTHER = "#b9cfe8", "#1f5fa8", "#d1495b"
FEW = 10  # a mean over fewer examples is not shown


def plot_losses(curves: dict[str, tuple[list[int], list[float]]]) -> Figure:
    """Loss, and its logarithm as in the notebook, against the step.

    Args:
        curves: steps and values of train/loss and val/loss, and where there are any of val/counting_loss,
            whole/train_loss, …
    """
    styles = {"train": (SMOOTH, "^"), "val": (OTHER, "s"), "test": ("#2a9d4a", "D")}
    figure = Figure(figsize=(10, 4), layout="constrained")
    (steps, train), (val_steps, val) = curves["train/loss"], curves["val/loss"]
    for axes, title in zip(figure.subplots(1, 2), ("loss", "log10 of the loss"), strict=True):
        scale = np.array if title == "loss" else np.log10
        smooth = gaussian_smooth(scale(train), len(steps) / 100)
        axes.plot(steps, scale(train), color=RAW, linewidth=0.8, label="train, a batch")
        axes.plot(steps, smooth, color=SMOOTH, label="train, smoothed")
        axes.plot(val_steps, scale(val), color=OTHER, marker="o", markersize=4, label="val")
        if counting := curves.get("val/counting_loss"):
            label = f"val, counting: {counting[1][-1]:.4f}"
            axes.axhline(scale(counting[1][-1]), color="#777777", linestyle="--", linewidth=1, label=label)
        for split, (color, marker) in styles.items():
            if whole := curves.get(f"whole/{split}_loss"):
                style = dict(color=color, marker=marker, markerfacecolor="none", linestyle="")
                axes.plot(whole[0], scale(whole[1]), **style, label=f"{split}, whole split: {whole[1][-1]:.4f}")
        axes.set(xlabel="step", ylabel=f"{title} (nats)" if title == "loss" else title, title=title)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
    axes.legend()
    # The notebook's run starts at ten times the loss that it ends with, which would flatten all that comes later.
    losses = np.array(train)
    later = losses[len(losses) // 20 :]
    lowest = min(later.min(), *(curves.get("val/counting_loss") or [[], [np.inf]])[1])
    margin = 0.05 * (later.max() - lowest)
    above = np.flatnonzero(losses > later.max() + 10 * margin)
    if len(above):
        axes = figure.axes[0]
        axes.set_ylim(lowest - margin, later.max() + 3 * margin)
        first = ", ".join(f"{losses[i]:.3g} (step {steps[i]:,})" for i in above[:2])
        note = f"first losses, above this axis: {first}{', …' * (len(above) > 2)}"
        axes.text(0.98, 0.97, note, transform=axes.transAxes, ha="right", va="top", fontsize=8)
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
    ylim = low - 0.05 * (high - low), high + 0.1 * (high - low)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (nats)", title="loss against learning rate", ylim=ylim)
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
    """How often the end mark and the commonest other characters follow each other, and how often a model expects it."""

    characters: str  # K, the end mark first
    vocabulary_size: int
    context_counts: np.ndarray  # contexts that end in each, (K,)
    counts: np.ndarray  # how often each other one follows, (K, K), a row for each last character
    expected: np.ndarray  # the sums of the model's probabilities of it over the same contexts, (K, K)


def count_pairs(
    network: nn.Module, vocabulary: Vocabulary, examples: ContextDataset, max_characters: int = 60
) -> CharacterPairs:
    """Count the examples of a split and what a network expects of them, for so many characters at most."""
    size, indices = len(vocabulary), torch.arange(len(examples))
    last = torch.cat([examples[part][0][:, -1] for part in indices.split(2048)])  # of each context, (examples,)
    frequency = last.bincount(minlength=size)
    commonest = 1 + frequency[1:].argsort(descending=True, stable=True)[: max_characters - 1]
    shown = torch.cat([torch.tensor([0]), commonest.sort().values])
    sums = torch.zeros(2, len(shown), size, dtype=torch.float64)
    with eval_mode(network):
        for part in indices[torch.isin(last, shown)].split(2048):
            x, y = examples[part]
            row = torch.searchsorted(shown, last[part])
            sums[0].index_put_((row, y), torch.ones(1, dtype=torch.float64), accumulate=True)
            sums[1].index_add_(0, row, network(x).softmax(1).double())
    return CharacterPairs(vocabulary.decode(shown), size, frequency[shown].numpy(), *sums[:, :, shown].numpy())


def plot_next_characters(pairs: CharacterPairs) -> Figure:
    """P(next | last character) of the model, of the data, and their difference."""
    data, model = (sums / np.maximum(pairs.context_counts, 1)[:, None] for sums in (pairs.counts, pairs.expected))
    (_, *labels), fonts = drawn_labels(pairs.characters)
    title = "P(next character | last character)"
    if len(fonts) < pairs.vocabulary_size:
        title += f" (the {len(fonts)} commonest of {pairs.vocabulary_size:,} characters)"
    size = max(1, len(fonts) / 32)  # so that the labels have room
    figure = Figure(figsize=(18 * size, 6 * size), layout="constrained")
    figure.suptitle(title)
    blues = dict(cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=max(model.max(), data.max())))  # root: most are small
    reds = dict(cmap="RdBu_r", norm=CenteredNorm())  # white where they agree
    panels = ("model", model, blues), ("data", data, blues), ("model − data", model - data, reds)
    for axes, (name, values, colors) in zip(figure.subplots(1, 3), panels, strict=True):
        figure.colorbar(axes.imshow(values, **colors), ax=axes, shrink=0.8)
        axes.set(title=name, xlabel="next character", ylabel="last character")
        axes.tick_params(which="both", labelsize=9, length=0)
        for axis, end_mark in (axes.xaxis, "end"), (axes.yaxis, "start"):
            axis.set_ticks(range(len(fonts)), [end_mark, *labels])
            axis.set_ticks(np.arange(len(fonts)) - 0.5, minor=True)
            for text, font in zip(axis.get_ticklabels(), fonts, strict=True):
                if font != FONT:
                    text.set(font=Path(font), fontsize=9)
                if axis is axes.xaxis and len(text.get_text()) > 1:
                    text.set_rotation(90)
        axes.grid(which="minor", color="white", linewidth=0.4)
    return figure


def mean_by(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The keys that come often enough, the mean of the values of each, and how many these are."""
    counts, sums = np.bincount(keys), np.bincount(keys, values)
    often = np.flatnonzero(counts >= min(FEW, counts.max()))
    return often, sums[often] / counts[often], counts[often]


def plot_losses_by_place(train: Evaluation, val: Evaluation) -> Figure:
    """Mean loss by the position in the name, and by the length of the name, of train and val."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle("Where the loss is high, the next character is hard to guess")
    left, right = figure.subplots(1, 2)
    for split, evaluation, color in ("train", train, SMOOTH), ("val", val, OTHER):
        kinds = (left, evaluation.positions, evaluation.losses), (right, evaluation.lengths - 1, evaluation.name_losses)
        for axes, keys, losses in kinds:
            places, means, counts = mean_by(keys, losses)
            axes.plot(places, means, color=color, marker="o", markersize=4, label=split)
            axes.xaxis.get_major_locator().set_params(integer=True)
            if split == "val":
                shares = axes.twinx()
                shares.bar(places, counts / len(keys), color="#dddddd")
                shares.set(ylim=(0, 3 * (counts / len(keys)).max()), yticks=[], zorder=-1)
                axes.set_zorder(1)
                axes.patch.set_visible(False)
    left.set(xlabel="position in the name (1: first character)", ylabel="mean loss (nats)", title="by position")
    right.set(xlabel="length of the name", ylabel="mean loss per character (nats)", title="by length of the name")
    left.legend(title=f"bars: share of val; points: {FEW} or more")
    return figure


def plot_calibration(calibration: Calibration) -> Figure:
    """Predicted probability against observed frequency, over all characters and examples, on plain and on log axes."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    figure.suptitle("Is the model as sure as it should be? Below the line it is too sure, above it not sure enough")
    enough = calibration.counts >= FEW
    counts, predicted, observed = (values[enough] for values in calibration)
    error = 2 * np.sqrt(observed * (1 - observed) / counts)
    for axes, scale, low in zip(figure.subplots(1, 2), ("linear", "log"), (0, 1e-5), strict=True):
        axes.plot([low, 1], [low, 1], color="#999999", linestyle="--", label="as often as predicted")
        shown = observed > low
        style = dict(color=OTHER, fmt="o", markersize=4, label=f"val, {FEW} or more predictions, ± 2 standard errors")
        axes.errorbar(predicted[shown], observed[shown], error[shown], **style)
        axes.set(xlabel="predicted probability of a character", ylabel="how often it comes", title=f"{scale} axes")
        axes.set(xscale=scale, yscale=scale, xlim=(low, 1), ylim=(low, 1))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(loc="lower right")
    return figure


def save_figure(figure: Figure, path: Path, setting: str = "trainer.default_root_dir") -> None:
    """Save a figure as PNG. Raises: UserError: it cannot be written; the setting gives another place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)
    except OSError as error:
        raise write_error(path, error, setting) from error
