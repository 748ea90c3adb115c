"""A list of names as training, validation and test data."""

from functools import cached_property
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader

import namemlp
from namemlp.corpus import BUNDLED, Splits, check_parts, encode_names, make_splits, read_names
from namemlp.errors import check_range
from namemlp.vocabulary import Vocabulary
from namemlp.windows import ContextDataset, EpochSampler, TrainingLoader, collate


class NamesDataModule(LightningDataModule):
    """A list of names, split 80/10/10, as contexts of T characters and the character that follows.

    After `setup` these are `ContextDataset`s: `train_set`, `val_set` and `test_set` in the order of the shuffled list;
    for "predict" `predict_set`, the whole list in its own order.

    Args:
        path: list of names, one per line, UTF-8: a local path or an fsspec URL; null: the bundled list
        lowercase: turn the names to lower case
        vocabulary: the characters to use, '.' first; null: those of the list
        split: shares of training, validation and test
        shuffles: how often the list is shuffled before it is split, each time from the same seed
        split_seed: seed of these shuffles
        duplicates: of repeated names keep all where the shuffle puts them, drop all but the first, or have all together
            in the part of the first, so that no validation or test name is trained on
        context_length: characters that the model sees (T)
        batch_size: examples in a training batch, per process
        eval_batch_size: examples in a batch of validation, test and predict
        replacement: draw training examples independently, as the notebook does, instead of each once an epoch
        num_workers: processes that prepare batches; 0: the main process
        seed: seed of the order in which training reads the examples

    Raises: UserError: a number is out of range, or (on first use) the list is not valid.
    """

    def __init__(
        self,
        path: str | None = None,
        lowercase: bool = False,
        vocabulary: str | None = None,
        split: tuple[float, float, float] = (0.8, 0.1, 0.1),
        shuffles: int = 1,
        split_seed: int = 42,
        duplicates: Literal["keep", "drop", "together"] = "keep",
        context_length: int = 3,
        batch_size: int = 32,
        eval_batch_size: int = 4096,
        replacement: bool = False,
        num_workers: int = 0,
        seed: int = 2147483647,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_range(0, shuffles=shuffles, num_workers=num_workers)
        check_range(1, context_length=context_length, batch_size=batch_size, eval_batch_size=eval_batch_size)

    @property
    def source(self) -> str:  # what the list is called in messages
        return BUNDLED if self.hparams.path is None else str(self.hparams.path)

    @cached_property
    def names(self) -> list[str]:  # in the order of the file
        return read_names(self.hparams.path, self.hparams.lowercase)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        given = self.hparams.vocabulary
        return Vocabulary(self.splits.characters if given is None else given)

    @cached_property
    def splits(self) -> Splits:
        given = self.hparams.vocabulary
        settings = {name: self.hparams[name] for name in ("split", "split_seed", "shuffles", "duplicates")}

        def make(vocabulary: Vocabulary | None = None) -> Splits:
            split, seed, shuffles, duplicates = settings.values()
            return make_splits(self.names, vocabulary, split, seed, shuffles, self.source, duplicates)

        if load_or_make := namemlp.plug("load_or_make"):
            splits = load_or_make(self.hparams.path, {**settings, "lowercase": self.hparams.lowercase}, make)
            if given in (None, splits.characters):
                return splits
        return make(given and Vocabulary(given))

    def setup(self, stage: str) -> None:
        T = self.hparams.context_length
        if stage == "predict":
            self.predict_set = ContextDataset(encode_names(self.names, self.vocabulary, self.source), T)
        elif not hasattr(self, "train_set"):
            check_parts(self.splits, self.hparams.split, self.source)
            self.train_set, self.val_set, self.test_set = (ContextDataset(part, T) for part in self.splits.parts)

    def state_dict(self) -> dict[str, Any]:  # what identifies the list in a checkpoint
        return {"sha256": self.splits.sha256}

    def train_dataloader(self) -> DataLoader:
        batch_size, seed, replacement = self.hparams.batch_size, self.hparams.seed, self.hparams.replacement
        order = EpochSampler(self.train_set, batch_size, seed, replacement, self.trainer)
        return TrainingLoader(self.train_set, sampler=order, batch_size=batch_size, **self._loader_settings)

    def val_dataloader(self) -> DataLoader:
        return self.evaluation_loader(self.val_set)

    def test_dataloader(self) -> DataLoader:
        return self.evaluation_loader(self.test_set)

    def predict_dataloader(self) -> DataLoader:
        return self.evaluation_loader(self.predict_set, is_shared=False)

    def evaluation_loader(self, examples: ContextDataset, is_shared: bool = True) -> DataLoader:
        """All examples of a set in their order, in large batches; the processes of a Trainer share them, or not."""
        sampler = None
        if self.trainer and (count := self.trainer.world_size) > 1:
            # Not torch's own sampler, which the Trainer would take: it evaluates some examples twice.
            share = (count, self.trainer.global_rank) if is_shared and count <= len(examples) else (1, 0)
            sampler = UnrepeatedDistributedSampler(examples, *share, shuffle=False)
        # All but the dataset by name: the Trainer builds the loader of predict again, and passes its changes by name.
        return DataLoader(examples, sampler=sampler, batch_size=self.hparams.eval_batch_size, **self._loader_settings)

    @property
    def _loader_settings(self) -> dict[str, Any]:
        # A generator of their own, because loaders else draw a seed for their workers from the generator of dropout.
        workers = dict(num_workers=self.hparams.num_workers, persistent_workers=self.hparams.num_workers > 0)
        return dict(**workers, collate_fn=collate, generator=torch.Generator())
