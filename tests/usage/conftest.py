"""Two worlds: the package's own module and data, and a plain Lightning module with plain loaders."""

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from namemlp import FusedStrategy, NameModule, NamesDataModule

QUIET = dict(
    accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0
)
OFF = dict(**QUIET, logger=False, enable_checkpointing=False)
EPOCH = 12  # steps in an epoch of the small list with batches of 32


class PlainModule(LightningModule):
    """As a tutorial writes it."""

    def __init__(self, size, lr=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(
            nn.Embedding(size, 5), nn.Flatten(), nn.Linear(15, 20), nn.Tanh(), nn.Linear(20, size)
        )

    def forward(self, x):
        return self.layers(x)

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]), batch_size=len(batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


class Counts(Callback):
    """The steps of each epoch, and at which steps it was validated."""

    def __init__(self):
        self.epochs, self.validations = [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.start = trainer.global_step

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append(trainer.global_step - self.start)

    def on_validation_end(self, trainer, pl_module):
        if trainer.state.fn == "fit":
            self.validations.append(trainer.global_step)


def make_data(**settings):
    data = NamesDataModule("names.txt", **settings)
    data.setup("fit")
    return data


def make_module(data, kind=NameModule, **settings):
    return kind(str(data.vocabulary), hidden_size=20, **settings)


def make_trainer(path, **settings):
    strategy = FusedStrategy() if path == "fused" else "auto"
    return Trainer(**{"max_epochs": 2, **OFF, "strategy": strategy, **settings})


def plain_loaders(data, batch_size=32):
    train, val = (TensorDataset(*split[:]) for split in (data.train_set, data.val_set))
    return DataLoader(train, batch_size, shuffle=True), DataLoader(val, 10)


def fit_world(world, trainer, data=None, module=None, **fit):
    """Fit in one of the two worlds; the module."""
    data = data or make_data()
    if world == "ours":
        module = module or make_module(data)
        trainer.fit(module, datamodule=data, **fit)
    else:
        module = module or PlainModule(len(data.vocabulary))
        trainer.fit(module, *plain_loaders(data), **fit)
    return module


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def is_equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.fixture(params=["fused", "standard"])
def path(request, folder):
    """Each path to a step, in a folder with names.txt."""
    return request.param


@pytest.fixture(params=["ours", "plain"])
def world(request):
    return request.param
