"""The settings of the command line: defaults, how a wrong one is told, what is refused."""

import os
import re
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_loader, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from namemlp.errors import UserError, fail, shortened

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
    "lr_find": "Sweep the learning rate over 1,000 steps, draw the loss against it, and suggest one.",
    "sample": "Print new names out of a checkpoint's model.",
    "plot": "Draw the losses of a checkpoint's run, and which characters its model expects after which.",
}
# What a config file, or a checkpoint, may name to be imported.
TRUSTED = (
    "torch.optim",
    "lightning.pytorch.cli.ReduceLROnPlateau",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.profilers",
)


_load_yaml = get_loader("yaml")


def trust() -> None:
    """Let settings name the classes that training needs and no others, in this whole process."""
    set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=list(TRUSTED), instantiate_subclass_spec_in_any=False
    )
    set_loader("yaml", load_yaml, (yaml.YAMLError,))


def load_yaml(text: str) -> Any:
    """What a YAML text says, unless it is nested as settings never are; the loader takes any depth and can crash on it.

    Raises:
        yaml.YAMLError: it is not YAML, too deep, or has aliases, which can stand for far more than the text is long.
    """
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > 20 or isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"an alias, or more than 20 levels, in line {event.start_mark.line + 1}")
    return _load_yaml(text)


class NameParser(LightningArgumentParser):
    """An argument parser whose errors are one sentence."""

    file: Any = None  # of settings, that is being read

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Namespace:
        NameParser.file = cfg_path
        try:
            return super().parse_path(cfg_path, *args, **kwargs)
        except UnicodeDecodeError as error:
            self.error(f"Unexpected config: not UTF-8: {error}")
        finally:
            NameParser.file = None

    def check(self, settings: dict[str, Any], file: Any) -> None:
        """End the program where settings that were found in a file are not what the parser takes."""
        NameParser.file = file
        try:
            self.parse_object(settings, defaults=False)
        except Exception as error:  # jsonargparse expects better
            self.error(str(error))
        finally:
            NameParser.file = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = " ".join(message.split())
        # jsonargparse lists every type that it has tried; what was given and where is what helps.
        rejected = re.match(r'Parser key "(?P<key>[\w.]+)": .*(?:Given|Got) value: (?P<value>.*)', message)
        where = f"{self.file}: " if self.file else ""
        if rejected:
            wanted = {"optimizer": "a class of torch.optim", "lr_scheduler": "a class of torch.optim.lr_scheduler"}
            hint = wanted.get(rejected["key"], "what --help shows")
            message = f"{rejected['key']} cannot be {shortened(rejected['value'])}; give {hint}"
        elif message.startswith(("Problems parsing config", "Unexpected config")):
            reason = message.partition(": ")[2] or "it is empty"
            message = f"not settings: {shortened(reason)}"
        elif missing := re.fullmatch(r'Key "(\w+)\.\w+" not found in namespace\.', message):
            message = f"{missing[1]} must hold settings: leave it out to have them as they are by default"
        fail(where + message)


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
    for name in ("trainer", "model", "data", "checkpoint"):
        if not isinstance(settings[name], Namespace):
            raise UserError(f"{name} is {settings[name]}: leave it out to have its settings as they are by default")
    trainer = settings.trainer
    if not 0 <= settings.seed_everything < 2**32:
        raise UserError(f"seed_everything is {settings.seed_everything}: it must be from 0 to 2**32 - 1")
    if trainer.val_check_interval == 0:
        raise UserError("trainer.val_check_interval is 0: give a number of updates, or trainer.limit_val_batches 0")
    if trainer.accumulate_grad_batches < 1:
        raise UserError(f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}: it must be at least 1")
    most = max(16, os.cpu_count() or 1)  # also where tests have fewer cores than processes
    for name, value in {"trainer.devices": trainer.devices, "data.num_workers": settings.data.num_workers}.items():
        if str(value).isdecimal() and int(value) > most:
            raise UserError(f"{name} is {value}: this machine has {os.cpu_count()} cores, give {most} at most")
    if "://" in str(trainer.default_root_dir):
        raise UserError(f"trainer.default_root_dir is {trainer.default_root_dir}: it must be a folder of this machine")
    if trainer.limit_train_batches is not None and trainer.max_epochs not in (None, -1):
        raise UserError("trainer.limit_train_batches and max_epochs do not go together here: give trainer.max_steps")
    for name in ("overfit_batches", "use_distributed_sampler", "reload_dataloaders_every_n_epochs"):
        if trainer[name]:  # these make loaders of their own, which know nothing of our order
            raise UserError(f"trainer.{name} does not work with this program's data: leave it out")
