"""The command line: `python -m namemlp fit|validate|test|predict`."""

import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeTuple
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim import Optimizer

from namemlp.callbacks import Interrupted, LastCheckpoint, StepProgress
from namemlp.checkpoint import RUNS, check_settings, find_checkpoint, read_checkpoint, settings_of
from namemlp.datamodule import NamesDataModule
from namemlp.errors import UserError, fail
from namemlp.module import NameModule
from namemlp.report import metrics_table, next_steps, resume_command

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
        fail(message)


class NameCLI(LightningCLI):
    """fit, validate, test and predict; `--ckpt_path last` is the newest run's last checkpoint.

    A checkpoint's own settings are the defaults of whatever is done with it, so that it is enough by itself.
    """

    def __init__(self) -> None:
        super().__init__(
            NameModule,
            NamesDataModule,
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
        given = {"model", "datamodule", "ckpt_path", "weights_only"}
        evaluation = given | {"dataloaders", "verbose"}
        return {
            "fit": given | {"train_dataloaders", "val_dataloaders"},
            "validate": evaluation,
            "test": evaluation,
            "predict": given | {"dataloaders", "return_predictions"},
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
        parser.add_optimizer_args((Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        parser.set_defaults({"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}})
        for name in ("optimizer", "lr_scheduler"):
            parser.link_arguments(name, f"model.{name}", compute_fn=as_dict)
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("model.context_length", "data.context_length")
        parser.link_arguments("data.vocabulary", "model.vocabulary", compute_fn=str, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        subcommand = self.config.subcommand
        settings = self.config[subcommand]
        if not 0 <= settings.seed_everything < 2**32:
            raise UserError(f"seed_everything is {settings.seed_everything}: it must be from 0 to 2**32 - 1")
        if settings.trainer.val_check_interval == 0:
            raise UserError("trainer.val_check_interval is 0: give a number of updates, or trainer.limit_val_batches 0")
        if settings.trainer.overfit_batches:  # Lightning would read our examples one by one
            raise UserError("trainer.overfit_batches does not work here: use trainer.limit_train_batches")
        self.ckpt_path = None
        if settings.ckpt_path is not None:
            self.ckpt_path = find_checkpoint(settings.ckpt_path, Path(settings.trainer.default_root_dir or "."))
            self.checkpoint = read_checkpoint(self.ckpt_path)
            self._subcommand_parsers[subcommand].set_defaults(settings_of(self.checkpoint))
            super().parse_arguments(parser, args)
        elif subcommand != "fit":
            raise UserError(f"{subcommand} needs a checkpoint: --ckpt_path last, or the path of one")

    def _parse_ckpt_path(self) -> None:
        """Nothing: LightningCLI would let the checkpoint win over the command line; see parse_arguments."""

    def instantiate_classes(self) -> None:
        fitting = self.subcommand == "fit"
        logger = self.config[self.subcommand].trainer.logger
        if not fitting or logger is False:
            self.save_config_callback = None
        self.save_config_kwargs = {"overwrite": self.ckpt_path is not None}
        super().instantiate_classes()
        if self.ckpt_path is not None:
            corpus = self.datamodule.corpus if fitting else None
            check_settings(self.ckpt_path, self.checkpoint, self.config[self.subcommand], corpus)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self._get(self.config_init, "trainer")
        fitting = self.subcommand == "fit"
        logger = settings.logger
        if logger is None or logger is True:
            logger = self._run_logger(Path(settings.default_root_dir or ".")) if fitting else False
        callbacks = settings.callbacks or []
        if settings.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks = [*callbacks, StepProgress()]
        if settings.enable_checkpointing is not False and fitting:
            best = ModelCheckpoint(
                monitor="val/loss",
                filename="best-step{step}-loss{val/loss:.4f}",
                auto_insert_metric_name=False,
                save_on_train_epoch_end=False,
            )
            callbacks = [*callbacks, best, LastCheckpoint()]
        try:
            return super().instantiate_trainer(logger=logger, callbacks=callbacks, **kwargs)
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(f"the Trainer does not take these settings: {error}") from error

    def _run_logger(self, root: Path) -> TensorBoardLogger:
        """The logger of a new run folder, or of the one that the checkpoint lies in."""
        if self.ckpt_path is None or self.ckpt_path.parent.name != "checkpoints":
            return TensorBoardLogger(root, name=RUNS, default_hp_metric=False)
        run = self.ckpt_path.parent.parent
        # What an interrupted run has drawn beyond its checkpoint is drawn again: TensorBoard drops the first try.
        return TensorBoardLogger(
            run.parent.parent,
            name=run.parent.name,
            version=run.name,
            default_hp_metric=False,
            purge_step=self.checkpoint["global_step"] + 1,
        )

    def fit(self, model: NameModule, datamodule: NamesDataModule) -> None:
        # What these refuse is refused before there is a run folder.
        datamodule.setup("fit")
        model.configure_optimizers()
        if self.ckpt_path is not None and 0 <= self.trainer.max_steps <= self.checkpoint["global_step"]:
            print(f"already at step {self.checkpoint['global_step']:,}: give a larger --trainer.max_steps to train on")
            return
        last = next((c for c in self.trainer.callbacks if isinstance(c, LastCheckpoint)), None)
        try:
            self.trainer.fit(model, datamodule=datamodule, ckpt_path=self.ckpt_path, weights_only=True)
        except Interrupted as interrupted:
            if self.trainer.is_global_zero:
                print(f"stopped at step {self.trainer.global_step:,}; go on with\n  {resume_command(last.path)}")
            sys.exit(128 + interrupted.signum)
        self._print_metrics("train", "val", "test")
        if self.trainer.is_global_zero and last and last.path.is_file():
            print(
                f"\n{next_steps(last.path, self.trainer.checkpoint_callback.best_model_path, self.trainer.global_step)}"
            )

    def validate(self, model: NameModule, datamodule: NamesDataModule) -> None:
        self.trainer.validate(model, datamodule=datamodule, ckpt_path=self.ckpt_path, weights_only=True, verbose=False)
        self._print_metrics("val")

    def test(self, model: NameModule, datamodule: NamesDataModule) -> None:
        self.trainer.test(model, datamodule=datamodule, ckpt_path=self.ckpt_path, weights_only=True, verbose=False)
        self._print_metrics("train", "val", "test")

    def predict(self, model: NameModule, datamodule: NamesDataModule) -> None:
        """Print each name of the list with its log-probability (in nats), one a line."""
        batches = self.trainer.predict(model, datamodule=datamodule, ckpt_path=self.ckpt_path, weights_only=True)
        if not self.trainer.is_global_zero:
            return
        corpus = datamodule.corpus
        of_characters = torch.cat(batches).double()  # (examples,)
        of_names = torch.segment_reduce(of_characters, "sum", lengths=torch.from_numpy(corpus.sizes))
        sys.stdout.writelines(
            f"{name}\t{score:.4f}\n" for name, score in zip(corpus.names, of_names.tolist(), strict=True)
        )

    def _print_metrics(self, *splits: str) -> None:
        """The metrics of the model as it is now over whole splits."""
        sets = {split: getattr(self.datamodule, f"{split}_set") for split in splits}
        metrics = {split: self.model.evaluate(self.datamodule.evaluation_loader(sets[split])) for split in splits}
        if self.trainer.is_global_zero:
            print(f"\n{metrics_table(metrics, {split: len(sets[split]) for split in splits})}")


def as_dict(given: Namespace | None) -> dict[str, Any] | None:
    """A class setting as a plain dict."""
    return given and given.as_dict()
