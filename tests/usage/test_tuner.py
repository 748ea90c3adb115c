"""Lightning's tools that run loops and loaders again."""

import pytest
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.tuner import Tuner

from tests.usage.conftest import EPOCH, is_equal, make_data, make_module, make_trainer, weights


def test_lr_find_leaves_the_module_as_it_was_and_sets_its_lr(path):
    data = make_data()
    module, trainer = make_module(data), make_trainer(path, enable_checkpointing=True)
    before = weights(module)
    finder = Tuner(trainer).lr_find(module, datamodule=data, num_training=30)
    assert is_equal(weights(module), before)
    assert module.lr == finder.suggestion()
    trainer.fit(module, datamodule=data)
    assert trainer.optimizers[0].param_groups[0]["lr"] == finder.suggestion()
    assert trainer.global_step == 2 * EPOCH


@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_scale_batch_size(path, mode):
    data = make_data()
    module, trainer = make_module(data), make_trainer(path, enable_checkpointing=True)
    size = Tuner(trainer).scale_batch_size(
        module, datamodule=data, mode=mode, max_trials=3, init_val=8, steps_per_trial=2
    )
    assert data.hparams.batch_size == size > 8
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 2 * -(-len(data.train_set) // size)


@pytest.mark.parametrize("finder", [BatchSizeFinder, LearningRateFinder])
def test_finders_as_callbacks(path, finder):
    data = make_data()
    if finder is BatchSizeFinder:
        callback = BatchSizeFinder(max_trials=2, init_val=8, steps_per_trial=1)
    else:
        callback = LearningRateFinder(num_training_steps=20)
    trainer = make_trainer(path, callbacks=[callback], enable_checkpointing=True)
    trainer.fit(make_module(data), datamodule=data)
    assert trainer.global_step == 2 * -(-len(data.train_set) // data.hparams.batch_size)


def test_timer_ends_a_run(path):
    data = make_data()
    trainer = make_trainer(path, max_epochs=-1, callbacks=[Timer("00:00:00:01")])
    trainer.fit(make_module(data), datamodule=data)
    assert trainer.global_step > EPOCH


@pytest.mark.parametrize(
    "callback", [lambda: GradientAccumulationScheduler({0: 2, 1: 3}), lambda: StochasticWeightAveraging(0.1, 1)]
)
def test_callbacks_that_change_steps_take_the_standard_path(folder, callback):
    results = []
    for path in ("fused", "standard"):
        torch.manual_seed(1)
        data = make_data()
        module = make_module(data)
        trainer = make_trainer(path, max_epochs=3, callbacks=[callback()])
        trainer.fit(module, datamodule=data)
        results.append((trainer.global_step, weights(module)))
    assert results[0][0] == results[1][0]
    for fused, standard in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(fused, standard, rtol=1e-4, atol=1e-4)
