"""Subclasses, hooks and wrapped steps do what they do with any LightningModule."""

import logging

import pytest
import torch
from lightning import Callback
from torch import nn

from namemlp import NameModule, NamesDataModule
from tests.helpers import Manual
from tests.usage.conftest import EPOCH, is_equal, make_data, make_module, make_trainer, weights


def fit(path, kind=NameModule, data=None, callbacks=(), **settings):
    data = data or make_data()
    module = make_module(data, kind)
    trainer = make_trainer(path, callbacks=list(callbacks), **settings)
    trainer.fit(module, datamodule=data)
    return module, trainer


class OwnStep(NameModule):
    def training_step(self, batch, batch_idx):
        self.seen = [*getattr(self, "seen", []), len(batch[1])]
        return 2 * self.loss(*batch)


class OwnValidation(NameModule):
    def validation_step(self, batch, batch_idx):
        self.log("val/own", self.loss(*batch))


class SilentHooks(NameModule):
    """Every hook without super()."""

    def on_fit_start(self): ...
    def on_train_start(self): ...
    def on_train_end(self): ...
    def on_train_epoch_start(self): ...
    def on_train_epoch_end(self): ...
    def on_validation_start(self): ...
    def on_validation_epoch_start(self): ...
    def on_validation_epoch_end(self): ...
    def on_validation_end(self): ...
    def on_save_checkpoint(self, checkpoint): ...
    def on_load_checkpoint(self, checkpoint): ...
    def setup(self, stage): ...
    def teardown(self, stage): ...


class PerStepHooks(NameModule):
    def on_train_batch_start(self, batch, batch_idx):
        self.calls = [*getattr(self, "calls", []), "start"]

    def on_before_zero_grad(self, optimizer):
        self.calls.append("zero")

    def on_after_backward(self):
        assert self.network.output.bias.grad is not None
        self.calls.append("backward")

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.calls.append("end")


class Plateau(NameModule):
    """ReduceLROnPlateau on a metric of its own, stepped by the Trainer."""

    def validation_step(self, batch, batch_idx):
        self.log("own", 1.0)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler, "monitor": "own"}}


class NoOptimizer(NameModule):
    def configure_optimizers(self):
        return None


class TwoOptimizers(Manual):
    def training_step(self, batch, batch_idx):
        self.manual_backward(self.loss(*batch))
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.network.hidden, self.network.output)]


@pytest.mark.parametrize("kind", [OwnStep, OwnValidation, SilentHooks, PerStepHooks, Plateau, NoOptimizer, Manual])
def test_a_subclass_trains_as_it_says(path, kind):
    module, trainer = fit(path, kind, max_epochs=3)
    plain, _ = fit("standard" if kind in (OwnStep, PerStepHooks, NoOptimizer, Manual) else path, max_epochs=3)
    assert trainer.global_step == 3 * EPOCH  # Lightning counts steps without an optimizer, too
    if kind is OwnStep:
        assert len(module.seen) == 3 * EPOCH
        assert not is_equal(weights(module), weights(plain))
    elif kind is NoOptimizer:
        assert is_equal(weights(module), weights(make_module(make_data())))
    elif kind is Plateau:
        assert module.scheduler.optimizer.param_groups[0]["lr"] == 0.01 * 0.5**2  # once an epoch, from the second on
    else:
        assert is_equal(weights(module), weights(plain))
    if kind is PerStepHooks:
        assert module.calls == ["start", "zero", "backward", "end"] * (3 * EPOCH)
    if kind is OwnValidation:
        assert "val/own" in trainer.callback_metrics and "val/loss" not in trainer.callback_metrics
    if kind is SilentHooks:
        assert "val/loss" in trainer.callback_metrics


def test_two_optimizers_by_hand(path):
    module, _ = fit(path, TwoOptimizers)
    start = make_module(make_data())
    assert not torch.equal(module.network.hidden.weight, start.network.hidden.weight)
    assert torch.equal(module.network.embedding.weight, start.network.embedding.weight)


def hook_pairs():
    return {
        "forward": lambda m, calls: m.register_forward_hook(lambda *_: calls.append(1)),
        "pre-forward": lambda m, calls: m.register_forward_pre_hook(lambda *_: calls.append(1)),
        "backward": lambda m, calls: m.register_full_backward_hook(lambda *_: calls.append(1)),
    }


@pytest.mark.parametrize("where", ["module", "network", "layer"])
@pytest.mark.parametrize("kind", hook_pairs())
def test_hooks_are_called_at_every_step(path, where, kind):
    data, calls = make_data(), []
    module = make_module(data)
    target = {"module": module, "network": module.network, "layer": module.network.hidden}[where]
    hook_pairs()[kind](target, calls)
    make_trainer(path, max_steps=20, max_epochs=-1, limit_val_batches=0).fit(module, datamodule=data)
    assert len(calls) == 20


def test_a_wrapped_optimizer_step_is_called(path):
    calls = []

    class Wrapped(NameModule):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            step = optimizer.step
            optimizer.step = lambda *args, **kwargs: (calls.append(1), step(*args, **kwargs))[1]
            return optimizer

    fit(path, Wrapped, max_steps=20, max_epochs=-1)
    assert len(calls) == 20


def test_a_network_of_ones_own(path):
    class Own(nn.Module):
        def __init__(self, vocabulary_size, context_length, width=8):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Embedding(vocabulary_size, 4), nn.Flatten(), nn.Linear(4 * context_length, width), nn.ReLU(),
                nn.Linear(width, vocabulary_size),
            )  # fmt: skip

        def forward(self, x):
            return self.layers(x)

    globals()["Own"] = Own
    Own.__qualname__ = "Own"
    settings = dict(network={"class_path": f"{__name__}.Own", "init_args": {"width": 6}})
    results = []
    for route in (path, "standard"):
        torch.manual_seed(1)
        data = make_data()
        module = NameModule(str(data.vocabulary), **settings)
        trainer = make_trainer(route)
        trainer.fit(module, datamodule=data)
        results.append(weights(module))
    assert is_equal(*results)
    trainer.save_checkpoint("own.ckpt")
    again = NameModule.load_from_checkpoint("own.ckpt")
    assert again.network.layers[2].out_features == 6
    assert again.sample(3, seed=1) == module.sample(3, seed=1)


def test_batch_transfer_hooks_of_module_and_data_are_called(path, caplog):
    caplog.set_level(logging.INFO, "namemlp")

    class Data(NamesDataModule):
        calls = 0

        def on_after_batch_transfer(self, batch, dataloader_idx):
            Data.calls += self.trainer.training
            return batch

    data = Data("names.txt")
    fit(path, data=data, limit_val_batches=0)
    assert Data.calls == 2 * EPOCH
    if path == "fused":
        assert "fused path disabled: batch-transfer hooks are overridden" in caplog.text


def test_a_scheduler_of_ones_own_by_the_epoch_and_every_few_steps(path):
    class Own(NameModule):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma) for gamma in (0.5, 0.1)]
            return [optimizer], [
                {"scheduler": schedulers[0], "interval": "epoch"},
                {"scheduler": schedulers[1], "interval": "step", "frequency": 7},
            ]

    _, trainer = fit(path, Own)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5**2 * 0.1**2)


def test_a_callback_that_changes_the_learning_rate_is_heard(path):
    class Slow(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.optimizers[0].param_groups[0]["lr"] = 0.0

    module, _ = fit(path, callbacks=[Slow()], max_epochs=3)
    one, _ = fit(path, max_epochs=1)
    assert is_equal(weights(module), weights(one))


@pytest.mark.parametrize("name", ["AdamW", "torch.optim.AdamW"])
def test_a_short_class_name_means_what_it_means_on_the_command_line(folder, name):
    optimizer = make_module(make_data(), optimizer=name).configure_optimizers()
    assert type(optimizer) is torch.optim.AdamW
    built = make_module(make_data(), lr_scheduler={"class_path": "StepLR", "init_args": {"step_size": 2}})
    assert type(built.configure_optimizers()["lr_scheduler"]["scheduler"]) is torch.optim.lr_scheduler.StepLR
