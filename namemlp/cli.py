"""The command line: `python -m namemlp fit|validate|test|predict|sample|…`."""

import logging
import re
import sys
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeTuple
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from namemlp import sweep
from namemlp.callbacks import BestCheckpoint, LastCheckpoint
from namemlp.checkpoint import CheckpointFiles, open_checkpoint, settings_of, trainer_settings
from namemlp.commands import COMMANDS, Run
from namemlp.datamodule import NamesDataModule
from namemlp.errors import UserError, shortened
from namemlp.module import NameModule
from namemlp.optimizers import SGD
from namemlp.progress import StepProgress
from namemlp.resume import check_settings, flat
from namemlp.runs import run_logger
from namemlp.settings import SUBCOMMANDS, TRAINER_DEFAULTS, NameParser, SaveSettings, as_dict, refuse, trust

log = logging.getLogger(__name__)

# Arguments of `COMMANDS` that have the names of settings of the other subcommands.
AS_ELSEWHERE = {"data_path": "data.path", "default_root_dir": "trainer.default_root_dir"}


class NameCLI(LightningCLI):
    """The subcommands; `--ckpt_path last` is the newest run's last checkpoint.

    A checkpoint's own settings are the defaults of whatever is done with it, so that it is enough by itself.
    """

    def __init__(self) -> None:
        trust()
        super().__init__(
            NameModule,
            NamesDataModule,
            save_config_callback=SaveSettings,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=2147483647,
            parser_class=NameParser,
            load_from_checkpoint_support=False,  # NameModule keeps what it needs in its checkpoints itself
            auto_configure_optimizers=False,
            parser_kwargs={"prog": "namemlp", "description": "Train and use character-level name models."},
        )

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        self._subcommand_parsers = {}
        listed = parser.add_subcommands()
        [asked] = sys.argv[1:2] or [None]
        for name, description in SUBCOMMANDS.items():
            subparser = self._subcommand_parsers[name] = self.init_parser(description=description)
            if asked not in SUBCOMMANDS or asked == name:  # the arguments of the others would take a tenth of a second
                self._add_arguments_of(name, subparser)
            listed.add_subcommand(name, subparser, help=description)

    def _add_arguments_of(self, subcommand: str, parser: LightningArgumentParser) -> None:
        if subcommand not in COMMANDS:
            self._add_arguments(parser)
            return
        function = COMMANDS[subcommand]
        explained = dict(re.findall(r"^ +(\w+): (.+)", function.__doc__, re.MULTILINE))
        dotted = {name: dot for name, dot in AS_ELSEWHERE.items() if name in explained}
        parser.add_function_arguments(function, as_group=False, skip=set(dotted))
        for name, dot in dotted.items():
            parser.add_argument(f"--{dot}", type=str | None, default=None, help=explained[name])
        if subcommand == "sample":
            parser.add_method_arguments(NameModule, "sample", as_group=False)
        for action in parser._actions:
            if getattr(action, "_typehint", None) is bool:
                action.nargs, action.const = "?", True  # --novel is --novel true

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=self.seed_everything_default,
            help="Seed of the order of the training examples and of all else that is random but the weights' start.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="What TensorBoard calls the run: its folder is lightning_logs/NAME/version_N.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="A checkpoint to go on from: a path, or last (best): the last (best) one of the newest run.",
        )
        parser.add_argument(
            "--allow_changes",
            action="store_true",
            help="Use the checkpoint with another list or other settings, and not exactly as its run would go on.",
        )
        parser.add_class_arguments(LastCheckpoint, "checkpoint", instantiate=False)
        parser.add_optimizer_args((Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        parser.set_defaults({"optimizer": SGD})
        for name in ("optimizer", "lr_scheduler"):
            parser.link_arguments(name, f"model.{name}", compute_fn=as_dict)
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("model.context_length", "data.context_length")
        parser.link_arguments("data.vocabulary", "model.vocabulary", compute_fn=str, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        subcommand = self.config.subcommand
        if subcommand in COMMANDS:
            return
        settings = self.config[subcommand]
        self.ckpt_path = self.checkpoint = None
        if settings.ckpt_path is not None and subcommand == "lr_find":
            raise UserError("lr_find starts with untrained weights: leave out --ckpt_path")
        if settings.ckpt_path is not None:
            root = Path(settings.trainer.default_root_dir or ".")
            self.ckpt_path, self.checkpoint = open_checkpoint(settings.ckpt_path, root, subcommand == "fit")
            saved = settings_of(self.checkpoint)
            self._subcommand_parsers[subcommand].check(saved, self.ckpt_path)
            self._subcommand_parsers[subcommand].set_defaults(saved)
            super().parse_arguments(parser, args)
        elif subcommand not in ("fit", "lr_find"):
            raise UserError(f"{subcommand} needs a checkpoint: --ckpt_path last, or the path of one")
        else:
            saved = {"optimizer": SGD}
        # Else another class would take over what those settings have for it, such as SGD's weight decay of 0.
        for name in ("optimizer", "lr_scheduler"):
            given, before = self.config[subcommand].get(name), saved.get(name)
            if given and before and given.class_path != before["class_path"]:
                self._subcommand_parsers[subcommand].set_defaults({name: {"class_path": given.class_path}})
                super().parse_arguments(parser, args)
        refuse(self.config[subcommand])

    def _parse_ckpt_path(self) -> None:
        """Nothing: LightningCLI would let the checkpoint win over the command line; see parse_arguments."""

    def _set_seed(self) -> None:
        if self.subcommand not in COMMANDS:
            super()._set_seed()

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand in COMMANDS:
            settings = flat(self.config[subcommand].as_dict())
            dotted = {dot: name for name, dot in AS_ELSEWHERE.items()}
            COMMANDS[subcommand](
                **{dotted.get(name, name): value for name, value in settings.items() if name != "config"}
            )
        else:
            run = Run(self.trainer, self.model, self.datamodule, self.ckpt_path, self.checkpoint, self.best, self.last)
            getattr(run, subcommand)()

    def instantiate_classes(self) -> None:
        if self.subcommand in COMMANDS:
            return
        fitting = self.subcommand == "fit" and self.config.fit.trainer.logger is not False
        if not (fitting or self.subcommand == "lr_find"):
            self.save_config_callback = None
        self.save_config_kwargs = {"overwrite": self.ckpt_path is not None}
        try:
            super().instantiate_classes()
        except (UserError, MisconfigurationException, OSError):
            raise
        except Exception as error:  # of a class that the settings name
            raise UserError(f"the settings cannot be used: {shortened(str(error.__cause__ or error))}") from error
        if self.ckpt_path is not None:
            settings = self.config[self.subcommand]
            ours = {**settings.as_dict(), "trainer": trainer_settings(self.trainer)}
            changes = check_settings(
                self.ckpt_path,
                self.checkpoint,
                ours,
                self.datamodule.corpus,
                self.subcommand,
                self.trainer.world_size,
                settings.allow_changes,
            )
            for change in changes if self.trainer.is_global_zero else ():
                log.warning(f"no longer the exact run: {change}")
            try:
                self.model.load_state_dict(self.checkpoint["state_dict"])
            except RuntimeError as error:
                raise UserError(f"{self.ckpt_path} does not hold the weights of its model: {error}") from error
            self.files.checkpoint = self.checkpoint  # what has been checked is what is used

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self._get(self.config_init, "trainer")
        fitting = self.subcommand == "fit"
        logger, root = settings.logger, Path(settings.default_root_dir or ".")
        callbacks = settings.callbacks or []
        if self.subcommand == "lr_find":
            logger, callbacks, kwargs = sweep.SweepLogger(root), [], {**kwargs, **sweep.TRAINER}
        elif logger is None or logger is True:
            logger = fitting and run_logger(root, self._get(self.config, "name"), self.ckpt_path, self.checkpoint)
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if settings.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(StepProgress())
        self.best = self.last = None
        if settings.enable_checkpointing is not False and fitting:
            self.best, self.last = BestCheckpoint(), LastCheckpoint(**self._get(self.config_init, "checkpoint"))
            callbacks += [self.best, self.last]
        loggers = logger if isinstance(logger, list) else [logger]
        if fitting and any(isinstance(each, TensorBoardLogger) for each in loggers):
            from namemlp.inspection import Inspection  # not above: TensorBoard's formats take a tenth of a second

            callbacks.append(Inspection())
        self.files = CheckpointFiles()
        return super().instantiate_trainer(logger=logger, callbacks=callbacks, plugins=[self.files], **kwargs)
