"""The pictures that commands draw, and the learning-rate sweep: what is on them, not how it is painted."""

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from namemlp import NameModule, NamesDataModule, pictures
from namemlp.sweep import in_words, smoothed, suggestion
from tests.conftest import SMALL, SMALL_LIST, curves

RUN = Path("lightning_logs/version_0")


def size(path):
    with Image.open(path) as image:
        image.verify()
        return image.format, image.size


def test_plot_draws_into_the_run_folder(fit, namemlp):
    fit(20)
    result = namemlp("plot", "--ckpt_path=last")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [str(RUN / "next_characters.png"), str(RUN / "loss.png")]
    assert size(RUN / "next_characters.png") == ("PNG", (1800, 600))
    assert size(RUN / "loss.png") == ("PNG", (1000, 400))


def test_plot_from_a_checkpoint_that_is_elsewhere(fit, namemlp):
    fit(5)
    Path("elsewhere").mkdir()
    Path(RUN / "checkpoints" / "last.ckpt").rename("elsewhere/model.ckpt")
    Path("names.txt").rename("moved.txt")
    result = namemlp("plot", "--ckpt_path=elsewhere/model.ckpt")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "namemlp: error: names.txt: no such file; data.path takes a list of names, one a line: give the list that "
        "elsewhere/model.ckpt was trained on as --data.path\n"
    )
    result = namemlp("plot", "--ckpt_path=elsewhere/model.ckpt", "--data.path=moved.txt", "--output=drawn")
    assert result.out.splitlines() == ["drawn/next_characters.png"]
    assert result.err == "no curves of train/loss and val/loss in ., and so no loss.png\n"
    Path("moved.txt").write_text("\n".join(SMALL_LIST[:20]))
    result = namemlp("plot", "--ckpt_path=elsewhere/model.ckpt", "--data.path=moved.txt")
    assert result.code == 2
    assert "moved.txt is not the list that elsewhere/model.ckpt was trained on: give that as --data.path" in result.err


def test_the_loss_picture_has_the_curves_of_the_run(fit):
    fit(20, "--trainer.val_check_interval=10")
    found = {tag: (list(points), list(points.values())) for tag, points in curves(RUN).items()}
    figure = pictures.loss_picture(found["train/loss"], found["val/loss"])
    loss, log10 = figure.axes
    assert (loss.get_title(), log10.get_title()) == ("loss", "log10 of the loss")
    assert loss.get_xlabel() == "step (updates)"
    assert [text.get_text() for text in log10.get_legend().get_texts()] == ["train, a batch", "train, smoothed", "val"]
    train, _, val = loss.lines
    assert train.get_xydata().tolist() == pytest.approx(np.transpose(found["train/loss"]))
    assert val.get_xydata().tolist() == pytest.approx(np.transpose(found["val/loss"]))
    assert log10.lines[0].get_ydata() == pytest.approx(np.log10(found["train/loss"][1]))


@pytest.mark.parametrize("most", [60, 4])
def test_next_characters_are_counted_and_expected_over_the_contexts(folder, most):
    data = NamesDataModule("names.txt", context_length=2)
    data.setup("fit")
    model = NameModule(data.vocabulary.characters, 2, hidden_size=10, init="scaled")
    found = pictures.next_characters(model, data.train_set, most)
    x, y = data.train_set[:]
    often = Counter(x[:, 1].tolist())
    commonest = sorted(sorted(often, key=lambda i: (-often[i], i))[:most])
    shown = range(len(data.vocabulary)) if most == 60 else commonest
    assert found.characters == "".join(data.vocabulary.characters[i] for i in shown)
    assert found.of == len(data.vocabulary)
    assert found.often.tolist() == [often[i] for i in shown]
    pairs = Counter(zip(x[:, 1].tolist(), y.tolist(), strict=True))
    assert found.counts.tolist() == [[pairs[i, j] for j in shown] for i in shown]
    probabilities = model(x).softmax(1).detach()
    for row, last in zip(found.expected, shown, strict=True):
        assert row == pytest.approx(probabilities[x[:, 1] == last].sum(0)[list(shown)].numpy(), abs=1e-4)


def test_the_next_character_picture_shows_model_data_and_difference():
    counts, expected = np.array([[0, 6, 2], [4, 0, 4], [3, 1, 0]]), np.array([[0.5, 5, 2.5], [4, 1, 3], [2, 1, 1]])
    found = pictures.NextCharacters(".a ", 9, np.array([8, 8, 4]), counts, expected)
    figure = pictures.next_character_picture(found)
    assert "the 3 commonest of 9 characters" in figure.get_suptitle()
    panels = figure.axes[:3]
    assert [axes.get_title() for axes in panels] == ["model", "data", "model − data"]
    for axes in panels:
        assert [text.get_text() for text in axes.get_xticklabels()] == [".", "a", "U+0020"]
        assert [text.get_text() for text in axes.get_yticklabels()] == [".", "a", "U+0020"]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("next character", "last character")
    model, data, difference = (np.asarray(axes.images[0].get_array()) for axes in panels)
    assert data == pytest.approx(counts / [[8], [8], [4]])
    assert model == pytest.approx(expected / [[8], [8], [4]])
    assert difference == pytest.approx(model - data)


def test_lr_find_sweeps_the_notebooks_learning_rates(fit, namemlp):
    result = namemlp("lr_find", "--data.path=names.txt", *SMALL, "--optimizer=AdamW", "--optimizer.weight_decay=0.1")
    assert (result.code, result.err) == (0, "")
    with open(RUN / "lr_find.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "learning_rate", "loss", "smoothed_loss"]
    steps, rates, losses, smooth = np.array(rows, dtype=float).T
    assert steps.tolist() == list(range(1, 1001))
    assert rates == pytest.approx(10 ** np.linspace(-3, 0, 1000), rel=1e-6)
    assert smooth == pytest.approx(smoothed(losses), abs=1e-5)
    assert size(RUN / "lr_find.png") == ("PNG", (700, 450))
    assert not list(RUN.rglob("*.ckpt"))

    # The first losses are those of a fit with that learning rate.
    fit(1, "--optimizer=AdamW", "--optimizer.lr=0.001", "--optimizer.weight_decay=0.1", "--trainer.log_every_n_steps=1")
    assert curves("lightning_logs/version_1")["train/loss"][1] == pytest.approx(losses[0], abs=1e-5)

    suggested = re.search(r"suggested learning rate: ([\d.e-]+)", result.out)[1]
    assert float(suggested) == suggestion(rates, losses)
    line = re.search(r"in a config: +(.*)", result.out)[1]
    Path("found.yaml").write_text(line)
    config = yaml.safe_load(namemlp("fit", "--config=found.yaml", "--print_config").out)
    assert config["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert config["optimizer"]["init_args"]["lr"] == float(suggested)
    assert config["optimizer"]["init_args"]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("--trainer.fast_dev_run=true", "trainer.fast_dev_run makes no sweep: leave it out"),
        ("--optimizer=LBFGS", "LBFGS tries many steps for an update, so that lr_find cannot sweep it: "),
    ],
)
def test_what_makes_no_sweep_is_told(namemlp, setting, sentence):
    result = namemlp("lr_find", "--data.path=names.txt", *SMALL, setting)
    assert result.code == 2
    assert result.err.startswith(f"namemlp: error: {sentence}")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("slope", [1, -1])
def test_a_sweep_without_a_lowest_loss_in_it_says_so(slope):
    rates = 10 ** np.linspace(-3, 0, 1000)
    told = in_words(0.5, rates, slope * np.log(rates), {"class_path": "torch.optim.SGD", "init_args": {}})
    assert ("rises from the start, 0.001: a smaller one" if slope > 0 else "falls at the end, 1: a larger one") in told


def test_a_sweep_that_diverges_ends_there(namemlp):
    diverging = ("--model.init=scaled", "--optimizer=SGD", "--optimizer.momentum=0.999", "--optimizer.nesterov=true")
    result = namemlp("lr_find", "--data.path=names.txt", *SMALL, *diverging, "--optimizer.weight_decay=30")
    assert (result.code, result.err) == (0, "")
    with open(RUN / "lr_find.csv", newline="") as file:
        _, *rows = csv.reader(file)
    assert 100 <= len(rows) < 1000
    assert all(np.isfinite(float(loss)) for _, _, loss, _ in rows)
    assert "suggested learning rate" in result.out


def test_a_sweep_is_of_untrained_weights(fit, namemlp):
    fit(5)
    result = namemlp("lr_find", "--ckpt_path=last")
    sentence = "lr_find starts with untrained weights: leave out --ckpt_path"
    assert (result.code, result.err) == (2, f"namemlp: error: {sentence}\n")


def test_the_suggestion_is_half_of_where_the_smoothed_loss_is_lowest():
    rates = 10 ** np.linspace(-3, 0, 1000)
    losses = (np.log10(rates) + 1) ** 2 + np.random.default_rng(0).normal(0, 0.05, 1000)  # lowest at 0.1
    assert suggestion(rates, losses) == pytest.approx(0.05, rel=0.2)
    figure = pictures.sweep_picture(rates, losses, 0.05)
    [axes] = figure.axes
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate", "loss (nats)")
    raw, smooth, mark = axes.lines
    assert raw.get_ydata() == pytest.approx(losses)
    assert smooth.get_ydata() == pytest.approx(smoothed(losses))
    assert mark.get_xdata() == [0.05, 0.05]
    assert [text.get_text() for text in axes.get_legend().get_texts()][2] == "suggested: 0.05"


def test_smoothing_keeps_the_level_to_the_very_ends():
    assert smoothed(np.full(50, 3.0)) == pytest.approx(np.full(50, 3.0))
    line = np.arange(100.0)
    assert smoothed(line, 5)[30:70] == pytest.approx(line[30:70])
    assert smoothed(line, 0) == pytest.approx(line)


def test_a_folder_that_cannot_be_written_is_told(fit, namemlp):
    fit(5)
    Path("taken").write_text("")
    result = namemlp("plot", "--ckpt_path=last", "--output=taken/here")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "taken/here" in result.err and "cannot be written" in result.err


def test_looking_leaves_the_checkpoint_alone(fit, namemlp):
    fit(5)
    before = (RUN / "checkpoints" / "last.ckpt").read_bytes()
    for command in ("plot", "sample"):
        assert namemlp(command, "--ckpt_path=last").code == 0
    assert (RUN / "checkpoints" / "last.ckpt").read_bytes() == before
