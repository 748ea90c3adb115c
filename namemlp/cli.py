"""The command line of the core: what the data and the model share is given once."""

from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeTuple
from torch.optim import Optimizer

from namemlp.datamodule import NamesDataModule
from namemlp.module import NameModule
from namemlp.optimizers import SGD


class NameCLI(LightningCLI):
    """fit, validate, test and predict; optimizer and lr_scheduler become settings of the model, for its checkpoints."""

    def __init__(self, **settings: Any) -> None:
        # NameModule keeps what it needs in its checkpoints itself.
        settings |= dict(load_from_checkpoint_support=False, auto_configure_optimizers=False)
        super().__init__(NameModule, NamesDataModule, seed_everything_default=2147483647, **settings)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_optimizer_args((Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        parser.set_defaults({"optimizer": SGD})
        for name in ("optimizer", "lr_scheduler"):
            parser.link_arguments(name, f"model.{name}", compute_fn=lambda given: given and given.as_dict())
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("model.context_length", "data.context_length")
        parser.link_arguments("data.vocabulary", "model.vocabulary", compute_fn=str, apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Nothing: LightningCLI would let the hyperparameters of the checkpoint win over the command line."""
