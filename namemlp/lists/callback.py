"""What counting gets, beside the losses of a run."""

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from namemlp.datamodule import NamesDataModule
from namemlp.lists.ngrams import CountingModel, best_ngram


class CountingBaseline(Callback):
    """Count the n-grams of the training split, and log the best validation loss as a level line, val/counting_loss."""

    model: CountingModel | None = None  # of `best_ngram`

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule
        if isinstance(data, NamesDataModule) and trainer.is_global_zero:
            self.model = best_ngram(data.splits)
        if trainer.global_step == 0:  # a resumed run has that point
            self.log_loss(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.log_loss(trainer)

    def log_loss(self, trainer: Trainer) -> None:
        for logger in trainer.loggers if self.model else ():
            if isinstance(logger, TensorBoardLogger):
                logger.log_metrics({"val/counting_loss": self.model.losses[1]}, max(0, trainer.global_step - 1))
