"""What a run logs to TensorBoard besides its curves, read as TensorBoard reads it."""

import copy
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.nn import functional as F

from namemlp import NameModule, NamesDataModule
from namemlp.network import NameMLP
from namemlp.viz import ModelDiagnostics
from namemlp.viz.diagnostics import LAYOUT, count_dead, tanh_layers, tanh_units
from namemlp.viz.embedding_image import pca_2d
from namemlp.viz.labels import character_classes, character_labels
from namemlp.windows import ContextDataset
from tests.helpers import SMALL_LIST, assert_equal, curves
from tests.processes import Command

RUN = Path("lightning_logs/version_0")


@pytest.fixture
def events(fit):
    fit(20, "--trainer.val_check_interval=10", "--model.context_length=4")
    return EventAccumulator(str(RUN), size_guidance={"images": 0, "tensors": 0}).Reload()


def test_train_and_val_loss_are_in_one_chart(events):
    [written] = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(written.tensor_proto.string_val[0])
    [category] = layout.category
    charts = {chart.title: list(chart.multiline.tag) for chart in category.chart}
    assert charts == {title: tags for title, (_, tags) in LAYOUT["namemlp"].items()}
    assert charts["loss: train and val"] == ["^train/loss$", "^val/loss$", "^val/counting_loss$"]
    assert {"train/loss", "val/loss", "val/saturated_units", "val/dead_units"} <= set(events.Tags()["scalars"])


def test_embedding_image_at_each_validation(events):
    images = events.Images("weights/embedding")
    assert [event.step for event in images] == [10, 20]
    for event in images:
        with Image.open(io.BytesIO(event.encoded_image_string)) as image:
            assert image.size == (event.width, event.height) == (340, 400)
            assert len(image.convert("L").getcolors()) > 50  # something is on it
    assert images[0].encoded_image_string != images[1].encoded_image_string


def test_text_lists_names_and_the_share_of_new_ones(events):
    texts = events.Tensors("names/text_summary")
    assert [text.step for text in texts] == [10, 20]
    first, *lines = texts[1].tensor_proto.string_val[0].decode().splitlines()
    model = NameModule.load_from_checkpoint(RUN / "checkpoints" / "last.ckpt")
    names = model.sample(20, seed=0, max_length=20)
    new = [name not in SMALL_LIST for name in names]
    assert lines[1:] == [f"- {name}{' (new)' if is_new else ''}" for name, is_new in zip(names, new, strict=True)]
    assert first == f"{sum(new) / 20:.0%} of these 20 are new"


def test_tanh_histogram_and_shares_of_saturated_and_dead_units(events):
    data = NamesDataModule("names.txt", context_length=4)
    data.setup("fit")
    model = NameModule.load_from_checkpoint(RUN / "checkpoints" / "last.ckpt")
    x, _ = data.val_set[:]
    assert len(x) <= 256  # all are in the histogram
    hidden = torch.tanh(model.network.hidden(model.network.embedding(x).flatten(1))).detach()
    saturated = hidden.abs() > 0.97
    points = curves(RUN)
    assert points["val/saturated_units"][20] == pytest.approx(saturated.float().mean().item())
    assert points["val/dead_units"][20] == pytest.approx(saturated.all(0).float().mean().item())
    histogram = events.Histograms("val/tanh_units")[-1]
    value = histogram.histogram_value
    assert (histogram.step, value.num, value.min, value.max) == (20, hidden.numel(), -1, 1)
    assert value.bucket == pytest.approx(torch.histc(hidden, 64, -1, 1).tolist())
    assert value.bucket_limit == pytest.approx([-1 + (i + 1) / 32 for i in range(64)])


def test_unit_is_dead_only_if_saturated_for_the_whole_split():
    network = NameMLP(2, 1, embedding_dim=1, hidden_size=4)
    with torch.no_grad():
        network.embedding.weight.copy_(torch.tensor([[0.0], [1.0]]))
        network.hidden.weight.copy_(torch.tensor([[0.0], [0.0], [0.0], [-3.0]]))
        network.hidden.bias.copy_(torch.tensor([3.0, -3.0, 0.0, 3.0]))  # the last is not saturated for character 1
    ids = np.zeros(2001, np.uint8)
    hidden = tanh_units(network, ContextDataset(ids, 1))
    assert hidden.shape == (256, 4)
    assert count_dead(network, ContextDataset(ids, 1), hidden) == 3
    ids[777] = 1  # not among those 256
    hidden = tanh_units(network, ContextDataset(ids, 1))
    assert (hidden[:, 3] > 0.97).all()
    assert count_dead(network, ContextDataset(ids, 1), hidden) == 2


def test_picture_of_saturated_units_at_the_start_and_the_end(events):
    data = NamesDataModule("names.txt", context_length=4)
    data.setup("fit")
    start = NameModule(data.vocabulary.characters, 4, hidden_size=20)
    end = NameModule.load_from_checkpoint(RUN / "checkpoints" / "last.ckpt")
    images = events.Images("val/saturated")
    assert [event.step for event in images] == [0, 20]
    for event, model in zip(images, (start, end), strict=True):
        with Image.open(io.BytesIO(event.encoded_image_string)) as image:
            pixels = np.asarray(image.convert("L"))
        expected = (tanh_units(model.network, data.val_set).abs() > 0.97).numpy()
        B, H = expected.shape
        rows, columns = (((np.arange(n) + 0.5) * 340 / n).astype(int) for n in (B, H))
        assert (pixels[30 + rows][:, columns] > 127).tolist() == expected.tolist()


class RecordUpdates(Callback):
    """Makes one more step by hand at each validation and records its size."""

    def __init__(self):
        self.expected = {}

    def on_validation_end(self, trainer, pl_module):
        x, y = trainer.datamodule.train_set[torch.linspace(0, len(trainer.datamodule.train_set) - 1, 32).long()]
        with torch.inference_mode(False), torch.enable_grad():
            network, optimizer = copy.deepcopy((pl_module.network, trainer.optimizers[0]))
            before = [p.detach().clone() for p in network.parameters()]
            F.cross_entropy(network(x), y).backward()
            self.gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
            if trainer.gradient_clip_val:
                torch.nn.utils.clip_grad_norm_(network.parameters(), trainer.gradient_clip_val)
            optimizer.step()
            for (name, after), old in zip(network.named_parameters(), before, strict=True):
                change = ((after - old).norm() / old.norm()).log10().item()
                norm = self.gradients[name].norm().item()
                sizes = {"update": change, "gradient": math.log10(norm / old.norm()), "gradient_norm": norm}
                for kind, size in sizes.items():
                    self.expected.setdefault(f"weights/{kind}/{name}", {})[trainer.global_step] = size


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("optimizer", [("SGD", {"lr": 0.1}), ("SGD", {"lr": 0.1, "momentum": 0.9}), ("Adam", {})])
def test_sizes_of_updates_and_gradients_are_those_of_a_step(folder, optimizer, clip):
    data = NamesDataModule("names.txt")
    settings = {"class_path": f"torch.optim.{optimizer[0]}", "init_args": optimizer[1]}
    model = NameModule(data.vocabulary.characters, hidden_size=10, init="scaled", optimizer=settings)
    record = RecordUpdates()
    trainer = Trainer(
        max_steps=6,
        val_check_interval=3,
        accelerator="cpu",
        gradient_clip_val=clip,
        callbacks=[ModelDiagnostics(), record],
        logger=TensorBoardLogger(folder, name="run", version=""),
        **dict(enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False),
    )
    trainer.fit(model, datamodule=data)
    points = curves("run")
    assert len(record.expected) == 15
    for name, expected in record.expected.items():
        assert {step: points[name][step] for step in (3, 6)} == pytest.approx(
            {step: expected[step] for step in (3, 6)}, rel=1e-3
        )
    events = EventAccumulator("run").Reload()
    for name, gradient in record.gradients.items():
        histogram = events.Histograms(f"weights/gradients/{name}")[-1].histogram_value
        limit = gradient.abs().max().item()
        assert (histogram.num, histogram.max) == (gradient.numel(), pytest.approx(limit))
        assert sum(histogram.bucket) == gradient.numel()
        assert histogram.sum_squares == pytest.approx(gradient.square().sum().item(), rel=1e-3)


def test_names_with_the_lowest_and_the_highest_loss(events):
    [text] = events.Tensors("val_names/text_summary")
    assert text.step == 20
    model = NameModule.load_from_checkpoint(RUN / "checkpoints" / "last.ckpt")
    data = NamesDataModule("names.txt")
    data.setup("fit")
    names = set(data.vocabulary.decode_names(data.val_set.columns[-1]))
    losses = {name: -model.log_prob([name]).item() / (len(name) + 1) for name in names}
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    likeliest, least = "\n".join(lines).split("The least likely names")
    ordered = sorted(names, key=losses.get)
    half = len(ordered) // 2
    for part, expected in (likeliest, ordered[:half]), (least, ordered[::-1][:half]):
        shown = [line for line in part.splitlines() if line.startswith("- ")]
        assert shown == [f"- {losses[name]:.4f} {name}" for name in expected]


def test_projector_has_the_characters(events):
    assert "characters" in (RUN / "projector_config.pbtxt").read_text()
    [table] = RUN.rglob("metadata.tsv")
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    characters = NamesDataModule("names.txt").vocabulary.characters
    assert header == "character\tkind"
    labels, kinds = character_labels(characters), character_classes(characters)
    assert rows == [f"{label}\t{kind}" for label, kind in zip(labels, kinds, strict=True)]
    [vectors] = RUN.rglob("tensors.tsv")
    weights = NameModule.load_from_checkpoint(RUN / "checkpoints" / "last.ckpt").network.embedding.weight
    read = torch.tensor([[float(x) for x in line.split("\t")] for line in vectors.read_text().splitlines()])
    torch.testing.assert_close(read, weights.detach())


def test_hyperparameters_are_logged_with_the_final_losses(fit):
    result = fit(20, "--model.embedding_dim=4", "--optimizer.lr=0.02")
    events = EventAccumulator(str(RUN)).Reload()
    data = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = HParamsPluginData.FromString(data).session_start_info.hparams
    assert values["model.embedding_dim"].number_value == 4
    assert values["optimizer.init_args.lr"].number_value == 0.02
    assert values["data.path"].string_value == "names.txt"
    data = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    columns = HParamsPluginData.FromString(data).experiment.hparam_infos
    first = [info.name for info in sorted(columns, key=lambda info: (not info.differs, info.name))]  # as on the page
    assert first[:4] == ["model.context_length", "model.dropout", "model.embedding_dim", "model.hidden_size"]
    assert {info.name for info in columns} >= {"optimizer.init_args.lr", "data.batch_size", "seed_everything"}
    for split in ("train", "val", "test"):
        line = next(line for line in result.out.splitlines() if line.startswith(split))
        assert curves(RUN)[f"whole/{split}_loss"][20] == pytest.approx(float(line.split()[2]), rel=1e-4)
    assert len(list(RUN.glob("events*"))) == 1


def test_diagnostics_do_not_change_a_run(fit):
    settings = ("--trainer.val_check_interval=10", "--optimizer=AdamW")
    fit(20, *settings)
    fit(20, *settings, "--trainer.logger=false")
    runs = [torch.load(path, weights_only=True) for path in (RUN / "checkpoints/last.ckpt", "checkpoints/last.ckpt")]
    assert_equal(*runs)


@pytest.mark.parametrize("name, num_layers", [("linear", 0), ("deep", 2), ("wavenet", 2), ("gru", 0), ("bow", 1)])
def test_other_networks_are_shown_and_not_changed(namemlp, name, num_layers):
    settings = ["--data.path=names.txt", "--trainer.max_steps=20", "--trainer.val_check_interval=10"]
    settings += ["--model.context_length=4", f"--model.network={name}"]
    settings += ["--model.network.num_layers=2", "--model.network.batch_norm"] if name == "deep" else []
    for logger in ("true", "false"):
        assert namemlp("fit", *settings, f"--trainer.logger={logger}").code == 0
    runs = [torch.load(path, weights_only=True) for path in (RUN / "checkpoints/last.ckpt", "checkpoints/last.ckpt")]
    assert_equal(*runs)  # running statistics, too
    events = EventAccumulator(str(RUN), size_guidance={"images": 0, "tensors": 0}).Reload()
    tags, layers = events.Tags(), [f"/{n}" for n in range(1, num_layers + 1)]
    weights = [name for name, p in NameModule(**runs[0]["hyper_parameters"]).network.named_parameters()]
    assert {f"weights/update/{name}" for name in weights} <= set(tags["scalars"])
    assert {f"weights/gradients/{name}" for name in weights} <= set(tags["histograms"])
    assert [tag for tag in tags["histograms"] if "tanh" in tag] == [f"val/tanh_units{layer}" for layer in layers]
    assert {f"val/saturated_units{layer}" for layer in layers} <= set(tags["scalars"])
    embedding = set() if name == "linear" else {"weights/embedding"}
    assert set(tags["images"]) == {f"val/saturated{layer}" for layer in layers} | embedding
    assert [text.step for text in events.Tensors("names/text_summary")] == [10, 20]


def test_tanh_layers_are_normalized_by_the_batch(folder):
    data = NamesDataModule("names.txt", context_length=4)
    data.setup("fit")
    network = NameModule(data.vocabulary.characters, 4, network={"name": "deep", "batch_norm": True}).network
    before = copy.deepcopy(network.state_dict())
    layers = tanh_layers(network, data.val_set)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    x, _ = data.val_set[:]
    h = network.train().embedding(x).flatten(1)
    for part in network.layers[:3]:
        h = part(h)
    assert list(layers) == ["/1", "/2", "/3", "/4", "/5"]
    torch.testing.assert_close(layers["/1"], h.detach())


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_frozen_tensor_has_no_sizes(folder, optimizer):
    data = NamesDataModule("names.txt")
    model = NameModule(data.vocabulary.characters, hidden_size=10, optimizer=optimizer)
    model.network.embedding.weight.requires_grad_(False)
    logger = TensorBoardLogger(folder, name="run", version="")
    settings = dict(enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    Trainer(max_epochs=1, accelerator="cpu", callbacks=[ModelDiagnostics()], logger=logger, **settings).fit(model, data)
    points = curves("run")
    assert "weights/update/hidden.weight" in points
    assert "weights/update/embedding.weight" not in points


def test_a_run_that_diverges_ends_in_its_sentence(namemlp):
    settings = (
        "--data.path=names.txt",
        "--optimizer.lr=1e30",
        "--trainer.max_steps=20",
        "--trainer.val_check_interval=1",
    )
    result = namemlp("fit", *settings)
    assert result.code == 2 and "loss is nan at step" in result.err


def test_diagnostics_leave_torch_its_threads(fit):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fit(20)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_diagnostics_keep_the_fused_path_and_import_no_figures(folder):
    code = "import sys; from namemlp.__main__ import main; main(); print('namemlp.viz.figures' in sys.modules)"
    Path("own.py").write_text(code)
    out = Command("fit", "--data.path=names.txt", "--trainer.max_steps=20", script="own.py").result()
    assert "fused path: compiled CPU kernel" in out
    assert out.endswith("False\n")


def test_classes_and_labels_of_characters():
    assert character_classes(".aéÖyBжи'- ы名.") == [
        *("end mark", "vowel", "vowel", "vowel", "consonant", "consonant", "consonant", "vowel"),
        *("other", "other", "other", "vowel", "other", "other"),
    ]
    assert character_labels(".a. \u3000名\u200b") == ["end", "a", ".", "␣", "U+3000", "名", "U+200B"]


@pytest.mark.parametrize("dim", [1, 2, 3, 7])
def test_embedding_is_shown_as_it_is_or_by_its_principal_axes(dim):
    weights = torch.randn(12, dim, generator=torch.Generator().manual_seed(1)) * torch.arange(1.0, dim + 1)
    places, share = pca_2d(weights)
    assert places.shape == (12, 2)
    if dim <= 2:
        assert share is None
        assert torch.equal(places[:, :dim], weights)
        return
    variances = torch.linalg.eigvalsh(weights.T.cov()).flip(0)  # largest first
    assert share == pytest.approx((variances[:2].sum() / variances.sum()).item(), rel=1e-4)
    torch.testing.assert_close(places.T.cov(), torch.diag(variances[:2]), rtol=1e-3, atol=1e-3)
    assert torch.equal(pca_2d(weights)[0], places)
