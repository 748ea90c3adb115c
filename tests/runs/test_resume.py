"""A run that is stopped and resumed ends with the very weights of one that was not."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer

from namemlp import FusedStrategy, NameModule, NamesDataModule
from namemlp.runs import Interrupted, LastCheckpoint
from tests.helpers import SMALL, assert_equal, curves

EPOCH = 12  # steps in an epoch of the small list
PLATEAU = (  # no validation is as the scheduler wants it, so each but the first divides the learning rate by 10
    "--lr_scheduler=ReduceLROnPlateau",
    "--lr_scheduler.monitor=val/loss",
    "--lr_scheduler.mode=max",
    "--lr_scheduler.patience=0",
    "--trainer.val_check_interval=6",
)


def last_checkpoint(run):
    return torch.load(f"lightning_logs/version_{run}/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("--data.replacement=true",),
        ("--optimizer.momentum=0.9",),
        ("--trainer.precision=64-true", "--lr_scheduler=MultiStepLR", "--lr_scheduler.milestones=[7,20]"),
        (
            "--optimizer=AdamW",
            "--lr_scheduler=OneCycleLR",
            "--lr_scheduler.max_lr=0.01",
            "--lr_scheduler.total_steps=99",
        ),
    ],
    ids=["sgd", "replacement", "momentum", "64-bit", "adamw-onecycle"],
)
def test_resume_is_exact(fit, settings):
    """Also many times over, and wherever the run was stopped."""
    fit(40, *settings)
    fit(1, *settings)
    for stop in (2, EPOCH - 1, EPOCH, EPOCH + 1, 2 * EPOCH, 30, 40):
        fit(stop, *settings, "--ckpt_path=last")
    assert_equal(last_checkpoint(1), last_checkpoint(0))


def test_resume_is_exact_with_workers(fit):
    fit(20, "--trainer.strategy=auto")  # as it is with workers
    fit(5, "--data.num_workers=2")
    fit(20, "--data.num_workers=2", "--ckpt_path=last")
    assert_equal(last_checkpoint(1), last_checkpoint(0))


@pytest.mark.parametrize("settings", [(), ("--trainer.limit_val_batches=0",)], ids=["validation", "none"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_resume_is_exact_with_max_epochs(fit, epochs, settings):
    fit(-1, "--trainer.max_epochs=3", *settings)
    assert last_checkpoint(0)["global_step"] == 3 * EPOCH
    fit(-1, f"--trainer.max_epochs={epochs}", *settings)
    fit(-1, "--trainer.max_epochs=3", "--ckpt_path=last", *settings)
    assert_equal(last_checkpoint(1), last_checkpoint(0))
    assert "already at step 36" in fit(-1, "--trainer.max_epochs=3", "--ckpt_path=last").out


@pytest.mark.parametrize("settings", [(), ("--trainer.limit_val_batches=0",)], ids=["validation", "none"])
def test_resume_in_mid_epoch_with_max_epochs(fit, settings):
    fit(-1, "--trainer.max_epochs=3", *settings)
    fit(17, *settings)
    fit(-1, "--trainer.max_epochs=3", "--ckpt_path=last", *settings)
    assert_equal(last_checkpoint(1), last_checkpoint(0))


def test_resume_is_exact_from_on_train_epoch_end(fit):
    """A checkpoint that is written when the Trainer has counted the epoch as done."""
    Path("own.yaml").write_text("""
trainer:
  callbacks:
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {save_on_train_epoch_end: true, save_top_k: -1, filename: "own-{step}", auto_insert_metric_name: false}
""")
    fit(-1, "--trainer.max_epochs=3", "--config=own.yaml")
    own = Path("lightning_logs/version_0/checkpoints") / f"own-{2 * EPOCH}.ckpt"
    copy = Path("copy.ckpt")
    copy.write_bytes(own.read_bytes())
    fit(-1, "--trainer.max_epochs=3", f"--ckpt_path={copy}")
    assert_equal(last_checkpoint(1), last_checkpoint(0))


def test_epochs_are_counted_once_however_often_a_run_is_resumed(folder):
    """Each time from a checkpoint that was saved after the last step of an epoch."""
    epochs = {}

    class Epochs(Callback):
        def on_train_batch_end(self, trainer, *_):
            epochs[trainer.global_step] = trainer.current_epoch
            if trainer.global_step % EPOCH == 0 and trainer.global_step < 3 * EPOCH:
                os.kill(os.getpid(), signal.SIGINT)

    for ckpt_path in (None, "checkpoints/last.ckpt", "checkpoints/last.ckpt"):
        data = NamesDataModule("names.txt")
        model = NameModule(data.vocabulary.characters, hidden_size=20)
        settings = dict(val_check_interval=7, check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=False)
        trainer = Trainer(max_steps=3 * EPOCH + 1, callbacks=[Epochs(), LastCheckpoint()], **settings)
        with contextlib.suppress(Interrupted):
            trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    assert epochs == {step: (step - 1) // EPOCH for step in range(1, 3 * EPOCH + 2)}


@pytest.mark.parametrize("interval", [4, 5])
def test_last_checkpoint_is_never_saved_within_a_step(folder, interval):
    """With 3 batches in a step and validations in between: a run resumes exactly from each checkpoint."""
    saved = []

    class CopyingCheckpoint(LastCheckpoint):
        def _save(self, trainer):
            super()._save(trainer)
            saved.append(Path(f"{len(saved)}.ckpt"))
            saved[-1].write_bytes(self.path.read_bytes())

    def run(ckpt_path=None):
        data = NamesDataModule("names.txt")
        model = NameModule(data.vocabulary.characters, hidden_size=20)
        settings = dict(val_check_interval=interval, check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=False)
        trainer = Trainer(max_steps=10, accumulate_grad_batches=3, callbacks=CopyingCheckpoint(), **settings)
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
        return list(model.parameters())

    whole = run()
    assert len(saved) > 3
    for checkpoint in saved.copy():
        for ours, theirs in zip(run(checkpoint), whole, strict=True):
            assert torch.equal(ours, theirs), checkpoint


@pytest.mark.parametrize(
    "stop, max_block_size", [*((step, 1) for step in (1, 5, 6, EPOCH, 13, 29)), (16, 4), (18, 500)]
)
def test_a_signal_loses_neither_a_step_nor_a_validation(folder, stop, max_block_size):
    """With a validation every 6 steps, also where the signal comes just before it; a block of steps ends first."""

    class Signal(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == stop - 1:
                os.kill(os.getpid(), signal.SIGINT)

    class SignalInBlock(Callback):
        def on_train_epoch_start(self, trainer, *_):
            if trainer.global_step == EPOCH:
                os.kill(os.getpid(), signal.SIGINT)

    val_losses = {}

    class RecordValidations(Callback):
        def on_validation_end(self, trainer, *_):
            val_losses.setdefault(trainer.global_step, []).append(trainer.callback_metrics["val/loss"].item())

    def run(ckpt_path=None, *callbacks):
        data = NamesDataModule("names.txt")
        model = NameModule(data.vocabulary.characters, hidden_size=20)
        settings = dict(val_check_interval=6, check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=False)
        trainer = Trainer(
            max_steps=30,
            strategy="auto" if max_block_size == 1 else FusedStrategy(max_block_size),
            accelerator="cpu",
            callbacks=[*callbacks, RecordValidations(), LastCheckpoint()],
            **settings,
        )
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
        return list(model.parameters())

    whole = run()
    with pytest.raises(Interrupted):
        run(None, Signal() if max_block_size == 1 else SignalInBlock())
    assert torch.load("checkpoints/last.ckpt", weights_only=True)["global_step"] == stop
    for ours, theirs in zip(run("checkpoints/last.ckpt"), whole, strict=True):
        assert torch.equal(ours, theirs)
    assert sorted(val_losses) == [6, 12, 18, 24, 30]
    assert all(first == second for first, second in val_losses.values())  # once in each of the two runs


@pytest.mark.parametrize(
    "validation, strategy",
    [
        (("--trainer.val_check_interval=6",), "fused"),
        (("--trainer.val_check_interval=1.0", "--trainer.check_val_every_n_epoch=1"), "auto"),
        (("--trainer.limit_val_batches=0",), "fused"),
    ],
    ids=["steps", "epochs", "none"],
)
def test_curves_continue_at_the_same_steps(fit, namemlp, monkeypatch, validation, strategy):
    """Where the run had ended, and where it was killed right after a checkpoint was saved."""
    settings = ("--trainer.log_every_n_steps=1", f"--trainer.strategy={strategy}", *validation)
    fit(30, *settings)
    whole = curves("lightning_logs/version_0")

    def assert_same_curves(run, stop=None):
        fit(30, *settings, "--ckpt_path=last")
        resumed = curves(f"lightning_logs/version_{run}")
        for tag in {"train/loss", "train/log10_loss", "lr", "val/loss"} & whole.keys():
            points = {step: value for step, value in whole[tag].items() if tag != "val/loss" or step != stop}
            if tag == "val/loss":
                resumed[tag].pop(stop, None)  # the run that ended there ended with a validation
            assert resumed[tag] == pytest.approx(points, rel=1e-5), (stop, tag)

    stops = (5, EPOCH)
    for run, stop in enumerate(stops, 1):
        fit(stop, *settings)
        assert_same_curves(run, stop)

    def save_and_die(self, trainer):
        save(self, trainer)
        if trainer.global_step == stop:
            raise KeyboardInterrupt

    save = LastCheckpoint._save
    for run, stop in enumerate((5, EPOCH + 1), len(stops) + 1):
        with monkeypatch.context() as patch:
            patch.setattr(LastCheckpoint, "_save", save_and_die)
            command = ("fit", "--data.path=names.txt", *SMALL, *settings, "--trainer.max_steps=30")
            assert namemlp(*command, f"--checkpoint.every_n_steps={stop}").code == 128 + signal.SIGINT
        assert last_checkpoint(run)["global_step"] == stop
        assert_same_curves(run)


def test_a_run_has_no_point_beyond_its_interval(fit):
    """Though it ends with a validation."""
    fit(13, "--trainer.log_every_n_steps=5", "--trainer.val_check_interval=5000")
    points = curves("lightning_logs/version_0")
    assert [*points["train/loss"]] == [*points["lr"]] == [5, 10]
    assert [*points["val/loss"]] == [13]


@pytest.mark.parametrize("stop", [6, EPOCH, 18])
def test_resume_is_exact_with_a_plateau_scheduler(fit, stop):
    fit(36, *PLATEAU)
    assert last_checkpoint(0)["optimizer_states"][0]["param_groups"][0]["lr"] < 1e-4  # it has stepped more than once
    fit(stop, *PLATEAU)
    fit(36, *PLATEAU, "--ckpt_path=last")
    assert_equal(last_checkpoint(1), last_checkpoint(0))


def test_another_number_of_examples_per_step_is_refused(fit, namemlp):
    fit(5)
    checkpoint = last_checkpoint(0)
    checkpoint["trainer"]["world_size"] = 2  # as two processes would have saved it
    torch.save(checkpoint, "two.ckpt")
    result = namemlp("fit", "--ckpt_path=two.ckpt", "--trainer.max_steps=10")
    assert result.code == 2
    assert "examples per step (data.batch_size x processes) is 32 here but 64 in two.ckpt: match it" in result.err
