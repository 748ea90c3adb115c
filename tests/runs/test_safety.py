"""Nothing is lost: checkpoint intervals, damaged files, concurrent runs, changed settings, divergence."""

import re
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Callback, Trainer
from torch import nn

from namemlp import NameModule, NamesDataModule
from namemlp.runs import LastCheckpoint
from tests.helpers import SMALL, SMALL_LIST, assert_equal, curves
from tests.processes import Command

LAST = "lightning_logs/version_{}/checkpoints/last.ckpt"


def last_checkpoint(run):
    return torch.load(LAST.format(run), weights_only=True)


class RecordSaves(Callback):
    """Record the steps at which last.ckpt is saved."""

    def __init__(self):
        self.steps = []

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize("strategy", ["auto", "fused"])
def test_checkpoint_every_n_steps(folder, strategy):
    saves = RecordSaves()
    data = NamesDataModule("names.txt")
    model = NameModule(data.vocabulary.characters, hidden_size=20)
    settings = dict(max_steps=30, strategy=strategy, accelerator="cpu", limit_val_batches=0, logger=False)
    Trainer(callbacks=[saves, LastCheckpoint(every_n_steps=7)], **settings).fit(model, datamodule=data)
    assert saves.steps == [7, 14, 21, 28, 30]


def test_checkpoint_every_n_minutes(folder):
    class SlowSaves(RecordSaves):
        def on_train_batch_start(self, *_):
            time.sleep(0.02)

    saves = SlowSaves()
    data = NamesDataModule("names.txt")
    model = NameModule(data.vocabulary.characters, hidden_size=20)
    settings = dict(max_steps=30, limit_val_batches=0, logger=False)
    start = time.monotonic()
    Trainer(callbacks=[saves, LastCheckpoint(every_n_minutes=0.1 / 60)], **settings).fit(model, datamodule=data)
    assert 3 < len(saves.steps) <= (time.monotonic() - start) / 0.1 + 1
    assert saves.steps[-1] == 30


def damage(path, how):
    content = bytearray(Path(path).read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1  # among the weights: torch.load does not notice
    Path(path).write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "a bit"])
def test_last_skips_a_damaged_file_and_says_so(fit, namemlp, how):
    fit(20, "--trainer.val_check_interval=10")
    weights = last_checkpoint(0)["state_dict"]
    damage(LAST.format(0), how)
    result = fit(20, "--trainer.val_check_interval=10", "--ckpt_path=last")
    [best] = Path("lightning_logs/version_0/checkpoints").glob("best-*.ckpt")
    sentence = f"{LAST.format(0)} is not a checkpoint of namemlp, or it is damaged: give another --ckpt_path"
    assert result.err == f"namemlp: skipping damaged {LAST.format(0)}; using {best}\n"
    if "already" in result.out:  # the best one is that of the end
        assert torch.load(best, weights_only=True)["global_step"] == 20
    else:
        assert all(torch.equal(p, weights[name]) for name, p in last_checkpoint(0)["state_dict"].items())
    damage(best, how)
    damage(LAST.format(0), "cut")
    assert namemlp("fit", "--ckpt_path=last").err == f"namemlp: error: {sentence}\n"


def test_last_falls_back_to_the_previous_run(fit):
    fit(5)
    fit(5)
    for path in Path("lightning_logs/version_1/checkpoints").iterdir():
        damage(path, "cut")
    assert "already at step 5" in fit(5, "--ckpt_path=last").out


def test_resume_from_within_the_run_folder(fit, monkeypatch):
    fit(5)
    names = Path("names.txt").absolute()
    for folder, path in (("lightning_logs/version_0/checkpoints", "last.ckpt"), ("..", "checkpoints/last.ckpt")):
        monkeypatch.chdir(folder)
        step = torch.load(path, weights_only=True)["global_step"]
        fit(step + 5, f"--ckpt_path={path}", f"--data.path={names}")
        assert torch.load(path, weights_only=True)["global_step"] == step + 5
        assert not Path("lightning_logs").exists()


def test_concurrent_runs_have_folders_of_their_own(folder):
    command, seeds = ("fit", "--data.path=names.txt", *SMALL, "--trainer.max_steps=40"), range(3)
    for run in [Command(*command, f"--seed_everything={seed}") for seed in seeds]:
        run.result()
    folders = sorted(Path("lightning_logs").iterdir())
    assert [folder.name for folder in folders] == ["version_0", "version_1", "version_2"]
    trained = [yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"] for folder in folders]
    assert sorted(trained) == list(seeds)
    for number, seed in enumerate(trained):
        assert last_checkpoint(number)["datamodule_hyper_parameters"]["seed"] == seed
        assert len(list(folders[number].glob("events*"))) == 1


def test_a_run_is_resumed_by_one_fit_at_a_time(fit, namemlp):
    fit(5)
    endless = Command("fit", "--ckpt_path=last", "--trainer.max_steps=1000000", "--trainer.limit_val_batches=0")
    try:
        endless.wait_for(lambda: "fused path" in endless.out)
        result = namemlp("fit", "--ckpt_path=last", "--trainer.max_steps=10")
    finally:
        endless.kill()
    sentence = "lightning_logs/version_0 is in use by another fit: wait until that has ended, or start a new run"
    assert (result.code, result.err) == (2, f"namemlp: error: {sentence} without --ckpt_path\n")
    assert last_checkpoint(0)["global_step"] == 5
    fit(10, "--ckpt_path=last")  # the lock has gone with the process


def test_a_run_goes_on_with_the_treatment_of_repeated_names_that_it_had(fit, namemlp):
    fit(5, "--data.duplicates=drop")
    result = namemlp("fit", "--ckpt_path=last", "--data.duplicates=keep")
    assert result.code == 2
    assert "data.duplicates is keep here but drop in lightning_logs/version_0/checkpoints/last.ckpt" in result.err
    fit(10, "--ckpt_path=last")
    assert last_checkpoint(0)["datamodule_hyper_parameters"]["duplicates"] == "drop"
    fit(5, "--name=old")
    path = Path("lightning_logs/old/version_0/checkpoints/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["datamodule_hyper_parameters"]["duplicates"]  # of before there was this setting
    torch.save(checkpoint, path)
    fit(10, f"--ckpt_path={path}")
    assert torch.load(path, weights_only=True)["global_step"] == 10
    assert namemlp("plot", f"--ckpt_path={path}").code == 0


def test_changes_are_allowed_and_logged(fit):
    fit(20)
    Path("other.txt").write_text("\n".join(reversed(SMALL_LIST)))
    changes = ("--data.path=other.txt", "--data.batch_size=16", "--optimizer=AdamW", "--seed_everything=3")
    result = fit(40, "--ckpt_path=last", "--allow_changes", *changes)
    for change in (
        "seed_everything is 3 here but 2147483647 in",
        "data.batch_size is 16 here but 32 in",
        "optimizer.class_path is torch.optim.AdamW here but torch.optim.SGD in",
        "other.txt (SHA-256 ",
    ):
        assert f"resume is not exact: {change}" in result.out
    assert list(curves("lightning_logs/version_0")["train/loss"]) == list(range(5, 41, 5))
    assert last_checkpoint(0)["optimizer_states"][0]["state"]  # AdamW's
    assert last_checkpoint(0)["optimizer_states"][0]["param_groups"][0]["weight_decay"] == 0.01  # and not SGD's
    fit(60, "--ckpt_path=last", *changes)  # which are those of the run now
    assert "allow_changes" not in yaml.safe_load(Path("lightning_logs/version_0/config.yaml").read_text())


@pytest.mark.parametrize("stop", [5, 12])
def test_a_changed_learning_rate_keeps_the_order_of_the_examples(fit, stop):
    fit(stop)
    fit(24, "--ckpt_path=last", "--allow_changes", "--optimizer.lr=0.001")
    fit(24)
    ours, theirs = last_checkpoint(0), last_checkpoint(1)
    assert ours["optimizer_states"][0]["param_groups"][0]["lr"] == 0.001
    for progress in ("epoch_progress", "epoch_loop.batch_progress"):
        assert ours["loops"]["fit_loop"][progress]["current"] == theirs["loops"]["fit_loop"][progress]["current"]


@pytest.mark.parametrize("strategy", ["fused", "auto"])
def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(fit, namemlp, strategy):
    fit(10, f"--trainer.strategy={strategy}")
    before = Path(LAST.format(0)).read_bytes()
    more = ("--ckpt_path=last", "--allow_changes", "--optimizer.lr=3e38", "--trainer.max_steps=30")
    result = namemlp("fit", *more, f"--trainer.strategy={strategy}")
    sentence = r"the loss is (nan|inf) at step 1[2-9] with learning rate 3e\+38: give a smaller optimizer.lr"
    hint = rf"\(the previous checkpoint {LAST.format(0)} is intact\)"
    assert re.fullmatch(rf"namemlp: error: {sentence} {hint}\n", result.err), result.err
    assert result.code == 2
    assert Path(LAST.format(0)).read_bytes() == before


def test_weights_that_are_not_finite_are_not_saved(fit, namemlp):
    """The loss of the last step was finite, and no validation comes before the checkpoint."""
    settings = ("--data.path=names.txt", *SMALL, "--trainer.limit_val_batches=0")
    settings += ("--optimizer.lr=1e38", "--optimizer.weight_decay=100")
    result = namemlp("fit", *settings, "--trainer.max_steps=1")
    assert result.err == "namemlp: error: the weights are no longer finite at step 1: give a smaller optimizer.lr\n"
    assert not list(Path("lightning_logs").glob("*/checkpoints/*"))


class Dropout(NameModule):
    """Draws from torch's random generator at every step."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        embedded = self.dropout(self.network.embedding(x).flatten(1))
        return self.network.output(self.network.hidden(embedded).tanh())


def test_resume_is_exact_with_random_numbers_in_training(folder):
    def run(stop, ckpt_path=None, seed=1):
        torch.manual_seed(seed)
        data = NamesDataModule("names.txt", num_workers=0)
        model = Dropout(vocabulary=data.vocabulary.characters, hidden_size=20)
        settings = dict(val_check_interval=7, check_val_every_n_epoch=None, logger=False)
        Trainer(max_steps=stop, callbacks=LastCheckpoint(), **settings).fit(model, datamodule=data, ckpt_path=ckpt_path)
        return torch.load("checkpoints/last.ckpt", weights_only=True)

    uninterrupted = run(30)
    run(17)
    assert_equal(run(30, "checkpoints/last.ckpt", seed=2), uninterrupted)
    assert str(run(30, seed=2)["state_dict"]) != str(uninterrupted["state_dict"])


@pytest.mark.parametrize("settings", [(), ("--data.num_workers=2",), ("--optimizer=AdamW",)])
def test_same_settings_same_weights(fit, settings):
    fit(30, *settings)
    fit(30, *settings)
    assert_equal(last_checkpoint(0), last_checkpoint(1))
    assert curves("lightning_logs/version_0") == curves("lightning_logs/version_1")


def test_deterministic_is_respected(fit):
    try:
        fit(5, "--trainer.deterministic=true")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
