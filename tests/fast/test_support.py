"""Which runs take the fused path, by which engine, and the reasons that are logged."""

import copy
import logging

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from namemlp import FusedStrategy, NameModule, NamesDataModule
from namemlp.fast.support import runs_in_blocks, unsupported_reason
from namemlp.runs import FinalValidation, LastCheckpoint
from tests.fast.helpers import COMPILED, NO_FILES, QUIET, STANDARD, K, assert_same_weights, curves, logged, strategy
from tests.helpers import Manual, leaves


class StepWatcher(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert batch[1].dim() == 1


class EpochWatcher(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        pass


class HookedStep(NameModule):
    def on_after_backward(self):
        assert self.network.embedding.weight.grad is not None


class ForwardHook(NameModule):
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


class ChangedTransfer(NameModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        assert batch[0].dim() == 2
        return batch


class TwoGroups(NameModule):
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


class OtherLoss(NameModule):
    def loss(self, x, y):
        return 2 * super().loss(x, y)


class StepPlateau(NameModule):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        config = {"scheduler": scheduler, "interval": "step", "monitor": "train/loss"}
        return {"optimizer": optimizer, "lr_scheduler": config}


def sgd(**init_args):
    return {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01, **init_args}}


ONE_CYCLE = {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": 20}}
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01, "amsgrad": True}}
NADAM = {"class_path": "torch.optim.NAdam", "init_args": {"lr": 0.01}}
LARGE = dict(hidden_size=300_000)
LBFGS = {"class_path": "torch.optim.LBFGS", "init_args": {}}


def short_run(caplog, max_block_size, model, trainer, data=None):
    """The Trainer of 14 steps that are all logged."""
    caplog.set_level(logging.INFO, "namemlp")
    caplog.clear()
    torch.manual_seed(1)
    data = NamesDataModule("names.txt", **(data or {}))
    model = {"kind": NameModule, "hidden_size": 20, **model}
    module = model.pop("kind")(data.vocabulary.characters, **model)
    settings = {"max_steps": 14, "log_every_n_steps": 1, "limit_val_batches": 0, **trainer}
    trainer = Trainer(
        logger=TensorBoardLogger("."),
        enable_checkpointing=False,
        strategy=strategy(max_block_size),
        **QUIET,
        **settings,
    )
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == settings["max_steps"]
    return trainer


def assert_same_bits(ours, theirs):
    """Two runs have the same weights, optimizer and scheduler states and curves, to the last bit."""
    assert_same_weights(ours.lightning_module, theirs.lightning_module)
    states = (
        leaves([run.optimizers[0].state_dict(), *(c.scheduler.state_dict() for c in run.lr_scheduler_configs)])
        for run in (ours, theirs)
    )
    for a, b in zip(*states, strict=True):
        assert torch.equal(a, b) if torch.is_tensor(a) else a == b
    assert curves(ours) == curves(theirs)


@pytest.fixture
def two_threads():
    """Two threads for torch: with one, the compiled steps are always chosen."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "reason, model, trainer, data",
    [
        ("gradients are accumulated", {}, dict(accumulate_grad_batches=2), {}),
        ("the precision is bf16-mixed", {}, dict(precision="bf16-mixed"), {}),
        ("exactly one first-order optimizer is required", dict(optimizer=LBFGS), {}, {}),
        ("the module optimizes manually", dict(kind=Manual), {}, {}),
        ("a scheduler follows a metric at every step", dict(kind=StepPlateau), {}, {}),
        ("detect_anomaly is on", {}, dict(detect_anomaly=True), {}),
        ("a profiler measures the steps", {}, dict(profiler="simple"), {}),
        ("StepWatcher has per-step hooks", {}, dict(callbacks=[StepWatcher()]), {}),
        ("LearningRateMonitor has per-step hooks", {}, dict(callbacks=[LearningRateMonitor()]), {}),
        ("HookedStep overrides on_after_backward", dict(kind=HookedStep), {}, {}),
        ("batch-transfer hooks are overridden", dict(kind=ChangedTransfer), {}, {}),
        ("num_workers > 0", {}, {}, dict(num_workers=1)),
    ],
)
def test_unsupported_runs_take_the_standard_path_and_say_why(folder, caplog, reason, model, trainer, data):
    ours = short_run(caplog, K, model, trainer, data)
    [record] = logged(caplog)
    assert record.message == f"fused path disabled: {reason}" and record.levelname == "WARNING"
    theirs = short_run(caplog, STANDARD, model, trainer, data)
    assert not logged(caplog)
    assert_same_bits(ours, theirs)


def test_a_compiled_module_takes_the_standard_path(folder):
    data = NamesDataModule("names.txt")
    module = NameModule(data.vocabulary.characters)
    trainer = Trainer(max_steps=1, strategy=FusedStrategy(), limit_val_batches=0, **NO_FILES, **QUIET)
    trainer.fit(module, data)
    assert unsupported_reason(trainer) is None
    module.compile()
    assert unsupported_reason(trainer) == "the module is compiled"


@pytest.mark.parametrize(
    "reason, model, trainer",
    [
        ("OtherLoss overrides loss", {}, {}),
        ("OtherLoss overrides loss", dict(optimizer=ADAM, lr_scheduler=ONE_CYCLE, dropout=0.3), {}),
        ("OtherLoss overrides loss", dict(optimizer=ADAM), dict(precision="64-true", gradient_clip_val=0.1)),
        ("OtherLoss overrides loss", dict(optimizer=ADAM), dict(limit_train_batches=5)),
        ("OtherLoss overrides loss", dict(optimizer=NADAM), dict(precision="64-true")),
        ("OtherLoss overrides loss", dict(optimizer=sgd(maximize=True)), {}),
        ("OtherLoss overrides loss", {}, dict(gradient_clip_val=0.01, gradient_clip_algorithm="value")),
        ("the module or a parameter has hooks", dict(kind=ForwardHook), {}),
        ("the module or a parameter has hooks", dict(kind=GradientHook), {}),
        ("the network is not a plain NameMLP", dict(kind=OtherNetwork), {}),
        ("the network is not a plain NameMLP", dict(kind=Widened), {}),
        ("the weights are bfloat16", {}, dict(precision="bf16-true")),
        ("the weights are bfloat16", dict(optimizer=ADAM), dict(precision="bf16-true")),
    ],
)
def test_other_networks_are_trained_by_autograd_in_blocks_to_the_last_bit(folder, caplog, reason, model, trainer):
    model = {"kind": OtherLoss, **model} if "OtherLoss" in reason else model
    ours = short_run(caplog, K, model, trainer)
    [record] = logged(caplog)
    assert record.message.startswith("fused path: autograd, up to ") and record.levelname == "INFO"
    assert record.message.endswith(f" per block ({reason})")
    assert_same_bits(ours, short_run(caplog, STANDARD, model, trainer))


@pytest.mark.parametrize(
    "reason, model, trainer",
    [
        ("the optimizer is Adam", dict(optimizer=ADAM), {}),
        ("the optimizer is Adam", dict(optimizer=ADAM, lr_scheduler=ONE_CYCLE), {}),
        ("the optimizer is Adam", dict(optimizer=ADAM), dict(precision="64-true", gradient_clip_val=0.1)),
        ("the optimizer is Adam", dict(optimizer=ADAM), dict(limit_train_batches=5)),
        ("the optimizer is Adam", dict(optimizer=ADAM, dropout=0.3), {}),
        ("the optimizer is NAdam", dict(optimizer=NADAM), dict(precision="64-true")),
        ("the optimizer has momentum", dict(optimizer=sgd(momentum=0.9, nesterov=True)), {}),
        ("the optimizer has momentum", dict(lr_scheduler=ONE_CYCLE), {}),
        ("the optimizer has weight_decay", dict(optimizer=sgd(weight_decay=0.1)), {}),
        ("the optimizer has maximize", dict(optimizer=sgd(maximize=True)), {}),
        ("the optimizer has several parameter groups", dict(kind=TwoGroups), {}),
        ("optimizer.step has hooks", dict(kind=StepHook), {}),
        ("gradients are clipped", {}, dict(gradient_clip_val=1.0)),
        ("gradients are clipped", {}, dict(gradient_clip_val=0.01, gradient_clip_algorithm="value")),
        ("gradients are clipped", dict(kind=Clipping), {}),
        ("the network has dropout", dict(dropout=0.5), {}),
        ("not all parameters are trained", dict(kind=Frozen), {}),
        (
            "torch is faster at steps of 1,008 million multiply-adds on 2 cores",
            dict(hidden_size=300_000),
            dict(max_steps=1),
        ),
    ],
)
def test_other_steps_of_the_network_take_gradients_in_closed_form(folder, caplog, two_threads, reason, model, trainer):
    ours = short_run(caplog, K, model, trainer)
    [record] = logged(caplog)
    assert record.message.startswith("fused path: gradients in closed form, up to ") and record.levelname == "INFO"
    assert record.message.endswith(f" per block ({reason})")
    assert_same_bits(ours, short_run(caplog, 3, model, trainer))
    theirs = short_run(caplog, STANDARD, model, trainer)
    for a, b in zip(ours.lightning_module.parameters(), theirs.lightning_module.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4) == ("dropout" not in model)  # each has masks of its own


class Change(Callback):
    """Change something in the course of a run: at the start of the second epoch, or after a validation within it."""

    def __init__(self, change, hook):
        self.change = change
        setattr(self, hook, self.call)

    def call(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.change(trainer, pl_module)


def freeze(trainer, module):
    module.network.embedding.requires_grad_(False)


def decay(trainer, module):
    trainer.optimizers[0].param_groups[0]["weight_decay"] = 0.5


def accumulate(trainer, module):
    trainer.accumulate_grad_batches = 2


def slow_down(trainer, module):
    trainer.optimizers[0].param_groups[0]["lr"] = 0.001


@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_validation_end"])
@pytest.mark.parametrize(
    "change, message",
    [
        (freeze, "fused path: gradients in closed form, up to 5 steps per block (not all parameters are trained)"),
        (decay, "fused path: gradients in closed form, up to 5 steps per block (the optimizer has weight_decay)"),
        (accumulate, "fused path disabled: gradients are accumulated"),
        (slow_down, None),
    ],
)
def test_what_changes_in_the_course_of_a_run_takes_effect(folder, caplog, hook, change, message):
    caplog.set_level(logging.INFO, "namemlp")

    def run(max_block_size):
        data = NamesDataModule("names.txt")
        model = NameModule(data.vocabulary.characters, hidden_size=20)
        settings = dict(val_check_interval=5, num_sanity_val_steps=0, **NO_FILES, **QUIET)
        trainer = Trainer(max_steps=30, callbacks=[Change(change, hook)], strategy=strategy(max_block_size), **settings)
        trainer.fit(model, datamodule=data)
        assert trainer.global_step == 30
        return model

    ours, theirs = run(K), run(STANDARD)
    assert [record.message for record in logged(caplog)] == [COMPILED, message][: 1 + bool(message)]
    assert_same_weights(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "callback",
    [GradientAccumulationScheduler({1: 2}), StochasticWeightAveraging(0.1, swa_epoch_start=1)],
    ids=lambda callback: type(callback).__name__,
)
def test_callbacks_that_change_a_run_have_their_effect(folder, callback):
    def run(max_block_size):
        data = NamesDataModule("names.txt")
        model = NameModule(data.vocabulary.characters, hidden_size=20)
        settings = dict(strategy=strategy(max_block_size), limit_val_batches=0, **NO_FILES, **QUIET)
        trainer = Trainer(max_epochs=4, callbacks=[copy.deepcopy(callback)], **settings)
        trainer.fit(model, datamodule=data)
        return trainer

    ours, theirs = run(K), run(STANDARD)
    assert ours.global_step == theirs.global_step
    assert_same_weights(ours.lightning_module, theirs.lightning_module, rtol=0, atol=1e-5)


def test_another_loader_takes_the_standard_path(folder, caplog):
    caplog.set_level(logging.INFO, "namemlp")
    data = NamesDataModule("names.txt")
    data.setup("fit")
    loader = DataLoader(TensorDataset(*data.train_set[:]), batch_size=32)
    model = NameModule(data.vocabulary.characters)
    Trainer(max_steps=3, strategy=FusedStrategy(), limit_val_batches=0, **NO_FILES, **QUIET).fit(model, loader)
    assert "fused path disabled: the training loader is not the one of NamesDataModule" in caplog.text


class OtherModule(LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(100, 100)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.embedding(x[:, -1]), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_another_module_takes_the_standard_path(folder, caplog):
    trainer = Trainer(max_steps=8, strategy=FusedStrategy(), **NO_FILES, **QUIET)
    trainer.fit(OtherModule(), NamesDataModule("names.txt"))
    assert trainer.global_step == 8
    assert [record.message for record in logged(caplog)] == ["fused path disabled: OtherModule is not a NameModule"]


class BlockWatcher(StepWatcher):
    runs_in_blocks = True  # of hooks that this class itself defines

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pass


class OwnBlockWatcher(BlockWatcher):
    on_train_batch_end = StepWatcher.on_train_batch_end


class Bar(TQDMProgressBar):
    def on_train_batch_end(self, *args):
        super().on_train_batch_end(*args)


def test_only_a_class_that_says_so_has_its_per_step_hooks_called_once_a_block():
    replaced = EpochWatcher()
    replaced.on_before_backward = lambda *args: None
    for callback in (StepWatcher(), BlockWatcher(), OwnBlockWatcher(), Bar(), replaced):
        assert not runs_in_blocks(callback), callback
    for kind in (EpochWatcher, TQDMProgressBar, ModelCheckpoint, Timer, LastCheckpoint, FinalValidation):
        assert runs_in_blocks(kind()), kind


def test_callbacks_without_per_step_hooks_keep_the_fused_path(folder, caplog):
    caplog.set_level(logging.INFO, "namemlp")
    data = NamesDataModule("names.txt")
    model = NameModule(data.vocabulary.characters)
    callbacks = [EpochWatcher(), ModelCheckpoint(every_n_train_steps=2)]
    trainer = Trainer(max_steps=3, logger=False, callbacks=callbacks, strategy=FusedStrategy(), **QUIET)
    trainer.fit(model, datamodule=data)
    assert "fused path: compiled CPU kernel, up to 5,000 steps per block" in caplog.text
