"""The settings of the command line: defaults, how a wrong one is told, what is refused."""

import re
from typing import Any, NoReturn

from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from namemlp.errors import UserError, fail

# What configs/base.yaml sets for the Trainer, so that `namemlp fit` does the same without it.
TRAINER_DEFAULTS = {
    "max_steps": 50_000,
    "val_check_interval": 5_000,
    "check_val_every_n_epoch": None,
    "log_every_n_steps": 50,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_progress_bar": True,
    "enable_checkpointing": True,
    "enable_model_summary": False,
    "logger": True,
}
SUBCOMMANDS = {
    "fit": "Train a model, or train it on from a checkpoint.",
    "validate": "Show a checkpoint's loss and accuracy on the validation split.",
    "test": "Show a checkpoint's loss and accuracy on the training, validation and test split.",
    "predict": "Print each name of a list with its log-probability under a checkpoint's model.",
}
# What a config file, or a checkpoint, may name to be imported.
TRUSTED = (
    "torch.optim",
    "lightning.pytorch.cli.ReduceLROnPlateau",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.profilers",
)


def trust() -> None:
    """Let settings name the classes that training needs and no others, in this whole process."""
    set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=list(TRUSTED), instantiate_subclass_spec_in_any=False
    )


class NameParser(LightningArgumentParser):
    """An argument parser whose errors are one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = " ".join(message.split())
        # jsonargparse lists every type that it has tried; what was given and where is what helps.
        rejected = re.match(r'Parser key "(?P<key>[\w.]+)": .*(?:Given|Got) value: (?P<value>.*)', message)
        if rejected:
            wanted = {"optimizer": "a class of torch.optim", "lr_scheduler": "a class of torch.optim.lr_scheduler"}
            hint = wanted.get(rejected["key"], "what --help shows")
            message = f"{rejected['key']} cannot be {rejected['value']}; give {hint}"
        elif message.startswith(("Problems parsing config", "Unexpected config")):
            message = f"a --config file is not a file of settings: {message}"
        fail(message)


class SaveSettings(SaveConfigCallback):
    """Writes a run's config.yaml, without the checkpoint it came from: the settings alone are what is used again."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        config = config.clone()
        del config["ckpt_path"], config["allow_changes"]
        super().__init__(parser, config, **kwargs)


def as_dict(given: Namespace | None) -> dict[str, Any] | None:
    """A class setting as a plain dict."""
    return given and given.as_dict()


def refuse(settings: Namespace) -> None:
    """Refuse what Lightning would take and then not do, or not do here.

    Raises:
        UserError: there is such a setting.
    """
    trainer = settings.trainer
    if not 0 <= settings.seed_everything < 2**32:
        raise UserError(f"seed_everything is {settings.seed_everything}: it must be from 0 to 2**32 - 1")
    if trainer.val_check_interval == 0:
        raise UserError("trainer.val_check_interval is 0: give a number of updates, or trainer.limit_val_batches 0")
    if trainer.accumulate_grad_batches < 1:
        raise UserError(f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}: it must be at least 1")
    if trainer.limit_train_batches is not None and trainer.max_epochs not in (None, -1):
        raise UserError("trainer.limit_train_batches and max_epochs do not go together here: give trainer.max_steps")
    for name in ("overfit_batches", "use_distributed_sampler", "reload_dataloaders_every_n_epochs"):
        if trainer[name]:  # these make loaders of their own, which know nothing of our order
            raise UserError(f"trainer.{name} does not work with this program's data: leave it out")
