"""A list of names as training, validation and test data."""

from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from namemlp.corpus import Corpus, read_corpus
from namemlp.errors import UserError
from namemlp.splits import flat_stream, split_sizes, split_stream
from namemlp.store import is_long, kept, read_long_corpus
from namemlp.vocabulary import Vocabulary
from namemlp.windows import ContextWindows, TrainingLoader, TrainingOrder


class NamesDataModule(LightningDataModule):
    """A list of names, split 80/10/10, as context windows of T characters and the character that follows.

    After `setup("fit")` (or "validate", "test") `train_set`, `val_set` and `test_set` are `ContextWindows`, in the
    order of the shuffled list; after `setup("predict")` `predict_set` is the whole list in its own order.

    Args:
        path: the list of names, one a line, UTF-8: a local path or an fsspec URL; null: the bundled list
        lowercase: turn the names to lower case
        vocabulary: the characters to use, '.' first; null: those of the list
        split: the shares of training, validation and test
        shuffles: how often the list is shuffled before it is split, each time from the same seed
        split_seed: seed of these shuffles
        context_length: how many characters the model sees (T)
        batch_size: examples in a training batch
        eval_batch_size: examples in a batch of validation, test and predict
        replacement: draw training examples independently, as the notebook does, instead of going through all of them
        num_workers: processes that prepare batches; 0: the main process, and training in blocks
        seed: of the order in which training reads the examples

    Raises:
        UserError: a number is below what it may be, or (on first use) the list is not as it should be.
    """

    def __init__(
        self,
        path: str | None = None,
        lowercase: bool = False,
        vocabulary: str | None = None,
        split: tuple[float, float, float] = (0.8, 0.1, 0.1),
        shuffles: int = 1,
        split_seed: int = 42,
        context_length: int = 3,
        batch_size: int = 32,
        eval_batch_size: int = 2048,
        replacement: bool = False,
        num_workers: int = 0,
        seed: int = 2147483647,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        for name, least in dict(shuffles=0, context_length=1, batch_size=1, eval_batch_size=1, num_workers=0).items():
            if self.hparams[name] < least:
                raise UserError(f"{name} is {self.hparams[name]}: it must be at least {least}")
        self._train_loader_state = None  # of a checkpoint, for the next training loader

    @cached_property
    def corpus(self) -> Corpus:
        """The list of names, read on first use."""
        path, lowercase, given = (self.hparams[name] for name in ("path", "lowercase", "vocabulary"))
        read = read_long_corpus if is_long(path) else read_corpus
        return read(path, lowercase, None if given is None else Vocabulary(given))

    @property
    def vocabulary(self) -> Vocabulary:
        return self.corpus.vocabulary

    def setup(self, stage: str) -> None:
        corpus, context_length = self.corpus, self.hparams.context_length
        if stage == "predict":
            stream = flat_stream(corpus, np.arange(len(corpus)), context_length)
            self.predict_set = ContextWindows(stream, context_length)
        elif not hasattr(self, "train_set"):
            names = split_sizes(len(corpus), self.hparams.split, corpus.source)
            how = dict(seed=self.hparams.split_seed, shuffles=self.hparams.shuffles, names=names)
            how["zeros"] = max(context_length, 64)  # so that what is kept serves any usual one
            split = partial(split_stream, corpus, **how)
            if is_long(self.hparams.path):
                key = dict(corpus=corpus.digest, vocabulary=corpus.vocabulary.characters, **how)
                size, length = len(corpus.vocabulary), len(corpus.ids) + how["zeros"]
                found = kept(
                    self.hparams.path,
                    "splits",
                    key,
                    split,
                    lambda found: len(found["stream"]) == length and found["stream"].max() < size,
                )
            else:
                found = split()
            stream, first, second = found["stream"][how["zeros"] - context_length :], found["first"], found["second"]
            self.train_set, self.val_set, self.test_set = (
                ContextWindows(stream, context_length, examples)
                for examples in (slice(first), slice(first, second), slice(second, None))
            )

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep besides the settings: which list it was, and the place in its order."""
        return {"corpus": self.corpus.digest, "train_loader": self._train_loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # The Trainer restores the loader by itself, but not where a checkpoint stands at the end of an epoch.
        self._train_loader_state = state["train_loader"]

    def train_dataloader(self) -> TrainingLoader:
        order = TrainingOrder(
            len(self.train_set),
            self.hparams.batch_size,
            self.hparams.seed,
            self.hparams.replacement,
            num_replicas=self.trainer.world_size if self.trainer else 1,
            rank=self.trainer.global_rank if self.trainer else 0,
        )
        self._train_loader = TrainingLoader(self.train_set, sampler=order, **self._loader_settings)
        if self._train_loader_state is not None:
            self._train_loader.load_state_dict(self._train_loader_state)
            self._train_loader_state = None
        return self._train_loader

    def val_dataloader(self) -> DataLoader:
        return self.evaluation_loader(self.val_set)

    def test_dataloader(self) -> DataLoader:
        return self.evaluation_loader(self.test_set)

    def predict_dataloader(self) -> DataLoader:
        return self.evaluation_loader(self.predict_set)

    def evaluation_loader(self, examples: ContextWindows) -> DataLoader:
        """All examples of a set in their order, in large batches; validation and test share them among processes."""
        size = self.hparams.eval_batch_size
        batches = [slice(start, start + size) for start in range(0, len(examples), size)]
        shared = self.trainer is not None and self.trainer.state.fn != "predict"
        if shared and len(batches) >= self.trainer.world_size:  # else every process takes all
            batches = batches[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(examples, sampler=batches, **self._loader_settings)

    @property
    def _loader_settings(self) -> dict:
        # batch_size=None: an index of the sampler is a whole batch, read at once; nothing is collated.
        workers = self.hparams.num_workers
        # A generator of their own, because loaders draw a seed for their workers from the one of dropout otherwise.
        return dict(batch_size=None, num_workers=workers, persistent_workers=workers > 0, generator=torch.Generator())
