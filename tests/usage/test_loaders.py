"""Lightning's settings and ways of reading loaders do with our loaders what they do with any."""

import logging
from functools import cache

import pytest
import torch
from lightning import Callback

from namemlp import NameModule, NamesDataModule, UserError
from tests.usage.conftest import (
    EPOCH,
    Counts,
    PlainModule,
    fit_world,
    is_equal,
    make_data,
    make_module,
    make_trainer,
    plain_loaders,
    weights,
)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(limit_train_batches=5),
        dict(limit_train_batches=0.5),
        dict(limit_train_batches=5, max_epochs=-1, max_steps=13),
        dict(overfit_batches=3),
        dict(overfit_batches=0.25),
        dict(reload_dataloaders_every_n_epochs=1, max_epochs=3),
        dict(limit_val_batches=1, val_check_interval=0.25),
        dict(val_check_interval=5, limit_train_batches=7),
        dict(val_check_interval=5, check_val_every_n_epoch=None, max_epochs=3),
        dict(check_val_every_n_epoch=2, max_epochs=5),
        dict(fast_dev_run=3),
        dict(accumulate_grad_batches=5),
        dict(min_steps=20, max_epochs=1),
    ],
    ids=str,
)
def test_steps_and_validations_are_those_of_a_plain_module(path, settings):
    counts = {}
    for world in ("ours", "plain"):
        counts[world] = Counts()
        trainer = make_trainer(path if world == "ours" else "standard", callbacks=[counts[world]], **settings)
        fit_world(world, trainer, make_data(eval_batch_size=10))
    assert counts["ours"].epochs == counts["plain"].epochs and counts["ours"].epochs
    assert counts["ours"].validations == counts["plain"].validations


@pytest.mark.parametrize("change", ["stop", "batch_size", "max_epochs"])
def test_what_a_callback_changes_counts_as_for_a_plain_module(path, change):
    class Change(Counts):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            if change == "max_epochs" and trainer.current_epoch == 0:
                trainer.fit_loop.max_epochs = 4
            if change == "batch_size" and trainer.current_epoch == 0 and trainer.datamodule is not None:
                trainer.datamodule.hparams.batch_size = 16

        def on_validation_end(self, trainer, pl_module):
            super().on_validation_end(trainer, pl_module)
            if change == "stop" and trainer.global_step == 5:
                trainer.should_stop = True

    counts = {}
    for world in ("ours", "plain"):
        counts[world] = Change()
        settings = dict(val_check_interval=5, reload_dataloaders_every_n_epochs=1)
        fit_world(world, make_trainer(path if world == "ours" else "standard", callbacks=[counts[world]], **settings))
    if change == "batch_size":
        assert counts["ours"].epochs == [EPOCH, 2 * EPOCH - 1] or counts["ours"].epochs == [EPOCH, 2 * EPOCH]
    else:
        assert counts["ours"].epochs == counts["plain"].epochs
        assert counts["ours"].validations == counts["plain"].validations


def test_on_train_batch_start_can_end_an_epoch(path, world):
    class Early(PlainModule if world == "plain" else NameModule):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 4 else None

    counts, data = Counts(), make_data()
    module = Early(len(data.vocabulary)) if world == "plain" else make_module(data, Early)
    fit_world(world, make_trainer(path, callbacks=[counts]), data, module)
    assert counts.epochs == [4, 4]


def read_partly(trainer):
    next(iter(trainer.train_dataloader))


def read_whole(trainer):
    batches = list(trainer.train_dataloader)
    examples = torch.cat([y for _, y in batches])
    assert torch.equal(examples.sort().values, trainer.datamodule.train_set[:][1].sort().values)


def read_again(trainer):
    assert sum(len(y) for _, y in trainer.datamodule.train_dataloader()) == len(trainer.datamodule.train_set)


def evaluate(trainer):
    module, data = trainer.lightning_module, trainer.datamodule
    expected = torch.nn.functional.cross_entropy(module.network(data.train_set[:][0]), data.train_set[:][1]).item()
    assert module.evaluate(trainer.train_dataloader)["loss"] == pytest.approx(expected, rel=1e-4)


def zip_with_itself(trainer):
    loader = trainer.train_dataloader
    pairs = list(zip(loader, loader, strict=True))
    for pass_ in zip(*pairs, strict=True):
        assert sum(len(y) for _, y in pass_) == len(trainer.datamodule.train_set)


@cache
def train_and_validate(path, *callbacks):
    data = make_data()
    module = make_module(data)
    make_trainer(path, val_check_interval=5, callbacks=[*callbacks]).fit(module, datamodule=data)
    return weights(module)


@pytest.mark.parametrize("read", [read_partly, read_whole, read_again, evaluate, zip_with_itself])
@pytest.mark.parametrize(
    "hook", ["on_train_epoch_start", "on_train_epoch_end", "on_validation_start", "on_validation_end", "on_train_start"]
)
def test_reading_the_training_loader_in_a_callback_changes_nothing(path, read, hook):
    reads = []
    callback = type("Reading", (Callback,), {hook: lambda self, trainer, *_: reads.append(read(trainer))})()
    assert is_equal(train_and_validate(path, callback), train_and_validate(path))
    assert reads


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end", "on_after_backward"])
def test_reading_it_at_every_step_changes_nothing(path, hook):
    def run(callbacks):
        data = make_data()
        module = make_module(data)
        make_trainer("standard", callbacks=callbacks).fit(module, datamodule=data)
        return weights(module)

    callback = type("Reading", (Callback,), {hook: lambda self, trainer, *_: zip_with_itself(trainer)})()
    assert is_equal(run([callback]), run([]))


def test_a_loader_that_was_read_before_fit_trains_in_the_same_order(path):
    def run(passes):
        data = make_data()
        loader, module = data.train_dataloader(), make_module(data)
        for _ in range(passes):
            assert sum(len(y) for _, y in loader) == len(data.train_set)
        make_trainer(path).fit(module, loader)
        return weights(module)

    assert is_equal(run(0), run(2))


def test_a_data_module_and_its_loader_train_alike(path):
    data = make_data()
    ours, theirs = make_module(data), make_module(data)
    make_trainer(path).fit(ours, datamodule=data)
    make_trainer(path).fit(theirs, data.train_dataloader(), data.val_dataloader())
    assert is_equal(weights(ours), weights(theirs))


def test_two_fits_on_one_loader_are_alike(path):
    data = make_data()
    loader, results = data.train_dataloader(), []
    for _ in range(2):
        module = make_module(data)
        make_trainer(path).fit(module, loader)
        results.append(weights(module))
    assert is_equal(*results)


def test_validate_before_fit_changes_nothing(path):
    data = make_data()
    ours, theirs = make_module(data), make_module(data)
    trainer = make_trainer(path)
    trainer.validate(ours, datamodule=data, verbose=False)
    trainer.fit(ours, datamodule=data)
    make_trainer(path).fit(theirs, datamodule=make_data())
    assert is_equal(weights(ours), weights(theirs))


def test_a_second_fit_of_a_trainer_goes_on_with_new_orders(path):
    data = make_data()
    module, orders = make_module(data), []

    class Orders(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            orders.append(trainer.train_dataloader.sampler.order(trainer.current_epoch).tolist())
            assert trainer.train_dataloader.sampler.epoch == trainer.current_epoch

    trainer = make_trainer(path, max_epochs=2, callbacks=[Orders()])
    trainer.fit(module, datamodule=data)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 4 * EPOCH
    assert len(orders) == 4 == len(set(map(tuple, orders)))


@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("length", [2, 5])
def test_another_context_length_is_an_error_with_both_numbers(path, method, length):
    data = NamesDataModule("names.txt", context_length=length)
    with pytest.raises(UserError, match=f"contexts of {length} characters but the model of 3"):
        getattr(make_trainer(path), method)(make_module(data), datamodule=data)


@pytest.mark.parametrize("with_loaders", [True, False])
def test_another_vocabulary_is_an_error(path, with_loaders):
    data = make_data()
    module = NameModule(str(data.vocabulary)[:5], hidden_size=20)
    given = dict(train_dataloaders=data.train_dataloader()) if with_loaders else dict(datamodule=data)
    with pytest.raises((UserError, IndexError)):
        make_trainer(path).fit(module, **given)


def test_plain_loaders_take_the_standard_path_and_say_so(folder, caplog):
    data = make_data()
    caplog.set_level(logging.INFO, "namemlp")
    make_trainer("fused").fit(make_module(data), *plain_loaders(data))
    assert "fused path disabled: the training loader is not the one of NamesDataModule" in caplog.text


def test_the_data_module_with_a_plain_training_loader(path):
    class Plain(NamesDataModule):
        def train_dataloader(self):
            return plain_loaders(self)[0]

    data = Plain("names.txt")
    trainer = make_trainer(path)
    trainer.fit(make_module(data), datamodule=data)
    assert trainer.global_step == 2 * EPOCH
