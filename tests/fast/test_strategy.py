"""Training in blocks shows nowhere: counts, curves and checkpoints are those of the standard path."""

import copy
import logging
import pickle
from functools import cache
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from namemlp import FusedStrategy, NameModule, NamesDataModule, UserError
from namemlp.viz import StepProgressBar
from tests.fast.helpers import COMPILED, NO_FILES, QUIET, STANDARD, K, assert_same_weights, curves, logged, strategy
from tests.helpers import SMALL_LIST

EPOCH = 12  # steps in an epoch of the small list, the last one on a smaller batch
HALVING = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 4, "gamma": 0.5}}
COSINE = {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 30}}


def fit(max_block_size, name="run", lr_scheduler=None, num_workers=0, ckpt_path=None, seed=0, **settings):
    """The Trainer of a run that saves, validates and logs at intervals of its own."""
    data = NamesDataModule("names.txt", num_workers=num_workers, seed=seed)
    data.setup("fit")
    model = NameModule(data.vocabulary.characters, hidden_size=20, lr_scheduler=lr_scheduler)
    saves = ModelCheckpoint(every_n_train_steps=7, save_top_k=-1, filename="{step}", save_last=True)
    best = ModelCheckpoint(monitor="val/loss", filename="best-{step}", save_top_k=-1)
    settings = {"log_every_n_steps": 3, "num_sanity_val_steps": 0, "val_check_interval": 6, **settings}
    settings.setdefault("check_val_every_n_epoch", None)
    logger = TensorBoardLogger(".", name=name)
    trainer = Trainer(logger=logger, callbacks=[saves, best], strategy=strategy(max_block_size), **QUIET, **settings)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def checkpoints(trainer):
    return {path.name: torch.load(path, weights_only=True) for path in Path(trainer.log_dir).rglob("*.ckpt")}


def assert_same_run(ours, theirs):
    """Two runs have the same counts at every point, and the same weights and values to float32 rounding."""
    assert ours.global_step == theirs.global_step and ours.current_epoch == theirs.current_epoch
    a, b = curves(ours), curves(theirs)
    assert a.keys() == b.keys()
    for tag in a:
        assert [step for step, _ in a[tag]] == [step for step, _ in b[tag]], tag
        assert [value for _, value in a[tag]] == pytest.approx([value for _, value in b[tag]], rel=1e-4), tag
    a, b = checkpoints(ours), checkpoints(theirs)
    assert a.keys() == b.keys()
    for name in a:
        for part in ("global_step", "epoch", "loops", "lr_schedulers", "optimizer_states", "NamesDataModule"):
            assert a[name][part] == b[name][part], (name, part)
        for weight, values in a[name]["state_dict"].items():
            torch.testing.assert_close(values, b[name]["state_dict"][weight], rtol=0, atol=1e-4)


@pytest.mark.parametrize("max_block_size", [1, K])
@pytest.mark.parametrize("steps", [1, 3, K - 1, K, K + 1, 7, EPOCH - 1, EPOCH, EPOCH + 1, 2 * EPOCH, 40])
def test_every_number_of_steps_is_met(folder, steps, max_block_size):
    ours = fit(max_block_size, max_steps=steps)
    assert ours.global_step == steps
    assert [step for step, _ in curves(ours).get("train/loss", [])] == list(range(2, steps, 3))  # the first step is 0
    assert [step for step, _ in curves(ours).get("val/loss", [])] == list(range(5, steps, 6))
    saved = {f"step={step}.ckpt" for step in range(7, steps + 1, 7)}
    assert saved <= checkpoints(ours).keys(), sorted(checkpoints(ours))
    assert_same_run(ours, fit(STANDARD, max_steps=steps))


@pytest.mark.parametrize(
    "settings",
    [
        dict(max_steps=30, lr_scheduler=HALVING),
        dict(max_steps=30, lr_scheduler=COSINE),
        dict(max_epochs=3),
        dict(max_epochs=3, val_check_interval=1.0, check_val_every_n_epoch=1),
        dict(max_epochs=4, val_check_interval=0.5, check_val_every_n_epoch=2),
        dict(max_epochs=2, val_check_interval=5, check_val_every_n_epoch=1),
        dict(max_steps=30, val_check_interval=1),
        dict(max_steps=30, limit_val_batches=0),
        dict(max_steps=30, log_every_n_steps=0),
        dict(max_epochs=4, min_steps=20, val_check_interval=50),
        dict(max_steps=30, precision="64-true"),
        dict(max_steps=5, min_epochs=1),
        dict(max_steps=30, limit_train_batches=5),
        dict(max_epochs=3, limit_train_batches=0.5, val_check_interval=4),
        dict(max_steps=30, overfit_batches=3, val_check_interval=1.0, check_val_every_n_epoch=1),
        dict(max_epochs=3, reload_dataloaders_every_n_epochs=1),
        dict(max_steps=30, accumulate_grad_batches=2),
        dict(max_steps=30, num_workers=1),
        dict(fast_dev_run=3),
    ],
    ids=str,
)
def test_every_interval_is_met(folder, settings):
    if "fast_dev_run" in settings:  # has neither checkpoints nor curves
        assert fit(K, **settings).global_step == fit(STANDARD, **settings).global_step == 3
    else:
        assert_same_run(fit(K, **settings), fit(STANDARD, **settings))


@pytest.mark.parametrize("max_block_size", [1, 2, 11, 500])
def test_block_size_changes_no_bit(folder, max_block_size):
    ours, theirs = (fit(size, max_steps=40, lr_scheduler=HALVING) for size in (max_block_size, K))
    assert_same_run(ours, theirs)
    assert_same_weights(ours.lightning_module, theirs.lightning_module)
    assert curves(ours) == curves(theirs)


@pytest.fixture(scope="module")
def checkpoint_of_step_35(tmp_path_factory):
    """The checkpoint of a run that was not stopped, on either path."""

    @cache
    def get(max_block_size):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("whole"))
            Path("names.txt").write_text("\n".join(SMALL_LIST), encoding="utf-8")
            return checkpoints(fit(max_block_size, max_steps=40, lr_scheduler=COSINE))["step=35.ckpt"]

    return get


@pytest.mark.parametrize("stop", [7, EPOCH, 14, 28])
@pytest.mark.parametrize("first, then", [(K, K), (K, STANDARD), (STANDARD, K), (STANDARD, STANDARD), (4, 9), (1, K)])
def test_a_run_resumes_on_either_path(folder, checkpoint_of_step_35, stop, first, then):
    settings = dict(lr_scheduler=COSINE)
    stopped = fit(first, name="stopped", max_steps=stop, **settings)
    resumed = fit(then, max_steps=40, ckpt_path=f"{stopped.log_dir}/checkpoints/last.ckpt", **settings)
    ours, theirs = checkpoints(resumed)["step=35.ckpt"], checkpoint_of_step_35(STANDARD if first is STANDARD else K)
    for part in ("global_step", "loops", "lr_schedulers", "optimizer_states", "NamesDataModule"):
        assert ours[part] == theirs[part], part
    for name, values in ours["state_dict"].items():
        torch.testing.assert_close(values, theirs["state_dict"][name], rtol=0, atol=1e-4)
        if (first is STANDARD) == (then is STANDARD):
            assert torch.equal(values, theirs["state_dict"][name])


def test_a_trainer_can_train_twice(folder):
    def twice(max_block_size):
        trainer = fit(max_block_size, max_steps=8)
        trainer.fit_loop.epoch_loop.max_steps = 20
        trainer.should_stop = False
        data = NamesDataModule("names.txt")
        trainer.fit(trainer.lightning_module, datamodule=data)
        return trainer

    ours, theirs = twice(K), twice(STANDARD)
    assert ours.global_step == 20
    assert_same_run(ours, theirs)


def test_early_stopping_and_timer_work_in_blocks(folder, caplog):
    caplog.set_level(logging.INFO, "namemlp")
    data = NamesDataModule("names.txt")
    model = NameModule(data.vocabulary.characters, hidden_size=20)
    stop = EarlyStopping("val/loss", mode="max", patience=1)  # no validation is better than the first
    callbacks = [stop, Timer("00:01:00:00")]
    trainer = Trainer(max_steps=200, callbacks=callbacks, strategy=FusedStrategy(K), **NO_FILES, **QUIET)
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == 2 * EPOCH
    assert [record.message for record in logged(caplog)] == [COMPILED]


def test_other_readers_of_the_training_loader_see_ordinary_batches(folder):
    class Reader(Callback):
        def on_validation_end(self, trainer, pl_module):
            assert next(iter(trainer.train_dataloader))[1].shape == (32,)

    def run(*callbacks):
        data = NamesDataModule("names.txt")
        data.setup("fit")
        loader = data.train_dataloader()
        model = NameModule(data.vocabulary.characters)
        settings = dict(num_sanity_val_steps=0, val_check_interval=5, **NO_FILES, **QUIET)
        trainer = Trainer(max_epochs=2, callbacks=[*callbacks], strategy=FusedStrategy(), **settings)
        trainer.fit(model, loader, data.val_dataloader())
        assert trainer.global_step == 2 * EPOCH and trainer.fit_loop.total_batch_idx + 1 == trainer.global_step
        assert next(iter(loader))[1].shape == (32,)
        return model

    assert_same_weights(run(Reader()), run())


def test_a_model_whose_run_failed_can_be_trained_by_hand(folder):
    class Failure(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            raise ZeroDivisionError

    data = NamesDataModule("names.txt")
    model = NameModule(data.vocabulary.characters)
    trainer = Trainer(max_epochs=2, callbacks=Failure(), strategy=FusedStrategy(), **NO_FILES, **QUIET)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(model, data)
    model.zero_grad()
    loss = model.loss(*data.train_set[:5])
    model.backward(loss)
    assert model.network.embedding.weight.grad.any()


def test_a_model_in_training_can_be_copied(folder):
    class Copier(Callback):
        def on_validation_end(self, trainer, pl_module):
            clone = copy.deepcopy(pl_module)
            x, _ = trainer.datamodule.val_set[:]
            assert torch.equal(clone(x), pl_module(x))
            pickle.loads(pickle.dumps(pl_module))

    data = NamesDataModule("names.txt")
    model = NameModule(data.vocabulary.characters)
    trainer = Trainer(max_steps=30, callbacks=Copier(), strategy=FusedStrategy(), **NO_FILES, **QUIET)
    trainer.fit(model, data)


def test_blocks_of_large_steps_are_shorter(folder, caplog):
    caplog.set_level(logging.INFO, "namemlp")
    data = NamesDataModule("names.txt", batch_size=300)
    model = NameModule(data.vocabulary.characters, hidden_size=500)
    Trainer(max_steps=3, strategy=FusedStrategy(), limit_val_batches=0, **NO_FILES, **QUIET).fit(model, data)
    assert "up to 367 steps per block" in caplog.text  # of 3 * 300 * 18,127 multiply-adds


@pytest.mark.parametrize("kind", [TQDMProgressBar, StepProgressBar])
def test_progress_bars_count_steps(folder, caplog, capsys, kind):
    caplog.set_level(logging.INFO, "namemlp")
    data = NamesDataModule("names.txt")
    counts = []

    class Bar(kind):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            if kind is TQDMProgressBar:
                counts.append((self.train_progress_bar.n, self.train_progress_bar.total))

    model = NameModule(data.vocabulary.characters)
    settings = {**QUIET, **NO_FILES, "enable_progress_bar": True}
    Trainer(max_epochs=2, callbacks=[Bar()], strategy=FusedStrategy(K), **settings).fit(model, data)
    assert COMPILED in caplog.text
    if kind is TQDMProgressBar:
        assert counts == [(EPOCH, EPOCH)] * 2
    else:
        out = capsys.readouterr().out
        assert f"step {EPOCH}: " in out and f"step {2 * EPOCH}: " in out


def test_max_block_size_is_checked():
    with pytest.raises(UserError, match="max_block_size is 0: it must be at least 1"):
        FusedStrategy(0)


def test_fused_strategy_trains_on_one_device():
    with pytest.raises(UserError, match="strategy fused trains on one device, not on 2: use strategy fused_ddp"):
        Trainer(strategy="fused", accelerator="cpu", devices=2, logger=False)


def test_the_command_says_which_path_it_takes(fit):
    assert "fused path: compiled CPU kernel, up to 5,000 steps per block\n" in fit(3).out
    out = fit(3, "--optimizer.momentum=0.5").out
    assert "fused path: gradients in closed form, up to 500 steps per block (the optimizer has momentum)\n" in out
    out = fit(3, "--trainer.accumulate_grad_batches=2").out
    assert "fused path disabled: gradients are accumulated\n" in out
    assert "fused path" not in fit(3, "--trainer.strategy=auto").out
