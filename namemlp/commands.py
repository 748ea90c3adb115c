"""What the subcommands do."""

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from namemlp import sweep
from namemlp.callbacks import BestCheckpoint, Interrupted, LastCheckpoint
from namemlp.checkpoint import open_checkpoint, read_checkpoint, settings_of, trainer_settings
from namemlp.datamodule import NamesDataModule
from namemlp.errors import UserError
from namemlp.failures import told
from namemlp.module import NameModule
from namemlp.report import log_probabilities, metrics_table, next_steps, resume_command
from namemlp.resume import flat, is_finished
from namemlp.runs import is_run_folder, locked, read_curves


@dataclass
class Run:
    """What the subcommands that need a Trainer work with.

    Attributes:
        trainer: ready to go.
        model: with the checkpoint's weights, if there is one.
        data: the list of names.
        ckpt_path: of the checkpoint.
        checkpoint: its content.
        best: what saves the best checkpoint, if anything does.
        last: what saves last.ckpt.
    """

    trainer: Trainer
    model: NameModule
    data: NamesDataModule
    ckpt_path: Path | None
    checkpoint: dict[str, Any] | None
    best: BestCheckpoint | None
    last: LastCheckpoint | None

    def fit(self) -> None:
        # What these refuse is refused before there is a run folder.
        self.data.setup("fit")
        self.model.configure_optimizers()
        if self.ckpt_path is not None and is_finished(self.checkpoint, self.trainer, len(self.data.train_set)):
            print(f"already at step {self.checkpoint['global_step']:,}: give a larger --trainer.max_steps to train on")
            return
        try:
            with self._told(), locked(self.trainer):
                step = self.checkpoint and self.checkpoint["global_step"]
                if self.ckpt_path is not None and read_checkpoint(self.ckpt_path)["global_step"] != step:
                    raise UserError(f"{self.ckpt_path} has just been written by another fit: start again")
                self.trainer.fit(self.model, **self._from_checkpoint())
        except Interrupted as interrupted:
            if self.trainer.is_global_zero:
                print(f"stopped at step {self.trainer.global_step:,}; go on with: {resume_command(self.last.path)}")
            sys.exit(128 + interrupted.signum)
        metrics = self._print_metrics("train", "val", "test")
        losses = {f"final/{split}_loss": values["loss"] for split, values in metrics.items()}
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self._settings(), losses, self.trainer.global_step)
                logger.experiment.close()
        if self.trainer.is_global_zero and self.last is not None and self.last.saved_step >= 0:
            by_epochs = self.trainer.max_epochs not in (None, -1)
            goes_on = not any(hasattr(config.scheduler, "total_steps") for config in self.trainer.lr_scheduler_configs)
            step, best = self.trainer.global_step, self.best.best_model_path
            steps = next_steps(self.last.path, best, step, by_epochs, goes_on)
            print(f"\n{steps}")

    def validate(self) -> None:
        with self._told():
            self.trainer.validate(self.model, verbose=False, **self._from_checkpoint())
        self._print_metrics("val")

    def test(self) -> None:
        with self._told():
            self.trainer.test(self.model, verbose=False, **self._from_checkpoint())
        self._print_metrics("train", "val", "test")

    def predict(self) -> None:
        """Print each name of the list with its log-probability (in nats), one a line."""
        with self._told():
            batches = self.trainer.predict(self.model, **self._from_checkpoint())
        corpus = self.data.corpus
        if sum(map(len, batches or [])) != len(corpus.ids):
            raise UserError("predict needs the whole list: leave out limit_predict_batches and fast_dev_run")
        if self.trainer.is_global_zero:
            sys.stdout.reconfigure(encoding="utf-8")  # as the list is, whatever the terminal's own
            sys.stdout.writelines(log_probabilities(corpus, torch.cat(batches)))

    def lr_find(self) -> None:
        """Draw the loss against a learning rate that grows, beside its numbers, and print the suggested one."""
        from namemlp import pictures  # not above: importing Matplotlib takes a third of a second

        with self._told():
            rates, losses = sweep.sweep(self.trainer, self.model, self.data)
        run = Path(self.trainer.log_dir)  # asked of all processes at once
        if not self.trainer.is_global_zero:
            return
        suggested = sweep.suggestion(rates, losses)
        sweep.write_csv(run / "lr_find.csv", rates, losses)
        pictures.save(pictures.sweep_picture(rates, losses, suggested), run / "lr_find.png")
        print(f"\n{sweep.in_words(suggested, rates, losses, self.model.hparams.optimizer)}\n")
        print(f"picture  {run / 'lr_find.png'}\nnumbers  {run / 'lr_find.csv'}")

    def _from_checkpoint(self) -> dict[str, Any]:
        return dict(datamodule=self.data, ckpt_path=self.ckpt_path, weights_only=True)

    def _told(self) -> AbstractContextManager:
        return told(self.trainer, self.ckpt_path, self.checkpoint)

    def _settings(self) -> dict[str, Any]:
        """The settings of a run by their names on the command line."""
        model, data = dict(self.model.hparams), dict(self.data.hparams)
        saved = {"hyper_parameters": model, "datamodule_hyper_parameters": data}
        settings = flat(settings_of({**saved, "trainer": trainer_settings(self.trainer)}))
        del settings["data.vocabulary"]  # as long as the list's script is rich
        return settings

    def _print_metrics(self, *splits: str) -> dict[str, dict[str, float]]:
        """The metrics of the model as it is now over whole splits."""
        self.model.to(self.trainer.strategy.root_device)  # from which the Trainer takes it in the end
        sets = {split: getattr(self.data, f"{split}_set") for split in splits}
        metrics = {split: self.model.evaluate(self.data.evaluation_loader(sets[split])) for split in splits}
        if self.trainer.is_global_zero:
            print(f"\n{metrics_table(metrics, {split: len(sets[split]) for split in splits})}")
        return metrics


def sample(
    ckpt_path: str | None = None,
    output: str | None = None,
    scores: bool = False,
    default_root_dir: str | None = None,
    **settings: Any,
) -> None:
    """Print names, one a line.

    Args:
        ckpt_path: the model: a path, or last (best): the last (best) checkpoint of the newest run
        output: a file to write the names to instead
        scores: write the log-probability of each name (in nats, at temperature 1) behind it, tab between
        default_root_dir: the folder that lightning_logs is in; null: where the command is run
        settings: of `NameModule.sample`
    """
    if ckpt_path is None:
        raise UserError("sample needs a checkpoint: --ckpt_path last, or the path of one")
    path, _ = open_checkpoint(ckpt_path, Path(default_root_dir or "."), fitting=False)
    model = NameModule.load_from_checkpoint(path, map_location="cpu")
    names = model.sample(**settings)
    if scores:
        names = [f"{name}\t{score:.4f}" for name, score in zip(names, model.score(names).tolist(), strict=True)]
    lines = "".join(f"{name}\n" for name in names)
    if output is None:
        sys.stdout.reconfigure(encoding="utf-8")  # whatever the terminal's own
        sys.stdout.write(lines)
        return
    try:
        Path(output).write_text(lines, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}): give another --output") from error


def plot(
    ckpt_path: str | None = None,
    data_path: str | None = None,
    output: str | None = None,
    default_root_dir: str | None = None,
) -> None:
    """Draw what a model has learned of its list, and the losses of its run.

    Args:
        ckpt_path: the model: a path, or last (best): the last (best) checkpoint of the newest run
        data_path: where the list that it was trained on is now; null: where it was
        output: a folder to draw into; null: that of the run
        default_root_dir: the folder that lightning_logs is in; null: where the command is run
    """
    from namemlp import pictures  # not above: importing Matplotlib takes a third of a second

    if ckpt_path is None:
        raise UserError("plot needs a checkpoint: --ckpt_path last, or the path of one")
    file, checkpoint = open_checkpoint(ckpt_path, Path(default_root_dir or "."), fitting=False)
    model = NameModule.load_from_checkpoint(file, map_location="cpu")
    saved = checkpoint["datamodule_hyper_parameters"]
    try:
        settings = {name: saved[name] for name in ("lowercase", "split", "shuffles", "split_seed", "context_length")}
        data = NamesDataModule(data_path or saved["path"], vocabulary=str(model.vocabulary), **settings)
        same = data.corpus.digest == checkpoint["NamesDataModule"]["corpus"]
    except UserError as error:
        raise UserError(f"{error}: give the list that {file} was trained on as --data.path") from error
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{file} does not say how its list was read: {error!r}") from error
    if not same:
        raise UserError(f"{data.corpus.source} is not the list that {file} was trained on: give that as --data.path")
    data.setup("fit")
    run = file.parent.parent
    curves = read_curves(run) if is_run_folder(run) else {}
    folder = Path(output) if output else run if is_run_folder(run) else file.parent
    figures = {"next_characters.png": pictures.next_character_picture(pictures.next_characters(model, data.train_set))}
    if "val/loss" in curves and "train/loss" in curves:
        figures["loss.png"] = pictures.loss_picture(curves["train/loss"], curves["val/loss"])
    else:
        print(f"no curves of train/loss and val/loss in {run}, and so no loss.png", file=sys.stderr)
    for name, figure in figures.items():
        pictures.save(figure, folder / name)
        print(folder / name)


COMMANDS = {"sample": sample, "plot": plot}
