"""The figures that commands plot, and the learning-rate range test: the data in them, not their look."""

import csv
import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from namemlp import NameModule, NamesDataModule, viz
from namemlp.commands.lr_find import format_suggestion, suggest_lr
from namemlp.viz import gaussian_smooth
from namemlp.viz.figures import CharacterPairs
from tests.helpers import SMALL, SMALL_LIST, curves

RUN = Path("lightning_logs/version_0")


def size(path):
    with Image.open(path) as image:
        image.verify()
        return image.format, image.size


def test_plot_saves_into_the_run_folder(fit, namemlp):
    fit(20)
    result = namemlp("plot", "--ckpt_path=last")
    assert (result.code, result.err) == (0, "")
    figures = ["next_characters.png", "loss_by_place.png", "calibration.png", "loss.png"]
    assert result.out.splitlines() == [str(RUN / name) for name in (*figures, "val_names.txt")]
    assert (RUN / "val_names.txt").read_text().startswith("The likeliest names of the validation split, by their mean")
    assert size(RUN / "next_characters.png") == ("PNG", (1800, 600))
    assert size(RUN / "loss.png") == ("PNG", (1000, 400))


def test_plot_of_a_checkpoint_outside_a_run_folder(fit, namemlp):
    fit(5)
    Path("elsewhere").mkdir()
    Path(RUN / "checkpoints" / "last.ckpt").rename("elsewhere/model.ckpt")
    Path("names.txt").rename("moved.txt")
    result = namemlp("plot", "--ckpt_path=elsewhere/model.ckpt")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "namemlp: error: names.txt: no such file; data.path takes a list of names, one per line: give the list that "
        "elsewhere/model.ckpt was trained on as --data.path\n"
    )
    result = namemlp("plot", "--ckpt_path=elsewhere/model.ckpt", "--data.path=moved.txt", "--output=figures")
    names = ["next_characters.png", "loss_by_place.png", "calibration.png", "val_names.txt"]
    assert result.out.splitlines() == [f"figures/{name}" for name in names]
    assert result.err == "no curves of train/loss and val/loss in ., and so no loss.png\n"
    Path("moved.txt").write_text("\n".join(SMALL_LIST[:20]))
    result = namemlp("plot", "--ckpt_path=elsewhere/model.ckpt", "--data.path=moved.txt")
    assert result.code == 2
    assert "moved.txt is not the list that elsewhere/model.ckpt was trained on: give that as --data.path" in result.err


def test_weights_that_are_not_finite_are_not_plotted(fit, namemlp):
    fit(5)
    path = RUN / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["network.output.bias"].fill_(torch.nan)
    torch.save(checkpoint, path)
    result = namemlp("plot", "--ckpt_path=last")
    sentence = f"{path}: its weights are not finite, so that there is nothing to plot: give another checkpoint"
    assert (result.code, result.out, result.err) == (2, "", f"namemlp: error: {sentence}\n")


def test_loss_figure_has_the_curves_of_the_run(fit):
    fit(20, "--trainer.val_check_interval=10")
    points = {tag: (list(curve), list(curve.values())) for tag, curve in curves(RUN).items()}
    figure = viz.plot_losses(points)
    loss, log10 = figure.axes
    assert (loss.get_title(), log10.get_title()) == ("loss", "log10 of the loss")
    assert loss.get_xlabel() == "step"
    labels = [text.get_text() for text in log10.get_legend().get_texts()]
    assert labels[:3] == ["train, a batch", "train, smoothed", "val"]
    whole = [f"{split}, whole split: {points[f'whole/{split}_loss'][1][0]:.4f}" for split in ("train", "val", "test")]
    assert labels[3:] == [f"val, counting: {points['val/counting_loss'][1][0]:.4f}", *whole]
    train, _, val = loss.lines[:3]
    assert train.get_xydata().tolist() == pytest.approx(np.transpose(points["train/loss"]))
    assert val.get_xydata().tolist() == pytest.approx(np.transpose(points["val/loss"]))
    assert log10.lines[0].get_ydata() == pytest.approx(np.log10(points["train/loss"][1]))


@pytest.fixture
def evaluated(folder):
    """A model, and its loss of each character of each validation name, one at a time."""
    data = NamesDataModule("names.txt", context_length=3, split=(0.4, 0.4, 0.2))
    data.setup("fit")
    model = NameModule(data.vocabulary.characters, hidden_size=10, init="scaled")
    x, y = data.val_set[:]
    probabilities = model(x).softmax(1).detach()
    names, expected = data.vocabulary.decode_names(data.val_set.columns[-1]), []
    rows = iter(range(len(x)))
    for name in names:
        expected.append([-probabilities[i, y[i]].log().item() for i in (next(rows) for _ in [*name, "end"])])
    return model, data, names, expected, probabilities, y


def test_losses_by_position_and_by_length(evaluated):
    model, data, names, expected, *_ = evaluated
    val = viz.evaluate_examples(model.network, data.vocabulary, data.val_set)
    assert val.names == names
    assert val.losses == pytest.approx(np.concatenate(expected), rel=1e-5)
    figure = viz.plot_losses_by_place(val, val)
    by_position, by_length = figure.axes[:2]
    longest = max(map(len, names)) + 1
    at = {i: [losses[i - 1] for losses in expected if len(losses) >= i] for i in range(1, longest + 1)}
    of_length = {n: [np.mean(losses) for losses in expected if len(losses) == n + 1] for n in range(1, longest)}
    for axes, groups in (by_position, at), (by_length, of_length):
        often = {
            key: np.mean(group)
            for key, group in groups.items()
            if len(group) >= min(10, max(map(len, groups.values())))
        }
        for line in axes.lines:
            assert line.get_xdata().tolist() == [*often]
            assert line.get_ydata() == pytest.approx([*often.values()], rel=1e-5)


def test_calibration_compares_probabilities_with_frequencies(evaluated):
    model, data, *_, probabilities, y = evaluated
    calibration = viz.calibrate(model.network, data.vocabulary, data.val_set)
    edges = [0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, *np.arange(1, 20) / 20, 1.01]
    assert len(calibration.counts) == len(edges) - 1
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        in_bin = (probabilities >= low) & (probabilities < high)
        hits = in_bin[range(len(y)), y].sum().item()
        count = in_bin.sum().item()
        assert calibration.counts[i] == count
        if count:
            assert calibration.predicted[i] == pytest.approx(probabilities[in_bin].mean().item(), rel=1e-4)
            assert calibration.observed[i] == pytest.approx(hits / count)
    points = viz.plot_calibration(calibration).axes[0].containers[0].lines[0]
    enough = (calibration.counts >= 10) & (calibration.observed > 0)
    assert points.get_xdata() == pytest.approx(calibration.predicted[enough])
    assert points.get_ydata() == pytest.approx(calibration.observed[enough])


def test_loss_figure_is_cut_so_that_the_curve_is_seen():
    steps, losses = list(range(50, 5050, 50)), [27.0, 9.5, 5.0, *np.linspace(3, 2.4, 97)]
    figure = viz.plot_losses({"train/loss": (steps, losses), "val/loss": ([5000], [2.5])})
    loss, log10 = figure.axes
    assert loss.get_ylim()[1] < 5
    assert log10.get_ylim()[1] > np.log10(27)
    assert [text.get_text() for text in loss.texts] == [
        "first losses, above this axis: 27 (step 50), 9.5 (step 100), …"
    ]
    flat = viz.plot_losses({"train/loss": (steps, losses[3:] + [2.4] * 3), "val/loss": ([5000], [2.5])})
    assert not flat.axes[0].texts


@pytest.mark.parametrize("max_characters", [60, 4])
def test_pairs_are_counted_and_expected_over_the_contexts(folder, max_characters):
    data = NamesDataModule("names.txt", context_length=2)
    data.setup("fit")
    model = NameModule(data.vocabulary.characters, 2, hidden_size=10, init="scaled")
    pairs = viz.count_pairs(model.network, data.vocabulary, data.train_set, max_characters)
    x, y = data.train_set[:]
    frequency = Counter(x[:, 1].tolist())
    commonest = sorted(sorted(frequency, key=lambda i: (-frequency[i], i))[:max_characters])
    shown = range(len(data.vocabulary)) if max_characters == 60 else commonest
    assert pairs.characters == "".join(data.vocabulary.characters[i] for i in shown)
    assert pairs.vocabulary_size == len(data.vocabulary)
    assert pairs.context_counts.tolist() == [frequency[i] for i in shown]
    counts = Counter(zip(x[:, 1].tolist(), y.tolist(), strict=True))
    assert pairs.counts.tolist() == [[counts[i, j] for j in shown] for i in shown]
    probabilities = model(x).softmax(1).detach()
    for row, last in zip(pairs.expected, shown, strict=True):
        assert row == pytest.approx(probabilities[x[:, 1] == last].sum(0)[list(shown)].numpy(), abs=1e-4)


def test_next_character_figure_shows_model_data_and_difference():
    counts, expected = np.array([[0, 6, 2], [4, 0, 4], [3, 1, 0]]), np.array([[0.5, 5, 2.5], [4, 1, 3], [2, 1, 1]])
    pairs = CharacterPairs(".a ", 9, np.array([8, 8, 4]), counts, expected)
    figure = viz.plot_next_characters(pairs)
    assert "the 3 commonest of 9 characters" in figure.get_suptitle()
    panels = figure.axes[:3]
    assert [axes.get_title() for axes in panels] == ["model", "data", "model − data"]
    for axes in panels:
        assert [text.get_text() for text in axes.get_xticklabels()] == ["end", "a", "␣"]
        assert [text.get_text() for text in axes.get_yticklabels()] == ["start", "a", "␣"]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("next character", "last character")
    model, data, difference = (np.asarray(axes.images[0].get_array()) for axes in panels)
    assert data == pytest.approx(counts / [[8], [8], [4]])
    assert model == pytest.approx(expected / [[8], [8], [4]])
    assert difference == pytest.approx(model - data)


def test_lr_find_uses_the_learning_rates_of_the_notebook(fit, namemlp):
    result = namemlp("lr_find", "--data.path=names.txt", *SMALL, "--optimizer=AdamW", "--optimizer.weight_decay=0.1")
    assert (result.code, result.err) == (0, "")
    with open(RUN / "lr_find.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "learning_rate", "loss", "smoothed_loss"]
    steps, lrs, losses, smooth = np.array(rows, dtype=float).T
    assert steps.tolist() == list(range(1, 1001))
    assert lrs == pytest.approx(10 ** np.linspace(-3, 0, 1000), rel=1e-6)
    assert smooth == pytest.approx(gaussian_smooth(losses), abs=1e-5)
    assert size(RUN / "lr_find.png") == ("PNG", (700, 450))
    assert not list(RUN.rglob("*.ckpt"))

    # The first losses are those of a fit with that learning rate.
    fit(1, "--optimizer=AdamW", "--optimizer.lr=0.001", "--optimizer.weight_decay=0.1", "--trainer.log_every_n_steps=1")
    assert curves("lightning_logs/version_1")["train/loss"][1] == pytest.approx(losses[0], abs=1e-5)

    suggested = re.search(r"suggested learning rate: ([\d.e-]+)", result.out)[1]
    assert float(suggested) == suggest_lr(lrs, losses)
    line = re.search(r"in a config: +(.*)", result.out)[1]
    Path("suggested.yaml").write_text(line)
    config = yaml.safe_load(namemlp("fit", "--config=suggested.yaml", "--print_config").out)
    assert config["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert config["optimizer"]["init_args"]["lr"] == float(suggested)
    assert config["optimizer"]["init_args"]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("--trainer.fast_dev_run=true", "trainer.fast_dev_run is not supported by lr_find: omit it"),
        ("--optimizer=LBFGS", "LBFGS makes many steps in one, which lr_find does not support: use another optimizer"),
    ],
)
def test_lr_find_rejects_unsupported_optimizers_and_settings(namemlp, setting, sentence):
    result = namemlp("lr_find", "--data.path=names.txt", *SMALL, setting)
    assert result.code == 2
    assert result.err.startswith(f"namemlp: error: {sentence}")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("slope", [1, -1])
def test_suggestion_has_a_caveat_where_the_loss_has_no_minimum(slope):
    lrs = 10 ** np.linspace(-3, 0, 1000)
    text = format_suggestion(0.5, lrs, slope * np.log(lrs), {"class_path": "torch.optim.SGD", "init_args": {}})
    assert ("rises from the start, 0.001: a smaller one" if slope > 0 else "falls at the end, 1: a larger one") in text


def test_lr_find_ends_where_the_loss_diverges(namemlp):
    diverging = ("--model.init=scaled", "--optimizer=SGD", "--optimizer.momentum=0.999", "--optimizer.nesterov=true")
    result = namemlp("lr_find", "--data.path=names.txt", *SMALL, *diverging, "--optimizer.weight_decay=30")
    assert (result.code, result.err) == (0, "")
    with open(RUN / "lr_find.csv", newline="") as file:
        _, *rows = csv.reader(file)
    assert 100 <= len(rows) < 1000
    assert all(np.isfinite(float(loss)) for _, _, loss, _ in rows)
    assert "suggested learning rate" in result.out


def test_lr_find_takes_no_checkpoint(fit, namemlp):
    fit(5)
    result = namemlp("lr_find", "--ckpt_path=last")
    sentence = "lr_find starts with untrained weights: omit --ckpt_path"
    assert (result.code, result.err) == (2, f"namemlp: error: {sentence}\n")


def test_suggestion_is_half_of_where_the_smoothed_loss_is_lowest():
    lrs = 10 ** np.linspace(-3, 0, 1000)
    losses = (np.log10(lrs) + 1) ** 2 + np.random.default_rng(0).normal(0, 0.05, 1000)  # lowest at 0.1
    assert suggest_lr(lrs, losses) == pytest.approx(0.05, rel=0.2)
    figure = viz.plot_lr_range_test(lrs, losses, 0.05)
    [axes] = figure.axes
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate", "loss (nats)")
    raw, smooth, mark = axes.lines
    assert raw.get_ydata() == pytest.approx(losses)
    assert smooth.get_ydata() == pytest.approx(gaussian_smooth(losses))
    assert mark.get_xdata() == [0.05, 0.05]
    assert [text.get_text() for text in axes.get_legend().get_texts()][2] == "suggested: 0.05"


def test_smoothing_keeps_the_level_up_to_both_ends():
    assert gaussian_smooth(np.full(50, 3.0)) == pytest.approx(np.full(50, 3.0))
    line = np.arange(100.0)
    assert gaussian_smooth(line, 5)[30:70] == pytest.approx(line[30:70])
    assert gaussian_smooth(line, 0) == pytest.approx(line)


def test_unwritable_output_folder_is_an_error(fit, namemlp):
    fit(5)
    Path("taken").write_text("")
    result = namemlp("plot", "--ckpt_path=last", "--output=taken/here")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "taken/here" in result.err and "make room there or give another --output\n" in result.err


def test_plot_and_sample_do_not_change_the_checkpoint(fit, namemlp):
    fit(5)
    before = (RUN / "checkpoints" / "last.ckpt").read_bytes()
    for command in ("plot", "sample"):
        assert namemlp(command, "--ckpt_path=last").code == 0
    assert (RUN / "checkpoints" / "last.ckpt").read_bytes() == before
