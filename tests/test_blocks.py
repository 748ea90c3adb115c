"""Nobody sees that updates are made in blocks: what is counted, drawn and saved is as in the textbook path."""

import copy
import logging
import pickle
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from namemlp import NameModule, NamesDataModule
from namemlp.progress import StepProgress
from tests.conftest import leaves

K = 5
EPOCH = 12  # updates in an epoch of the small list, the last one on a smaller batch
HALVING = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 4, "gamma": 0.5}}
COSINE = {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 30}}
QUIET = dict(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)


def fit(updates_per_block, name="run", lr_scheduler=None, num_workers=0, ckpt_path=None, seed=0, **settings):
    """A real run with all that counts steps in it; its Trainer."""
    data = NamesDataModule("names.txt", num_workers=num_workers, seed=seed)
    data.setup("fit")
    model = NameModule(
        data.vocabulary.characters, hidden_size=20, lr_scheduler=lr_scheduler, updates_per_block=updates_per_block
    )
    saves = ModelCheckpoint(every_n_train_steps=7, save_top_k=-1, filename="{step}", save_last=True)
    best = ModelCheckpoint(monitor="val/loss", filename="best-{step}", save_top_k=-1)
    settings = {"log_every_n_steps": 3, "num_sanity_val_steps": 0, "val_check_interval": 6, **settings}
    settings.setdefault("check_val_every_n_epoch", None)
    trainer = Trainer(logger=TensorBoardLogger(".", name=name), callbacks=[saves, best], **QUIET, **settings)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def curves(trainer):
    """Tag -> [(step, value)]."""
    events = EventAccumulator(trainer.log_dir).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


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


@pytest.mark.parametrize("steps", [1, 3, K - 1, K, K + 1, 7, EPOCH - 1, EPOCH, EPOCH + 1, 2 * EPOCH, 40])
def test_every_number_of_steps_is_met(folder, steps):
    ours = fit(K, max_steps=steps)
    assert ours.global_step == steps
    assert [step for step, _ in curves(ours).get("train/loss", [])] == list(range(3, steps + 1, 3))
    saved = {f"step={step}.ckpt" for step in range(7, steps + 1, 7)}
    assert saved <= checkpoints(ours).keys(), sorted(checkpoints(ours))
    assert_same_run(ours, fit(1, max_steps=steps))


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
        dict(fast_dev_run=3),
    ],
    ids=str,
)
def test_every_interval_is_met(folder, settings):
    if "fast_dev_run" in settings:  # has neither checkpoints nor curves
        assert fit(K, **settings).global_step == fit(1, **settings).global_step == 3
    else:
        assert_same_run(fit(K, **settings), fit(1, **settings))


@pytest.mark.parametrize("longest", [2, 11, 500])
def test_the_length_of_blocks_changes_nothing(folder, longest):
    ours, theirs = fit(longest, max_steps=40, lr_scheduler=HALVING), fit(K, max_steps=40, lr_scheduler=HALVING)
    assert_same_run(ours, theirs)
    for name, values in ours.lightning_module.state_dict().items():
        assert torch.equal(values, theirs.lightning_module.state_dict()[name])


@pytest.mark.parametrize("stop", [7, EPOCH, 14, 28])
@pytest.mark.parametrize("first, then", [(K, K), (K, 1), (1, K), (4, 9)])
def test_a_run_goes_on_in_blocks_or_not(folder, stop, first, then):
    settings = dict(lr_scheduler=COSINE)
    stopped = fit(first, name="stopped", max_steps=stop, **settings)
    resumed = fit(then, max_steps=40, ckpt_path=f"{stopped.log_dir}/checkpoints/last.ckpt", **settings)
    whole = fit(K, max_steps=40, **settings)
    ours, theirs = checkpoints(resumed)["step=35.ckpt"], checkpoints(whole)["step=35.ckpt"]
    for part in ("global_step", "loops", "lr_schedulers", "optimizer_states", "NamesDataModule"):
        assert ours[part] == theirs[part], part
    for name, values in ours["state_dict"].items():
        torch.testing.assert_close(values, theirs["state_dict"][name], rtol=0, atol=1e-4)
        if 1 not in (first, then):
            assert torch.equal(values, theirs["state_dict"][name])


def test_a_trainer_that_has_trained_before(folder):
    def twice(updates_per_block):
        trainer = fit(updates_per_block, max_steps=8)
        trainer.fit_loop.epoch_loop.max_steps = 20
        trainer.should_stop = False
        data = NamesDataModule("names.txt")
        trainer.fit(trainer.lightning_module, datamodule=data)
        return trainer

    ours, theirs = twice(K), twice(1)
    assert ours.global_step == 20
    assert_same_run(ours, theirs)


def test_early_stopping_and_time_limits_end_a_run_in_blocks(folder, caplog):
    caplog.set_level(logging.INFO, "namemlp")
    data = NamesDataModule("names.txt")
    data.setup("fit")
    model = NameModule(data.vocabulary.characters, hidden_size=20, updates_per_block=K)
    stop = EarlyStopping("val/loss", mode="max", patience=1)  # no validation is better than the first
    trainer = Trainer(
        max_steps=200, callbacks=[stop, Timer("00:01:00:00")], logger=False, enable_checkpointing=False, **QUIET
    )
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == 2 * EPOCH
    assert "up to 5 updates at once" in caplog.text


class Watching(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert batch[1].dim() == 1


class Harmless(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        pass


class Unusual(NameModule):
    def on_after_backward(self):
        assert self.network.embedding.weight.grad is not None


class Hooked(NameModule):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.network.hidden.register_forward_hook(lambda *_: None)


class Frozen(NameModule):
    def configure_optimizers(self):
        self.network.embedding.requires_grad_(False)
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.01)


class Clipping(NameModule):
    def configure_gradient_clipping(self, *args, **kwargs):
        nn.utils.clip_grad_norm_(self.parameters(), 0.1)


class Masking(NameModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        assert batch[0].dim() == 2
        return batch


class TwoRates(NameModule):
    def configure_optimizers(self):
        groups = [{"params": self.network.embedding.parameters(), "lr": 0.1}]
        groups += [{"params": [*self.network.hidden.parameters(), *self.network.output.parameters()]}]
        return torch.optim.SGD(groups, lr=0.01)


class Widened(NameModule):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.network.output = nn.Linear(20, len(self.vocabulary) + 5)


class GradientHook(NameModule):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.network.hidden.weight.register_hook(lambda gradient: 0 * gradient)


class StepHook(NameModule):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        optimizer.register_step_post_hook(lambda *_: None)
        return optimizer


class OtherNetwork(NameModule):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.network.hidden = nn.Sequential(self.network.hidden, nn.Dropout())


def sgd(**init_args):
    return {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01, **init_args}}


ONE_CYCLE = {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": 20}}


ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01, "amsgrad": True}}
NADAM = {"class_path": "torch.optim.NAdam", "init_args": {"lr": 0.01}}
LBFGS = {"class_path": "torch.optim.LBFGS", "init_args": {}}


def run(caplog, model, trainer):
    """A short run, in which all is as it should be but what is said."""
    caplog.set_level(logging.INFO, "namemlp")
    torch.set_num_threads(2)  # with one, torch is never faster
    torch.manual_seed(1)
    data = NamesDataModule("names.txt")
    data.setup("fit")
    model = {"kind": NameModule, "hidden_size": 20, "updates_per_block": K, **model}
    module = model.pop("kind")(data.vocabulary.characters, **model)
    settings = {"max_steps": 14, "log_every_n_steps": 1, "limit_val_batches": 0, **trainer}
    trainer = Trainer(logger=TensorBoardLogger("."), enable_checkpointing=False, **QUIET, **settings)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == settings["max_steps"]
    return trainer


@pytest.mark.parametrize(
    "reason, model, trainer",
    [
        ("gradients are accumulated", {}, dict(accumulate_grad_batches=2)),
        ("the precision is bf16-mixed", {}, dict(precision="bf16-mixed")),
        ("there is not one optimizer that takes gradients", dict(optimizer=LBFGS), {}),
        ("the optimizer has hooks", dict(kind=StepHook), {}),
        ("anomalies are to be detected", {}, dict(detect_anomaly=True)),
        ("the batches of an epoch are limited", {}, dict(limit_train_batches=5)),
        ("Watching works at every update", {}, dict(callbacks=[Watching()])),
        ("GradientAccumulationScheduler works at every", {}, dict(callbacks=[GradientAccumulationScheduler({1: 2})])),
        ("StochasticWeightAveraging works at", {}, dict(callbacks=[StochasticWeightAveraging(0.1, swa_epoch_start=1)])),
        ("LearningRateMonitor works at every update", {}, dict(callbacks=[LearningRateMonitor()])),
        ("Unusual has steps of its own", dict(kind=Unusual), {}),
        ("Clipping has steps of its own", dict(kind=Clipping), {}),
        ("the batches are changed on their way", dict(kind=Masking), {}),
        ("the batches of an epoch are limited, or their loader", {}, dict(reload_dataloaders_every_n_epochs=1)),
        ("updates_per_block is 1", dict(updates_per_block=1), {}),
    ],
)
def test_what_a_block_cannot_do_takes_the_textbook_path_and_says_why(folder, caplog, reason, model, trainer):
    run(caplog, model, trainer)
    assert f"one update at a time: {reason}" in caplog.text


@pytest.mark.parametrize(
    "reason, model, trainer",
    [
        ("the optimizer is Adam", dict(optimizer=ADAM), {}),
        ("the optimizer is Adam", dict(optimizer=ADAM, lr_scheduler=ONE_CYCLE, dropout=0.3), {}),
        ("the optimizer is Adam", dict(optimizer=ADAM), dict(precision="bf16-true")),
        ("the optimizer is Adam", dict(optimizer=ADAM), dict(precision="64-true", gradient_clip_val=0.1)),
        ("the optimizer is NAdam", dict(optimizer=NADAM), dict(precision="64-true")),
        ("the optimizer has momentum", dict(optimizer=sgd(momentum=0.9)), {}),
        ("the optimizer has momentum", dict(lr_scheduler=ONE_CYCLE), {}),
        ("the optimizer has weight_decay", dict(optimizer=sgd(weight_decay=0.1)), {}),
        ("the optimizer has maximize", dict(optimizer=sgd(maximize=True)), {}),
        ("gradients are clipped", {}, dict(gradient_clip_val=1.0)),
        ("gradients are clipped", {}, dict(gradient_clip_val=0.01, gradient_clip_algorithm="value")),
        ("the network has dropout", dict(dropout=0.5), {}),
        ("the network is not a plain NameMLP", dict(kind=Hooked), {}),
        ("the network is not a plain NameMLP", dict(kind=OtherNetwork), {}),
        ("the network is not a plain NameMLP", dict(kind=Widened), {}),
        ("the network is not a plain NameMLP", dict(kind=GradientHook), {}),
        ("the weights are bfloat16", {}, dict(precision="bf16-true")),
        ("the optimizer has several groups of parameters", dict(kind=TwoRates), {}),
        ("not all parameters are trained", dict(kind=Frozen), {}),
        ("torch is faster at updates of 1,", dict(hidden_size=300_000), dict(max_steps=1)),
    ],
)
def test_what_is_not_plain_sgd_goes_in_blocks_by_autograd_bit_for_bit(folder, caplog, reason, model, trainer):
    ours = run(caplog, model, trainer)
    assert f"updates at once, by autograd: {reason}" in caplog.text
    theirs = run(caplog, {**model, "updates_per_block": 1}, trainer)
    assert "one update at a time: updates_per_block is 1" in caplog.text
    for name, values in ours.lightning_module.state_dict().items():
        assert torch.equal(values, theirs.lightning_module.state_dict()[name]), name
    states = (
        leaves([each.optimizers[0].state_dict(), *(c.scheduler.state_dict() for c in each.lr_scheduler_configs)])
        for each in (ours, theirs)
    )
    for one, other in zip(*states, strict=True):
        assert torch.equal(one, other) if torch.is_tensor(one) else one == other
    assert curves(ours) == curves(theirs)


class Changing(Callback):
    """Does something to a model in the course of its training."""

    def __init__(self, change):
        self.change = change

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.change(trainer, pl_module)


def test_a_run_leaves_its_blocks_where_something_comes_in_the_way(folder, caplog):
    caplog.set_level(logging.INFO, "namemlp")

    def run(updates_per_block, change):
        data = NamesDataModule("names.txt")
        model = NameModule(data.vocabulary.characters, hidden_size=20, updates_per_block=updates_per_block)
        callbacks, settings = [Changing(change)], dict(logger=False, enable_checkpointing=False, limit_val_batches=0)
        trainer = Trainer(max_steps=30, callbacks=callbacks, **settings, **QUIET)
        trainer.fit(model, datamodule=data)
        assert trainer.global_step == 30
        return model

    def freeze(trainer, module):
        module.network.embedding.requires_grad_(False)

    def decay(trainer, module):
        trainer.optimizers[0].param_groups[0]["weight_decay"] = 0.5

    def slow_down(trainer, module):
        trainer.optimizers[0].param_groups[0]["lr"] = 0.001

    for change, reason in ((freeze, "not all parameters are trained"), (decay, "the optimizer has weight_decay")):
        caplog.clear()
        ours, theirs = run(K, change), run(1, change)
        assert f"one update at a time from step {EPOCH}: {reason}" in caplog.text
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    caplog.clear()
    ours, theirs = run(K, slow_down), run(1, slow_down)
    assert "from step" not in caplog.text
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_only_the_trainer_reads_blocks(folder):
    class Reading(Callback):
        def on_validation_end(self, trainer, pl_module):
            assert next(iter(trainer.train_dataloader))[1].shape == (32,)

    data = NamesDataModule("names.txt")
    data.setup("fit")
    loader = data.train_dataloader()
    model = NameModule(data.vocabulary.characters)
    settings = dict(logger=False, enable_checkpointing=False, num_sanity_val_steps=0)
    trainer = Trainer(max_epochs=2, callbacks=Reading(), **settings, **QUIET)
    trainer.fit(model, loader, data.val_dataloader())
    assert trainer.fit_loop.total_batch_idx + 1 == trainer.global_step
    assert next(iter(loader))[1].shape == (32,)


def test_a_run_that_failed_leaves_a_model_that_can_be_trained_by_hand(folder):
    class Failing(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            raise ZeroDivisionError

    data = NamesDataModule("names.txt")
    data.setup("fit")
    model = NameModule(data.vocabulary.characters)
    with pytest.raises(ZeroDivisionError):
        Trainer(max_epochs=2, callbacks=Failing(), logger=False, enable_checkpointing=False, **QUIET).fit(model, data)
    loss = model.training_step(data.train_set[:5], 0)
    model.backward(loss)
    assert model.network.embedding.weight.grad.any()


def test_another_loader_takes_the_textbook_path(folder, caplog):
    caplog.set_level(logging.INFO, "namemlp")
    data = NamesDataModule("names.txt")
    data.setup("fit")
    loader = DataLoader(TensorDataset(*data.train_set[:]), batch_size=32)
    model = NameModule(data.vocabulary.characters)
    Trainer(max_steps=3, logger=False, enable_checkpointing=False, limit_val_batches=0, **QUIET).fit(model, loader)
    assert "one update at a time: the training batches come from another loader" in caplog.text


def test_callbacks_that_do_not_watch_updates_are_no_obstacle(folder, caplog):
    caplog.set_level(logging.INFO, "namemlp")
    data = NamesDataModule("names.txt")
    model = NameModule(NamesDataModule("names.txt").vocabulary.characters)
    callbacks = [Harmless(), ModelCheckpoint(every_n_train_steps=2)]
    Trainer(max_steps=3, logger=False, callbacks=callbacks, **QUIET).fit(model, datamodule=data)
    assert "up to 2,500 updates at once, compiled for this CPU" in caplog.text


def test_a_model_in_training_can_be_copied(folder):
    class Copying(Callback):
        def on_validation_end(self, trainer, pl_module):
            again = copy.deepcopy(pl_module)
            x, _ = trainer.datamodule.val_set[:]
            assert torch.equal(again(x), pl_module(x))
            pickle.loads(pickle.dumps(pl_module))

    data = NamesDataModule("names.txt")
    model = NameModule(data.vocabulary.characters)
    Trainer(max_steps=30, callbacks=Copying(), logger=False, enable_checkpointing=False, **QUIET).fit(model, data)


def test_large_updates_go_in_shorter_blocks(folder, caplog):
    caplog.set_level(logging.INFO, "namemlp")
    data = NamesDataModule("names.txt", batch_size=300)
    model = NameModule(data.vocabulary.characters, hidden_size=500)
    Trainer(max_steps=3, logger=False, limit_val_batches=0, enable_checkpointing=False, **QUIET).fit(model, data)
    assert "up to 245 updates at once" in caplog.text  # of 3 * 300 * 18,127 multiply-adds


@pytest.mark.parametrize("kind", [TQDMProgressBar, StepProgress])
def test_a_progress_bar_counts_updates(folder, caplog, kind):
    caplog.set_level(logging.INFO, "namemlp")
    data = NamesDataModule("names.txt")
    counts = []

    class Bar(kind):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            if kind is TQDMProgressBar:
                counts.append((self.train_progress_bar.n, self.train_progress_bar.total))

    model = NameModule(data.vocabulary.characters, updates_per_block=K)
    settings = {**QUIET, "enable_progress_bar": True}
    Trainer(max_epochs=2, logger=False, callbacks=[Bar()], enable_checkpointing=False, **settings).fit(model, data)
    assert "up to 5 updates at once" in caplog.text
    assert counts == ([(EPOCH, EPOCH)] * 2 if kind is TQDMProgressBar else [])


def test_the_command_says_which_path_it_takes(fit, namemlp):
    assert "up to 2,500 updates at once, compiled for this CPU\n" in fit(3).out
    assert (
        "up to 500 updates at once, by autograd: the optimizer has momentum\n" in fit(3, "--optimizer.momentum=0.5").out
    )
    assert "one update at a time: gradients are accumulated\n" in fit(3, "--trainer.accumulate_grad_batches=2").out
    assert "one update at a time: updates_per_block is 1\n" in fit(3, "--model.updates_per_block=1").out
    result = namemlp("fit", "--model.updates_per_block=0")
    assert result.code == 2 and "updates_per_block is 0: it must be at least 1" in result.err
