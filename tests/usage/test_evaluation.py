"""Metrics over whole splits are right at any moment, whatever happened before."""

import math

import pytest
import torch
from lightning import Callback
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from namemlp import NameModule
from tests.usage.conftest import make_data, make_module, make_trainer


def expected_loss(module, examples):
    with torch.no_grad():
        was_training = module.training
        module.eval()
        loss = F.cross_entropy(module.network(examples[:][0]), examples[:][1]).item()
        module.train(was_training)
    return loss


class Fails(NameModule):
    """Its validation fails once, in its second batch."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 1 and not getattr(self, "has_failed", False):
            self.has_failed = True
            raise ZeroDivisionError
        super().validation_step(batch, batch_idx, dataloader_idx)


def test_a_failed_validation_leaves_nothing_behind(path):
    data = make_data(eval_batch_size=10)
    module, trainer = make_module(data, Fails), make_trainer(path)
    with pytest.raises(ZeroDivisionError):
        trainer.validate(module, datamodule=data, verbose=False)
    for again in (trainer, make_trainer(path)):
        [values] = again.validate(module, datamodule=data, verbose=False)
        assert values["val/loss"] == pytest.approx(expected_loss(module, data.val_set), rel=1e-5)


def test_a_failed_fit_leaves_nothing_behind(path):
    data = make_data(eval_batch_size=10)
    module = make_module(data, Fails)
    with pytest.raises(ZeroDivisionError):
        make_trainer(path).fit(module, datamodule=data)
    trainer = make_trainer(path)
    trainer.fit(module, datamodule=data)
    assert trainer.callback_metrics["val/loss"] == pytest.approx(expected_loss(module, data.val_set), rel=1e-5)


def test_an_interrupted_evaluate_leaves_nothing_behind(folder):
    data = make_data(eval_batch_size=10)
    module = make_module(data)

    def batches():
        yield from list(data.val_dataloader())[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        module.evaluate(batches())
    assert module.training
    assert module.evaluate(data.val_dataloader())["loss"] == pytest.approx(
        expected_loss(module, data.val_set), rel=1e-5
    )


def test_a_validation_step_by_hand_leaves_nothing_behind(path):
    data = make_data(eval_batch_size=10)
    module = make_module(data)
    with pytest.warns(UserWarning, match="self.trainer"):
        module.validation_step(data.train_set[:7], 0)
    module.validation_step(data.train_set[7:9], 1)
    [values] = make_trainer(path).validate(module, datamodule=data, verbose=False)
    assert values["val/loss"] == pytest.approx(expected_loss(module, data.val_set), rel=1e-5)


HOOKS = [
    *("on_train_start", "on_train_epoch_start", "on_train_epoch_end", "on_train_end", "on_fit_start", "on_fit_end"),
    *("on_validation_start", "on_validation_epoch_start", "on_validation_epoch_end", "on_validation_end"),
    *("on_train_batch_start", "on_train_batch_end", "on_validation_batch_end", "on_before_optimizer_step"),
]


@pytest.mark.parametrize("hook", HOOKS)
def test_evaluate_is_right_in_any_hook_of_a_callback(path, hook):
    data = make_data(eval_batch_size=10)
    module, seen = make_module(data, dropout=0.3), []

    def check(self, trainer, pl_module, *args):
        loss = pl_module.evaluate(data.val_dataloader())["loss"]
        assert loss == pytest.approx(expected_loss(pl_module, data.val_set), rel=1e-4)
        seen.append(loss)

    trainer = make_trainer(path, val_check_interval=5, callbacks=[type("Check", (Callback,), {hook: check})()])
    trainer.fit(module, datamodule=data)
    assert seen
    assert trainer.callback_metrics["val/loss"] == pytest.approx(expected_loss(module, data.val_set), rel=1e-4) or (
        trainer.global_step % 5
    )


def test_two_validation_loaders_are_told_apart(path):
    data = make_data(eval_batch_size=10)
    module, trainer = make_module(data), make_trainer(path, max_epochs=1)
    trainer.fit(module, data.train_dataloader(), [data.val_dataloader(), data.evaluation_loader(data.test_set)])
    for i, examples in enumerate((data.val_set, data.test_set)):
        loss = trainer.callback_metrics[f"val/loss/dataloader_idx_{i}"].item()
        assert loss == pytest.approx(expected_loss(module, examples), rel=1e-5)
        assert trainer.callback_metrics[f"val/perplexity/dataloader_idx_{i}"] == pytest.approx(math.exp(loss), rel=1e-4)


def test_plain_loaders_are_weighted_by_examples(path):
    data = make_data()
    module, trainer = make_module(data), make_trainer(path, max_epochs=1)
    loader = DataLoader(
        TensorDataset(*data.val_set[:]), batch_size=len(data.val_set) - 1
    )  # and one of a single example
    trainer.fit(module, data.train_dataloader(), loader)
    assert trainer.callback_metrics["val/loss"] == pytest.approx(expected_loss(module, data.val_set), rel=1e-5)
