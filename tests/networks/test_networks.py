"""Each network of the lectures trains, resumes exactly and is used by one setting."""

import copy
import os
import re
import signal
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from namemlp import NETWORKS, NameModule, NamesDataModule, UserError
from namemlp.network import eval_mode
from namemlp.networks import BatchNorm, Transformer, WaveNet
from tests.helpers import SMALL_LIST, assert_equal, curves
from tests.processes import Command, start_two

CHARACTERS = ".abcdefghijklmnopqrstuvwxyz"
SETTINGS = ("--data.path=names.txt", "--data.batch_size=32", "--trainer.log_every_n_steps=5")
NAMES = [name for name in NETWORKS if name != "mlp"]
PARAMETERS = {  # at a context of 8 where the lectures have no other: as there, and as makemore prints them
    "linear": (1, 27 * 27),
    "deep": (3, 46_497),
    "wavenet": (8, 76_579),
    "transformer": (16, 204_544),
}


@pytest.fixture
def train(namemlp):
    """Run a short fit, which must succeed."""

    def run(steps, *settings):
        result = namemlp("fit", *SETTINGS, f"--trainer.max_steps={steps}", *settings)
        assert result.code == 0, result.err
        return result

    return run


def module(name, context_length=8, **settings):
    return NameModule(CHARACTERS, context_length, network={"name": name, **settings})


@pytest.mark.parametrize("name", PARAMETERS)
def test_default_sizes_are_those_of_the_lectures(name):
    context_length, count = PARAMETERS[name]
    assert sum(p.numel() for p in module(name, context_length).parameters()) == count


@pytest.mark.parametrize("name", NAMES)
def test_logits_depend_on_the_context_alone(name):
    model = module(name)
    x = torch.randint(27, (5, 8))
    with eval_mode(model):
        logits = model(x)
        assert logits.shape == (5, 27)
        torch.testing.assert_close(model(x[[3, 1]]), logits[[3, 1]], rtol=1e-4, atol=1e-5)
        for t in range(8):
            changed = x.clone()
            changed[:, t] = (x[:, t] + 1) % 27
            assert (model(changed) - logits).abs().max() > 1e-6, t


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_are_those_of_the_seed(name):
    torch.manual_seed(3)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    models = [NameModule(CHARACTERS, 8, network=name, init_seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), drawn)  # the global generator is left as it was
    one, same, other = ([p.flatten() for p in model.parameters()] for model in models)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", [*NAMES, "deep with BatchNorm"])
def test_a_killed_run_ends_as_an_uninterrupted_one(train, name):
    settings = ["--model.network=deep", "--model.network.batch_norm"] if " " in name else [f"--model.network={name}"]
    settings += ["--model.context_length=4", "--optimizer=AdamW", "--checkpoint.every_n_steps=5"]
    uninterrupted, killed = (Path(f"lightning_logs/version_{run}") for run in (0, 1))
    last = killed / "checkpoints/last.ckpt"
    train(100, *settings, "--trainer.strategy=auto")  # not in blocks
    run = Command("fit", *SETTINGS, *settings, "--trainer.max_steps=100")
    try:
        for _ in range(3):
            run.wait_for_rewrite(last)
        os.kill(run.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    finally:
        run.kill()
    assert 0 < torch.load(last, weights_only=True)["global_step"] < 100
    train(100, "--ckpt_path=last")
    assert_equal(
        *(torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (killed, uninterrupted))
    )
    assert curves(killed) == curves(uninterrupted)


@pytest.mark.parametrize("name", NAMES)
def test_sample_predict_plot_and_export(train, namemlp, name):
    train(3, f"--model.network={name}", "--model.context_length=4")
    assert len(namemlp("sample", "--ckpt_path=last", "--num_names=4").out.split()) == 4
    assert len(namemlp("predict", "--ckpt_path=last").out.splitlines()) == len(SMALL_LIST)
    assert namemlp("plot", "--ckpt_path=last").code == 0
    for kind in ("html", "onnx"):
        result = namemlp("export", "--ckpt_path=last", f"--to={kind}")
        assert (result.code, result.err.count("export knows the network mlp only")) == (2, 1)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"network": {"name": "deep", "hidden_size": 0}}, "invalid value 0 for model.network.hidden_size: see"),
        ({"network": {"name": "deep", "units": 3}}, "model.network.units: deep has no such setting, but"),
        ({"network": {"name": "deep", "init": "best"}}, "invalid value best for model.network.init: see"),
        ({"network": "deep", "hidden_size": 100}, "model.hidden_size is a setting of the network mlp: omit it"),
        ({"network": "wavenet", "context_length": 3}, "context_length is 3: it must be a power of 2, such as 8"),
        (
            {"network": {"name": "transformer", "num_heads": 5}},
            "embedding_dim is 64: it must be a multiple of num_heads",
        ),
        ({"network": {"name": "transformer", "dropout": 1.0}}, "invalid value 1.0 for model.network.dropout: see"),
        ({"network": {"name": "deep", "init": None}}, "invalid value None for model.network.init: see"),
        ({"network": {"name": "mlp", "hidden_size": 9}}, "model.network.hidden_size: the network is mlp"),
        ({"network": "lstm"}, "model.network is lstm: use one of mlp, linear, deep"),
        ({"network": None}, "model.network is None: give a name"),
        ({"network": {"num_layers": 2}}, "model.network is .*: give a name"),
    ],
    ids=str,
)
def test_wrong_settings_are_an_error(settings, message):
    with pytest.raises(UserError, match=message):
        NameModule(CHARACTERS, **settings)


def test_the_command_takes_settings_of_a_network(train, namemlp):
    train(2, "--model.network=gru", "--model.network.hidden_size", "7", "--model.network.embedding_dim=3")
    saved = torch.load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    assert saved["network"] == {"name": "gru", "embedding_dim": 3, "hidden_size": 7}
    assert "--model.network.num_heads" in namemlp("fit", "--model.network=transformer", "--help").out
    result = namemlp("fit", "--model.network.units=3")
    assert result.code == 2 and "model.network.units: the network is mlp" in result.err


@pytest.mark.parametrize("value", ["{a", "*x", "[" * 3000])
def test_a_setting_that_is_no_value_is_an_error(namemlp, value):
    result = namemlp("fit", "--model.network=deep", "--model.network.num_layers", value)
    assert result.code == 2 and "for model.network.num_layers" in result.err and result.err.count("\n") == 1


def test_the_printed_config_has_the_settings(namemlp):
    out = namemlp("fit", "--model.network=deep", "--model.network.num_layers=2", "--print_config").out
    assert yaml.safe_load(out)["model"]["network"] == {"name": "deep", "num_layers": 2}


def test_a_class_path_is_the_network_of_that_name(train, namemlp):
    network = "{class_path: namemlp.networks.deep.Deep, init_args: {hidden_size: 9}}"
    train(4, f"--model.network={network}", "--model.network.num_layers=2")
    resume = ("--config=lightning_logs/version_0/config.yaml", "--ckpt_path=last", "--trainer.max_steps=6")
    assert namemlp("fit", *resume).code == 0
    saved = torch.load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 6
    network = saved["hyper_parameters"]["network"]
    assert (network["name"], network["hidden_size"], network["num_layers"]) == ("deep", 9, 2)
    assert namemlp("test", "--ckpt_path=last").code == 0


def test_a_context_may_be_longer_than_the_weights_are_many(train, namemlp):
    train(
        2,
        "--model.network=rnn",
        "--model.network={name: rnn, embedding_dim: 1, hidden_size: 1}",
        "--model.context_length=200",
    )
    assert namemlp("sample", "--ckpt_path=last", "--num_names=2", "--max_length=5").code == 0


def test_another_network_or_setting_is_refused_on_resume(train, namemlp):
    train(2, "--model.network=transformer", "--model.network.num_layers=1")
    resume = ("fit", "--ckpt_path=last", "--data.path=names.txt", "--trainer.max_steps=4")
    assert "model.network is gru here but transformer in" in namemlp(*resume, "--model.network=gru").err
    assert "model.network.num_layers is 2 here but 1 in" in namemlp(*resume, "--model.network.num_layers=2").err
    result = namemlp(*resume, "--model.network.dropout=0.5")
    assert result.code == 2 and "model.network.dropout is 0.5 here but 0.0" in result.err
    assert namemlp(*resume, "--model.network.dropout=0.5", "--allow_changes").code == 0


@pytest.mark.parametrize("name", ["torch.nn.Linear", "torch.nn.Embedding", "namemlp.networks.batch_norm.BatchNorm"])
def test_a_class_that_makes_no_logits_is_an_error(namemlp, name):
    result = namemlp("fit", "--data.path=names.txt", f"--model.network={name}")
    assert result.code == 2 and f"model.network {name} is no network that takes" in result.err
    assert not Path("lightning_logs").exists()


def test_a_checkpoint_that_claims_a_large_network_is_refused(train, namemlp):
    train(2, "--model.network=transformer", "--model.network.num_layers=1")
    path = "lightning_logs/version_0/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    claims = {"num_layers": (10**9, "num_layers is 1,000,000,000"), "embedding_dim": (10**9, "embedding_dim is")}
    claims |= {"num_heads": (10**9, "num_heads is"), "embedding_dim ": (128, r"holds network.embedding.weight as")}
    for name, (value, message) in claims.items():
        hostile = copy.deepcopy(checkpoint)
        hostile["hyper_parameters"]["network"][name.strip()] = value
        torch.save(hostile, "hostile.ckpt")
        result = namemlp("sample", "--ckpt_path=hostile.ckpt")
        assert result.code == 2 and message in result.err, name
    for network in (None, 3, {"class_path": "namemlp.networks.Deep"}, {"name": "torch.nn.Transformer"}):
        checkpoint["hyper_parameters"]["network"] = network
        torch.save(checkpoint, "hostile.ckpt")
        result = namemlp("sample", "--ckpt_path=hostile.ckpt")
        assert result.code == 2 and "as its network" in result.err, network


def test_batch_norm_is_that_of_torch_and_takes_a_batch_of_one():
    ours, theirs = BatchNorm(6), nn.BatchNorm1d(6)
    for _ in range(3):
        x = torch.randn(10, 6)
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    before = ours.running_mean.clone()
    one = torch.randn(1, 6)
    assert torch.equal(ours(one), theirs.eval()(one))
    assert ours.training and torch.equal(ours.running_mean, before)


def test_a_last_batch_of_one_is_trained(folder):
    from lightning import Trainer

    data = NamesDataModule("names.txt", context_length=2, batch_size=23)
    data.setup("fit")
    assert len(data.train_set) % 23 == 1
    model = NameModule(data.vocabulary.characters, 2, network="wavenet")
    settings = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    Trainer(max_epochs=1, accelerator="cpu", **settings).fit(model, data)
    assert all(p.isfinite().all() for p in model.parameters())


def test_sizes_that_do_not_fit_raise_a_value_error():
    with pytest.raises(ValueError, match="must be a power of 2"):
        WaveNet(27, 6)
    with pytest.raises(ValueError, match="must be a multiple of num_heads"):
        Transformer(27, 8, embedding_dim=10)


def test_two_processes_share_the_statistics_of_batch_norm(folder):
    settings = ("--data.path=names.txt", "--data.batch_size=8", "--model.network=wavenet", "--model.context_length=4")
    settings += ("--trainer.devices=2", "--trainer.max_steps=30", "--trainer.val_check_interval=10")
    for strategy in ("ddp", "fused_ddp"):
        for command in start_two("fit", *settings, f"--trainer.strategy={strategy}"):
            command.result()
    one, other = (
        torch.load(f"lightning_logs/version_{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in (0, 1)
    )
    assert one["network.norms.0.running_var"].ne(1).all()
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("left", [1, 3])  # examples of the last batch: for one process, and 2 and 1
def test_two_processes_take_a_last_batch_of_one(folder, left):
    data = NamesDataModule("names.txt", context_length=4)
    data.setup("fit")
    batch_size = next(n for n in range(2, 100) if len(data.train_set) % (2 * n) == left)
    settings = ("--data.path=names.txt", f"--data.batch_size={batch_size}", "--model.context_length=4")
    settings += ("--model.network=deep", "--model.network.batch_norm", "--trainer.max_epochs=2", "--trainer.devices=2")
    for command in start_two("fit", *settings, "--trainer.strategy=fused_ddp", "--trainer.max_steps=-1"):
        command.result()


def test_fit_says_what_the_loss_is_before_the_first_step(fit):
    out = fit(2, "--model.init=zeros").out
    assert re.search(r"^loss before training (\d\.\d+); guessing among \d+ characters has log \d+ = \1$", out, re.M)
    assert "before training" not in fit(4, "--model.init=zeros", "--ckpt_path=last").out
