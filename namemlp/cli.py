"""The command line: `python -m namemlp fit|validate|test|predict`."""

import sys
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeTuple
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim import Optimizer

from namemlp.callbacks import BestCheckpoint, Interrupted, LastCheckpoint, StepProgress
from namemlp.checkpoint import RUNS, check_settings, find_checkpoint, read_checkpoint, settings_of
from namemlp.datamodule import NamesDataModule
from namemlp.errors import UserError
from namemlp.module import SGD, NameModule, trainer_settings
from namemlp.report import is_run_folder, metrics_table, next_steps, resume_command
from namemlp.settings import SUBCOMMANDS, TRAINER_DEFAULTS, NameParser, SaveSettings, as_dict, refuse


class NameCLI(LightningCLI):
    """fit, validate, test and predict; `--ckpt_path last` is the newest run's last checkpoint.

    A checkpoint's own settings are the defaults of whatever is done with it, so that it is enough by itself.
    """

    def __init__(self) -> None:
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
        parser.add_optimizer_args((Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        parser.set_defaults({"optimizer": SGD})
        for name in ("optimizer", "lr_scheduler"):
            parser.link_arguments(name, f"model.{name}", compute_fn=as_dict)
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("model.context_length", "data.context_length")
        parser.link_arguments("data.vocabulary", "model.vocabulary", compute_fn=str, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self._parse(parser, args)
        subcommand = self.config.subcommand
        settings = self.config[subcommand]
        self.ckpt_path = None
        if settings.ckpt_path is not None:
            self.ckpt_path = find_checkpoint(settings.ckpt_path, Path(settings.trainer.default_root_dir or "."))
            self.checkpoint = read_checkpoint(self.ckpt_path, fitting=subcommand == "fit")
            try:
                self._subcommand_parsers[subcommand].set_defaults(settings_of(self.checkpoint))
            except KeyError as error:
                raise UserError(f"{self.ckpt_path} has a setting that this version does not know: {error}") from error
            self._parse(parser, args)
        elif subcommand != "fit":
            raise UserError(f"{subcommand} needs a checkpoint: --ckpt_path last, or the path of one")
        elif settings.optimizer is not None and settings.optimizer.class_path != SGD["class_path"]:
            # Else another class would take over SGD's defaults, such as a weight decay of 0, where the names agree.
            self._subcommand_parsers[subcommand].set_defaults(
                {"optimizer": {"class_path": settings.optimizer.class_path}}
            )
            self._parse(parser, args)
        refuse(self.config[subcommand])

    def _parse(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            super().parse_arguments(parser, args)
        except UnicodeDecodeError as error:
            raise UserError(f"a --config file is not UTF-8: {error}") from error

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
            settings = self.config[self.subcommand]
            ours = {**settings.as_dict(), "trainer": trainer_settings(self.trainer)}
            check_settings(self.ckpt_path, self.checkpoint, ours, self.datamodule.corpus, self.subcommand)
            try:
                self.model.load_state_dict(self.checkpoint["state_dict"])
            except RuntimeError as error:
                raise UserError(f"{self.ckpt_path} does not hold the weights of its model: {error}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self._get(self.config_init, "trainer")
        fitting = self.subcommand == "fit"
        logger = settings.logger
        if logger is None or logger is True:
            logger = self._run_logger(Path(settings.default_root_dir or ".")) if fitting else False
        callbacks = settings.callbacks or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if settings.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(StepProgress())
        self.best = self.last = None
        if settings.enable_checkpointing is not False and fitting:
            self.best, self.last = BestCheckpoint(), LastCheckpoint()
            callbacks += [self.best, self.last]
        try:
            return super().instantiate_trainer(logger=logger, callbacks=callbacks, **kwargs)
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(f"the Trainer does not take these settings: {error}") from error

    def _run_logger(self, root: Path) -> TensorBoardLogger:
        """The logger of a new run folder, or of the one that the checkpoint lies in."""
        run = self.ckpt_path and self.ckpt_path.parent.parent
        shared = dict(default_hp_metric=False, max_queue=1000)  # room for the points of a block: training never waits
        if run is None or not is_run_folder(run):
            return TensorBoardLogger(root, name=RUNS, **shared)
        # What an interrupted run has drawn beyond its checkpoint is drawn again: TensorBoard drops the first try.
        return TensorBoardLogger(
            run.parent.parent,
            name=run.parent.name,
            version=run.name,
            purge_step=self.checkpoint["global_step"] + 1,
            **shared,
        )

    def fit(self, model: NameModule, datamodule: NamesDataModule) -> None:
        # What these refuse is refused before there is a run folder.
        datamodule.setup("fit")
        model.configure_optimizers()
        if self.ckpt_path is not None and self._is_finished():
            print(f"already at step {self.checkpoint['global_step']:,}: give a larger --trainer.max_steps to train on")
            return
        try:
            self.trainer.fit(model, datamodule=datamodule, ckpt_path=self.ckpt_path, weights_only=True)
        except Interrupted as interrupted:
            if self.trainer.is_global_zero:
                print(f"stopped at step {self.trainer.global_step:,}; go on with\n  {resume_command(self.last.path)}")
            sys.exit(128 + interrupted.signum)
        except (ValueError, RuntimeError, ZeroDivisionError, AttributeError) as error:
            if not raised_in(error, "torch.optim", "lightning"):
                raise
            raise UserError(f"training cannot go on with these settings: {error}") from error
        self._print_metrics("train", "val", "test")
        if self.trainer.is_global_zero and self.last is not None and self.last.saved_step >= 0:
            by_epochs = self.trainer.max_epochs not in (None, -1)
            steps = next_steps(self.last.path, self.best.best_model_path, self.trainer.global_step, by_epochs)
            print(f"\n{steps}")

    def _is_finished(self) -> bool:
        """Whether a checkpoint has all the updates, or all the epochs, that are asked for."""
        read = self.checkpoint["NamesDataModule"]["train_loader"]
        epoch = -(-len(self.datamodule.train_set) // read["update_size"])  # updates
        steps, epochs = self.trainer.max_steps, self.trainer.max_epochs
        done = 0 <= steps <= self.checkpoint["global_step"]
        return done or (epochs is not None and 0 <= epochs * epoch <= read["batches_read"])

    def validate(self, model: NameModule, datamodule: NamesDataModule) -> None:
        self.trainer.validate(model, datamodule=datamodule, ckpt_path=self.ckpt_path, weights_only=True, verbose=False)
        self._print_metrics("val")

    def test(self, model: NameModule, datamodule: NamesDataModule) -> None:
        self.trainer.test(model, datamodule=datamodule, ckpt_path=self.ckpt_path, weights_only=True, verbose=False)
        self._print_metrics("train", "val", "test")

    def predict(self, model: NameModule, datamodule: NamesDataModule) -> None:
        """Print each name of the list with its log-probability (in nats), one a line."""
        batches = self.trainer.predict(model, datamodule=datamodule, ckpt_path=self.ckpt_path, weights_only=True)
        corpus = datamodule.corpus
        sys.stdout.reconfigure(encoding="utf-8")  # as the list is, whatever the terminal's own
        if sum(map(len, batches or [])) != len(corpus.ids):
            raise UserError("predict needs the whole list: leave out limit_predict_batches and fast_dev_run")
        if not self.trainer.is_global_zero:
            return
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


def raised_in(error: BaseException, *modules: str) -> bool:
    """Whether an error comes from one of these modules, and not from what they have called."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_globals.get("__name__", "").startswith(modules)
