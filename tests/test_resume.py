"""A run that is stopped and resumed ends with the very weights of one that was not."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer

from namemlp import NameModule, NamesDataModule
from namemlp.callbacks import Interrupted, LastCheckpoint
from tests.conftest import assert_equal

EPOCH = 12  # updates in an epoch of the small list
PLATEAU = (  # every validation is worse than it wants, so each but the first divides the learning rate by 10
    "--lr_scheduler=ReduceLROnPlateau",
    "--lr_scheduler.monitor=val/loss",
    "--lr_scheduler.mode=max",
    "--lr_scheduler.patience=0",
    "--trainer.val_check_interval=6",
)


def final(run):
    return torch.load(f"lightning_logs/version_{run}/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("stop", [1, EPOCH - 1, EPOCH, EPOCH + 1, 2 * EPOCH, 30])
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
def test_resume_is_exact(fit, stop, settings):
    fit(40, *settings)
    fit(stop, *settings)
    fit(40, *settings, "--ckpt_path=last")
    assert_equal(final(1), final(0))


def test_resume_is_exact_again_and_again(fit):
    fit(40)
    fit(3)
    for step in (4, EPOCH, 20, 2 * EPOCH, 2 * EPOCH + 1, 40):
        fit(step, "--ckpt_path=last")
    assert_equal(final(1), final(0))


def test_resume_is_exact_with_workers(fit):
    fit(20, "--model.updates_per_block=1")  # as it is with workers
    fit(5, "--data.num_workers=2")
    fit(20, "--data.num_workers=2", "--ckpt_path=last")
    assert_equal(final(1), final(0))


@pytest.mark.parametrize("settings", [(), ("--trainer.limit_val_batches=0",)], ids=["validation", "none"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_resume_is_exact_where_epochs_are_counted(fit, epochs, settings):
    fit(-1, "--trainer.max_epochs=3", *settings)
    assert final(0)["global_step"] == 3 * EPOCH
    fit(-1, f"--trainer.max_epochs={epochs}", *settings)
    fit(-1, "--trainer.max_epochs=3", "--ckpt_path=last", *settings)
    assert_equal(final(1), final(0))
    assert "already at step 36" in fit(-1, "--trainer.max_epochs=3", "--ckpt_path=last").out


@pytest.mark.parametrize("settings", [(), ("--trainer.limit_val_batches=0",)], ids=["validation", "none"])
def test_a_run_that_stopped_within_an_epoch_goes_on_to_the_end_of_another(fit, settings):
    fit(-1, "--trainer.max_epochs=3", *settings)
    fit(17, *settings)
    fit(-1, "--trainer.max_epochs=3", "--ckpt_path=last", *settings)
    assert_equal(final(1), final(0))


def test_resume_is_exact_from_the_end_of_an_epoch(fit):
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
    assert_equal(final(1), final(0))


def test_epochs_are_counted_through_however_often_a_run_is_resumed(folder):
    """Each time from a checkpoint that was written after the last update of an epoch."""
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
def test_last_ckpt_is_never_written_inside_an_update(folder, interval):
    """With 3 batches in an update and a validation that comes in between: whenever the run is killed, it goes on."""
    written = []

    class Kept(LastCheckpoint):
        def _save(self, trainer):
            super()._save(trainer)
            written.append(Path(f"{len(written)}.ckpt"))
            written[-1].write_bytes(self.path.read_bytes())

    def run(ckpt_path=None):
        data = NamesDataModule("names.txt")
        model = NameModule(data.vocabulary.characters, hidden_size=20)
        settings = dict(val_check_interval=interval, check_val_every_n_epoch=None, num_sanity_val_steps=0)
        trainer = Trainer(max_steps=10, accumulate_grad_batches=3, callbacks=Kept(), logger=False, **settings)
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
        return list(model.parameters())

    whole = run()
    assert len(written) > 3
    for checkpoint in written.copy():
        for ours, theirs in zip(run(checkpoint), whole, strict=True):
            assert torch.equal(ours, theirs), checkpoint


@pytest.mark.parametrize("stop, at_once", [*((step, 1) for step in (1, 5, 6, EPOCH, 13, 29)), (16, 4), (18, 500)])
def test_a_signal_at_any_moment_loses_neither_an_update_nor_a_validation(folder, stop, at_once):
    """With a validation every 6 updates, also where the signal comes just before one; and in blocks, with their end."""

    class Signal(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == stop - 1:
                os.kill(os.getpid(), signal.SIGINT)

    class SignalInBlock(Callback):
        def on_train_epoch_start(self, trainer, *_):
            if trainer.global_step == EPOCH:
                os.kill(os.getpid(), signal.SIGINT)

    validated = {}

    class Watch(Callback):
        def on_validation_end(self, trainer, *_):
            validated.setdefault(trainer.global_step, []).append(trainer.callback_metrics["val/loss"].item())

    def run(ckpt_path=None, *callbacks):
        data = NamesDataModule("names.txt")
        model = NameModule(data.vocabulary.characters, hidden_size=20, updates_per_block=at_once)
        settings = dict(val_check_interval=6, check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=False)
        trainer = Trainer(max_steps=30, callbacks=[*callbacks, Watch(), LastCheckpoint()], **settings)
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
        return list(model.parameters())

    whole = run()
    with pytest.raises(Interrupted):
        run(None, Signal() if at_once == 1 else SignalInBlock())
    assert torch.load("checkpoints/last.ckpt", weights_only=True)["global_step"] == stop
    for ours, theirs in zip(run("checkpoints/last.ckpt"), whole, strict=True):
        assert torch.equal(ours, theirs)
    assert sorted(validated) == [6, 12, 18, 24, 30]
    assert all(first == second for first, second in validated.values())  # once in each of the two runs


@pytest.mark.parametrize("stop", [6, EPOCH, 18])
def test_resume_is_exact_with_a_plateau_scheduler(fit, stop):
    fit(36, *PLATEAU)
    assert final(0)["optimizer_states"][0]["param_groups"][0]["lr"] < 1e-4  # it has stepped more than once
    fit(stop, *PLATEAU)
    fit(36, *PLATEAU, "--ckpt_path=last")
    assert_equal(final(1), final(0))


def test_another_number_of_examples_in_an_update_is_refused(fit, namemlp):
    fit(5)
    checkpoint = final(0)
    checkpoint["NamesDataModule"]["train_loader"]["update_size"] = 64  # as two processes would have left it
    torch.save(checkpoint, "two.ckpt")
    result = namemlp("fit", "--ckpt_path=two.ckpt", "--trainer.max_steps=10")
    assert result.code == 2
    assert "an update reads 32 examples here but 64 in the checkpoint" in result.err
