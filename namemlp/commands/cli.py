"""FullCLI: the command line with run folders, checkpoints, exact resume, pictures and the fused path."""

import logging
import os
import sys
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import namemlp
from namemlp import lightning_internals as internals
from namemlp import lists, runs, viz
from namemlp.cli import NameCLI
from namemlp.commands import lr_find, training
from namemlp.commands.network_options import network_help, network_option, split_options
from namemlp.commands.parser import NO_LIGHTNING, SUBCOMMANDS, OneLineErrorParser, restrict_imports
from namemlp.datamodule import NamesDataModule
from namemlp.errors import UserError, check_range, shorten
from namemlp.fast import FastMatmul, FusedStrategy  # whose import also registers the strategies
from namemlp.module import NameModule
from namemlp.optimizers import SGD

# What configs/base.yaml sets for the Trainer, so that `namemlp fit` does the same without it.
TRAINER_DEFAULTS = dict(
    accelerator="cpu", devices=1, strategy=FusedStrategy.strategy_name, max_steps=50_000, val_check_interval=None,
    check_val_every_n_epoch=None, log_every_n_steps=50, num_sanity_val_steps=0, enable_progress_bar=True,
    enable_checkpointing=True, enable_model_summary=False, logger=True,
)  # fmt: skip
# What --help shows for the commands that use a checkpoint; they take all other settings of `fit`, too.
RESULT_OPTIONS = {"help", "config", "ckpt_path", "allow_changes", "data.path", "data.lowercase", "data.split"}
RESULT_OPTIONS |= {f"trainer.{name}" for name in ("accelerator", "devices", "precision", "default_root_dir")}
EXTRA_OPTIONS = {  # of the commands that use a checkpoint
    "validate": {},
    "test": {"whole": dict(type=bool, default=False, help="evaluate all names of the list, not its three splits")},
    "predict": {"output": dict(type=str | None, help="file to write the names to instead of printing them")},
}
TITLES = {
    "run": "Run", "data": "Data", "model": "Model", "optimizer": "Optimizer", "lr_scheduler": "Learning-rate schedule",
    "checkpoint": "Checkpoint", "trainer": "Trainer (of Lightning)",
}  # fmt: skip


class FullParser(OneLineErrorParser, LightningArgumentParser):
    """Lightning's parser, whose errors are one sentence."""

    network_help = ""

    def format_help(self) -> str:
        return super().format_help() + self.network_help


class FullCLI(NameCLI):
    """All subcommands. A checkpoint's own settings are the defaults of what is done with it, so that it is enough."""

    def __init__(self) -> None:
        restrict_imports()
        description = "Train and use character-level name models."
        program = {"prog": "namemlp", "description": description, "version": namemlp.__version__}
        super().__init__(trainer_defaults=TRAINER_DEFAULTS, parser_class=FullParser, parser_kwargs=program)

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        self._subcommand_parsers = {}
        subcommands = parser.add_subcommands()
        needed = {*sys.argv[1:2]} & {*SUBCOMMANDS} or {*SUBCOMMANDS}  # all would take a tenth of a second more
        for name, description in SUBCOMMANDS.items():
            if name in EXTRA_OPTIONS:
                description += " Settings that are not given are the checkpoint's."
            subparser = self.init_parser(description=description, usage=f"namemlp {name} [options]")
            self._subcommand_parsers[name] = subparser
            if name in needed - {*NO_LIGHTNING}:
                self._add_arguments(subparser, name)
                parser.settings = subparser
            subcommands.add_subcommand(name, subparser, help=SUBCOMMANDS[name])
        classes = {"trainer": Trainer, "data": NamesDataModule, "model": NameModule}
        settings = {f"{part}.{name}": s for part, c in classes.items() for name, s in signature(c).parameters.items()}
        booleans = (name for name, setting in settings.items() if "bool" in str(setting.annotation))
        parser.flags = ["allow_changes", "baseline", "fast_matmul", "whole", *booleans]

    def _add_arguments(self, parser: LightningArgumentParser, command: str) -> None:
        run, is_result = parser.add_argument_group(name="run"), command in EXTRA_OPTIONS
        text = f"Checkpoint to {'use' if is_result else 'resume from'}: a path, last or best (of the newest run)"
        run.add_argument("--ckpt_path", type=str | None, help=text)
        text = "use the checkpoint with another list or other settings; resume is then not exact"
        run.add_argument("--allow_changes", type=bool, default=False, help=text)
        text = "name of the run in TensorBoard; its folder is lightning_logs/NAME/version_N"
        run.add_argument("--name", type=str | None, help=text)
        text = "start from the weights of this checkpoint: a path, last or best; another list may have other characters"
        run.add_argument("--init_from", type=str | None, help=text)
        text = "also show what counting gets, an n-gram model of the same split"
        run.add_argument("--baseline", type=bool, default=True, help=text)
        text = "make large products of matrices by oneDNN on a CPU where its error is that of float32"
        run.add_argument("--fast_matmul", type=bool, default=True, help=text)
        text = "seed of the order of the training examples and of all else that is random but the initial weights"
        run.add_argument("--seed_everything", type=int, default=self.seed_everything_default, help=text)
        for name, settings in EXTRA_OPTIONS.get(command, {}).items():
            run.add_argument(f"--{name}", **settings)
        parser.add_lightning_class_args(NamesDataModule, "data")
        parser.add_lightning_class_args(NameModule, "model")
        self.add_arguments_to_parser(parser)
        parser.add_class_arguments(runs.LastCheckpoint, "checkpoint", instantiate=False)
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
        for name, title in TITLES.items():
            parser.groups[name].title, parser.groups[name].description = title, None
        shown = RESULT_OPTIONS | EXTRA_OPTIONS[command].keys() if is_result else None
        internals.hide_options(parser, {"data", "model", "checkpoint", "trainer"}, shown)
        if not is_result:
            parser.network_help = network_help(sys.argv[2:])

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        args, network_settings = split_options(sys.argv[1:] if args is None else args)
        printed = [arg for arg in args if network_settings and arg.startswith("--print_config")]  # at last
        args = [arg for arg in args if arg not in printed]
        self.config = parser.parse_args(args)
        command = self.config.subcommand
        settings, subparser = self.config[command], self._subcommand_parsers[command]
        self.ckpt_path = self.checkpoint = None
        saved = {"optimizer": SGD}
        if settings.ckpt_path is not None and command == "lr_find":
            raise UserError("lr_find starts with untrained weights: omit --ckpt_path")
        if settings.ckpt_path is not None or command not in ("fit", "lr_find"):
            root = Path(settings.trainer.default_root_dir or ".")
            self.ckpt_path, self.checkpoint = runs.open_checkpoint(settings.ckpt_path, root, command == "fit", command)
            saved = runs.hparams_from_checkpoint(self.checkpoint)
            subparser.check(saved, self.ckpt_path)
            subparser.set_defaults(saved)
            self.config = parser.parse_args(args)
        # Else another class would take over what was set for the previous one: SGD's learning rate, its weight decay.
        for name in ("optimizer", "lr_scheduler"):
            given, previous = self.config[command].get(name), saved.get(name)
            if given and previous and given.class_path != previous["class_path"]:
                subparser.set_defaults({name: {"class_path": given.class_path}})
                self.config = parser.parse_args(args)
            options = [arg.partition("=")[0] for arg in args]
            if given and f"--{name}" in options:
                i = options.index(f"--{name}")
                previous = parser.parse_args(args[:i])[command][name]  # of the configs
                if previous and previous.class_path != given.class_path:
                    args = [*args[:i], f"--{name}=null", *args[i:]]
                    self.config = parser.parse_args(args)
        if network_settings:
            args = [*args, network_option(self.config[command].model.network, network_settings), *printed]
            self.config = parser.parse_args(args)
        validate_settings(self.config[command])
        self.config.pop(f"{command}.ckpt_path")  # a run's config.yaml holds only what a new run can use
        self.allow_changes = self.config.pop(f"{command}.allow_changes")
        self.extra = {name: self.config.pop(f"{command}.{name}") for name in EXTRA_OPTIONS.get(command, {})}

    def instantiate_classes(self) -> None:
        settings = self.config[self.subcommand]
        if self.subcommand != "lr_find" and (self.subcommand != "fit" or settings.trainer.logger is False):
            self.save_config_callback = None
        self.save_config_kwargs = {"overwrite": self.ckpt_path is not None}
        try:
            super().instantiate_classes()
        except (UserError, MisconfigurationException, OSError):
            raise
        except Exception as error:  # of a class that the settings name
            raise UserError(f"the settings cannot be used: {shorten(str(error.__cause__ or error))}") from error
        if self.ckpt_path is None:
            if self.subcommand == "fit" and settings.init_from is not None:
                root = Path(settings.trainer.default_root_dir or ".")
                sentence = runs.copy_weights(self.model, settings.init_from, root)
                if self.trainer.is_global_zero:
                    logging.getLogger(__name__).info(sentence)
            return
        path, checkpoint, is_fit = self.ckpt_path, self.checkpoint, self.subcommand == "fit"
        given = {**settings.as_dict(), "trainer": runs.trainer_settings(self.trainer)}
        given["model"]["network"] = self.model.hparams.network
        changes = runs.check_resume(
            path, checkpoint, given, self.datamodule, self.subcommand, self.trainer.world_size, self.allow_changes
        )
        is_reported = self.trainer.is_global_zero and not (is_fit and runs.is_finished(checkpoint, self.trainer))
        for change in changes if is_reported else ():
            logging.getLogger(__name__).warning(f"resume is not exact: {change}")
        try:
            self.model.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise UserError(f"{path} does not hold the weights of its model: {error}") from error
        self.checkpoint_io.checkpoint = checkpoint  # what has been checked is what is used

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config, is_fit = self.config_init[self.subcommand], self.subcommand == "fit"
        settings, logger = config.trainer, config.trainer.logger
        root = Path(settings.default_root_dir or ".")
        if settings.val_check_interval is None and settings.check_val_every_n_epoch is None:
            kwargs["val_check_interval"] = validation_interval(settings, self.datamodule)
        callbacks = settings.callbacks or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if self.subcommand == "lr_find":
            logger, callbacks = lr_find.RangeTestLogger(root), []
            kwargs.update(lr_find.SETTINGS)
        elif logger is None or logger is True:
            logger = is_fit and runs.make_run_logger(root, config.name, self.ckpt_path, self.checkpoint)
        # These go beside a user's own list of callbacks, which does not replace them.
        if settings.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(viz.StepProgressBar())
        callbacks.append(FastMatmul(config.fast_matmul))
        if is_fit:
            callbacks += [runs.FinalValidation(), viz.ModelDiagnostics()]
        if is_fit and config.baseline:
            callbacks.append(lists.CountingBaseline())
        if is_fit and settings.enable_checkpointing is not False:
            callbacks += [runs.BestCheckpoint(), runs.LastCheckpoint(**config.checkpoint)]
        self.checkpoint_io = runs.SafeCheckpointIO()
        return super().instantiate_trainer(logger=logger, callbacks=callbacks, plugins=[self.checkpoint_io], **kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        settings = self.trainer, self.model, self.datamodule, self.ckpt_path, self.checkpoint
        getattr(training, subcommand)(*settings, **self.extra)


def validation_interval(trainer: Namespace, data: NamesDataModule) -> int:
    """A tenth of the batches of a run, at most 5,000."""
    batches = 50_000
    if trainer.max_steps not in (None, -1):
        batches = min(batches, trainer.max_steps * trainer.accumulate_grad_batches)
    if trainer.max_epochs not in (None, -1):
        batches = min(batches, trainer.max_epochs * -(-data.splits.val_start // data.hparams.batch_size))
    return max(1, batches // 10)


def validate_settings(settings: Namespace) -> None:
    """Refuse what Lightning would accept and then not do. Raises: UserError: there is such a setting."""
    for name in ("trainer", "model", "data", "checkpoint"):
        if not isinstance(settings[name], Namespace):
            raise UserError(f"{name} is {settings[name]}: it must be a mapping; omit it to use the defaults")
    trainer, cores = settings.trainer, os.cpu_count()
    check_range(1, **{"trainer.accumulate_grad_batches": trainer.accumulate_grad_batches})
    check_range(0, 2**32, "from 0 to 2**32 - 1", seed_everything=settings.seed_everything)
    if trainer.val_check_interval == 0:
        raise UserError("trainer.val_check_interval is 0: give a number of steps, or trainer.limit_val_batches 0")
    if trainer.strategy == "fused" and trainer.num_nodes > 1:
        raise UserError("strategy fused trains on one device: use --trainer.strategy fused_ddp")
    limit = max(16, cores or 1)  # also where tests have fewer cores than processes
    for name, value in {"trainer.devices": trainer.devices, "data.num_workers": settings.data.num_workers}.items():
        if str(value).isdecimal() and int(value) > limit:
            raise UserError(f"{name} is {value}: this machine has {cores} cores, use at most {limit}")
    if "://" in str(trainer.default_root_dir):
        raise UserError(f"trainer.default_root_dir is {trainer.default_root_dir}: it must be a folder of this machine")
