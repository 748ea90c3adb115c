"""The command line: `python -m namemlp fit|validate|test|predict`."""

import logging
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeTuple
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from namemlp.callbacks import BestCheckpoint, Interrupted, LastCheckpoint
from namemlp.checkpoint import CheckpointFiles, open_checkpoint, read_checkpoint, settings_of, trainer_settings
from namemlp.datamodule import NamesDataModule
from namemlp.errors import UserError, shortened
from namemlp.failures import told
from namemlp.module import NameModule
from namemlp.optimizers import SGD
from namemlp.progress import StepProgress
from namemlp.report import log_probabilities, metrics_table, next_steps, resume_command
from namemlp.resume import check_settings, is_finished
from namemlp.runs import locked, run_logger
from namemlp.settings import SUBCOMMANDS, TRAINER_DEFAULTS, NameParser, SaveSettings, as_dict, refuse, trust

log = logging.getLogger(__name__)


class NameCLI(LightningCLI):
    """fit, validate, test and predict; `--ckpt_path last` is the newest run's last checkpoint.

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
            parser_kwargs={
                "prog": "namemlp",
                "description": "Train and use character-level name models.",
                **{name: {"description": text} for name, text in SUBCOMMANDS.items()},
            },
        )

    def setup_parser(self, *args: Any) -> None:
        super().setup_parser(*args)
        for listed in self.parser._subcommands_action._choices_actions:
            listed.help = SUBCOMMANDS[listed.dest]  # instead of the first line that Lightning has for it

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The subcommands, each with the Trainer's arguments that are not for the user to give."""
        ours = {"model", "datamodule", "ckpt_path", "weights_only"}
        return {
            "fit": ours | {"train_dataloaders", "val_dataloaders"},
            "validate": ours | {"dataloaders", "verbose"},
            "test": ours | {"dataloaders", "verbose"},
            "predict": ours | {"dataloaders", "return_predictions"},
        }

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=self.seed_everything_default,
            help="Seed of the order of the training examples and of all else that is random but the weights' start.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
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
        settings = self.config[subcommand]
        self.ckpt_path = self.checkpoint = None
        if settings.ckpt_path is not None:
            root = Path(settings.trainer.default_root_dir or ".")
            self.ckpt_path, self.checkpoint = open_checkpoint(settings.ckpt_path, root, subcommand == "fit")
            saved = settings_of(self.checkpoint)
            self._subcommand_parsers[subcommand].check(saved, self.ckpt_path)
            self._subcommand_parsers[subcommand].set_defaults(saved)
            super().parse_arguments(parser, args)
        elif subcommand != "fit":
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

    def instantiate_classes(self) -> None:
        fitting = self.subcommand == "fit"
        logger = self.config[self.subcommand].trainer.logger
        if not fitting or logger is False:
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
        logger = settings.logger
        if logger is None or logger is True:
            logger = fitting and run_logger(Path(settings.default_root_dir or "."), self.ckpt_path, self.checkpoint)
        callbacks = settings.callbacks or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if settings.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(StepProgress())
        self.best = self.last = None
        if settings.enable_checkpointing is not False and fitting:
            self.best, self.last = BestCheckpoint(), LastCheckpoint(**self._get(self.config_init, "checkpoint"))
            callbacks += [self.best, self.last]
        self.files = CheckpointFiles()
        return super().instantiate_trainer(logger=logger, callbacks=callbacks, plugins=[self.files], **kwargs)

    def fit(self, model: NameModule, datamodule: NamesDataModule) -> None:
        # What these refuse is refused before there is a run folder.
        datamodule.setup("fit")
        model.configure_optimizers()
        if self.ckpt_path is not None and is_finished(self.checkpoint, self.trainer, len(datamodule.train_set)):
            print(f"already at step {self.checkpoint['global_step']:,}: give a larger --trainer.max_steps to train on")
            return
        try:
            with self._told(), locked(self.trainer):
                step = self.checkpoint and self.checkpoint["global_step"]
                if self.ckpt_path is not None and read_checkpoint(self.ckpt_path)["global_step"] != step:
                    raise UserError(f"{self.ckpt_path} has just been written by another fit: start again")
                self.trainer.fit(model, **self._from_checkpoint())
        except Interrupted as interrupted:
            if self.trainer.is_global_zero:
                print(f"stopped at step {self.trainer.global_step:,}; go on with: {resume_command(self.last.path)}")
            sys.exit(128 + interrupted.signum)
        self._print_metrics("train", "val", "test")
        if self.trainer.is_global_zero and self.last is not None and self.last.saved_step >= 0:
            by_epochs = self.trainer.max_epochs not in (None, -1)
            steps = next_steps(self.last.path, self.best.best_model_path, self.trainer.global_step, by_epochs)
            print(f"\n{steps}")

    def validate(self, model: NameModule, datamodule: NamesDataModule) -> None:
        with self._told():
            self.trainer.validate(model, verbose=False, **self._from_checkpoint())
        self._print_metrics("val")

    def test(self, model: NameModule, datamodule: NamesDataModule) -> None:
        with self._told():
            self.trainer.test(model, verbose=False, **self._from_checkpoint())
        self._print_metrics("train", "val", "test")

    def predict(self, model: NameModule, datamodule: NamesDataModule) -> None:
        """Print each name of the list with its log-probability (in nats), one a line."""
        with self._told():
            batches = self.trainer.predict(model, **self._from_checkpoint())
        corpus = datamodule.corpus
        if sum(map(len, batches or [])) != len(corpus.ids):
            raise UserError("predict needs the whole list: leave out limit_predict_batches and fast_dev_run")
        if self.trainer.is_global_zero:
            sys.stdout.reconfigure(encoding="utf-8")  # as the list is, whatever the terminal's own
            sys.stdout.writelines(log_probabilities(corpus, torch.cat(batches)))

    def _from_checkpoint(self) -> dict[str, Any]:
        return dict(datamodule=self.datamodule, ckpt_path=self.ckpt_path, weights_only=True)

    def _told(self) -> AbstractContextManager:
        return told(self.trainer, self.ckpt_path, self.checkpoint)

    def _print_metrics(self, *splits: str) -> None:
        """The metrics of the model as it is now over whole splits."""
        sets = {split: getattr(self.datamodule, f"{split}_set") for split in splits}
        metrics = {split: self.model.evaluate(self.datamodule.evaluation_loader(sets[split])) for split in splits}
        if self.trainer.is_global_zero:
            print(f"\n{metrics_table(metrics, {split: len(sets[split]) for split in splits})}")
