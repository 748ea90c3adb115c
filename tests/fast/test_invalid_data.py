"""Data that does not fit the model is an error on every path, and the kernel never leaves its arrays."""

import numpy as np
import pytest
from lightning import Trainer
from torch.utils.data import DataLoader

from namemlp import NameModule, NamesDataModule, UserError
from namemlp.windows import ContextDataset, EpochSampler, TrainingLoader, collate
from tests.fast.helpers import NO_FILES, QUIET, STANDARD, K, assert_same_weights, strategy

OPTIMIZERS = pytest.mark.parametrize("optimizer", [None, "AdamW"], ids=["kernel", "autograd"])
PATHS = pytest.mark.parametrize("max_block_size", [STANDARD, 1, K])


@PATHS
@OPTIMIZERS
@pytest.mark.parametrize("of_data, of_model", [(4, 3), (2, 3), (1, 8)])
def test_another_context_length_than_the_models_is_an_error(folder, max_block_size, optimizer, of_data, of_model):
    data = NamesDataModule("names.txt", context_length=of_data)
    model = NameModule(data.vocabulary.characters, context_length=of_model, hidden_size=20, optimizer=optimizer)
    message = f"the data has contexts of {of_data} characters but the model of {of_model}: give both the same"
    for run in ("fit", "validate", "test", "predict"):
        trainer = Trainer(max_steps=8, num_sanity_val_steps=0, strategy=strategy(max_block_size), **NO_FILES, **QUIET)
        with pytest.raises(UserError, match=message):
            getattr(trainer, run)(model, datamodule=data)
        assert trainer.global_step == 0
    assert_same_weights(model.network, NameModule(**model.hparams).network)


@PATHS
@OPTIMIZERS
def test_a_larger_vocabulary_than_the_models_is_an_error(folder, max_block_size, optimizer):
    data = NamesDataModule("names.txt")
    model = NameModule(data.vocabulary.characters[:-1], hidden_size=20, optimizer=optimizer)
    for run in ("fit", "validate", "test", "predict"):
        trainer = Trainer(max_steps=8, num_sanity_val_steps=0, strategy=strategy(max_block_size), **NO_FILES, **QUIET)
        with pytest.raises(UserError, match=r"the data has the vocabulary .* but the model .*: pass the model's as"):
            getattr(trainer, run)(model, datamodule=data)


def loader(ids, is_training):
    """A loader of some ids that is as those of the data module."""
    dataset = ContextDataset(np.array(ids, np.int16), 3)
    if is_training:
        return TrainingLoader(dataset, sampler=EpochSampler(dataset, 4, 0), batch_size=4, collate_fn=collate)
    return DataLoader(dataset, batch_size=4, collate_fn=collate)


@PATHS
@OPTIMIZERS
@pytest.mark.parametrize("invalid", [27, 300, -1, -27, -100, -3000])
def test_ids_beyond_the_vocabulary_are_an_error_where_loaders_are_given(max_block_size, optimizer, invalid):
    model = NameModule(".abcdefghijklmnopqrstuvwxyz", hidden_size=20, optimizer=optimizer)
    for run in ("fit", "validate", "test", "predict"):
        trainer = Trainer(max_steps=8, num_sanity_val_steps=0, strategy=strategy(max_block_size), **NO_FILES, **QUIET)
        with pytest.raises(IndexError):
            getattr(trainer, run)(model, loader([1, 2, 3, 0, invalid, 4, 0, invalid] * 4, run == "fit"))


def test_a_target_that_torch_ignores_never_reaches_the_kernel():
    model = NameModule(".abcdefghijklmnopqrstuvwxyz", hidden_size=20)
    trainer = Trainer(max_steps=8, strategy=strategy(K), **NO_FILES, **QUIET)
    with pytest.raises(IndexError, match="the data has characters beyond the model's vocabulary of 27"):
        trainer.fit(model, loader([-100], True))  # torch's cross_entropy takes it, and it is in no context
    assert_same_weights(model.network, NameModule(**model.hparams).network)
