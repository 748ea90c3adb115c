"""What counting gets, beside the losses of a run."""

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from namemlp.datamodule import NamesDataModule
from namemlp.lists.ngrams import CountingModel, evaluate_counting

MAX_N, MAX_EXAMPLES = 6, 2**20  # that are counted in less than half a second


class CountingBaseline(Callback):
    """Count the n-grams of the training split, and log the best validation loss as a level line, val/counting_loss.

    `model` is the n-gram of additive smoothing with the lowest validation loss; None for a list that is too long.
    """

    model: CountingModel | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule
        if isinstance(data, NamesDataModule) and len(data.splits.ids) <= MAX_EXAMPLES and trainer.is_global_zero:
            models = evaluate_counting(data.splits, MAX_N, additive_only=True)
            self.model = min(models, key=lambda model: model.losses[1])
        if trainer.global_step == 0:  # a resumed run has that point
            self.log_loss(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.log_loss(trainer)

    def log_loss(self, trainer: Trainer) -> None:
        for logger in trainer.loggers if self.model else ():
            if isinstance(logger, TensorBoardLogger):
                logger.log_metrics({"val/counting_loss": self.model.losses[1]}, max(0, trainer.global_step - 1))
