"""What fit, validate, test, predict and lr_find do with a Trainer, a model and data."""

import copy
import math
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from namemlp import lists, runs
from namemlp.commands.lr_find import lr_range_test, save_results
from namemlp.commands.sample import write_lines
from namemlp.datamodule import NamesDataModule
from namemlp.errors import UserError, shorten
from namemlp.module import NameModule
from namemlp.network import eval_mode
from namemlp.optimizers import INVALID_SETTINGS
from namemlp.sampling import sum_per_name

SPLITS = ("train", "val", "test")
SMALL_LIST = 500  # names
CLEARLY = 0.01  # nats by which the best checkpoint is clearly better than the last


def fit(trainer: Trainer, model: NameModule, data: NamesDataModule, path: Path | None, checkpoint: Any) -> None:
    """Train; from a checkpoint if there is one, whose path and content are given."""
    data.setup("fit")  # what this and the next line refuse is refused before there is a run folder
    try_optimizer(model)
    if path is not None and runs.is_finished(checkpoint, trainer):
        _, reason = how_to_continue(checkpoint["lr_schedulers"], checkpoint["global_step"])
        print(f"already at step {checkpoint['global_step']:,}: {reason or 'raise --trainer.max_steps to continue'}")
        return
    if model.hparams.network != "mlp":
        try_network(model, data.val_set[:2][0])
    num_names, is_first = data.splits.num_names, trainer.is_global_zero and path is None
    if is_first:
        loss, size = model.evaluate([data.val_set[:4096]])["loss"], len(data.vocabulary)
        guess = f"guessing among {size} characters has log {size} = {math.log(size):.4f}"
        print(f"loss before training {loss:.4f}; {guess}")
    is_small = num_names < SMALL_LIST and model.hparams.network == "mlp" and model.hparams.init != "scaled"
    if is_first and is_small:
        advice = f"--model.init scaled, about {10 * num_names:,} --trainer.max_steps, and then --ckpt_path best"
        print(f"{num_names} names are soon learned by heart: use {advice}")
    savers = {type(callback): callback for callback in trainer.checkpoint_callbacks}
    last, best = savers.get(runs.LastCheckpoint), savers.get(runs.BestCheckpoint)
    try:
        with report_user_errors(trainer, path, checkpoint), runs.run_lock(trainer):
            if path is not None and runs.read_checkpoint(path)["global_step"] != checkpoint["global_step"]:
                raise UserError(f"{path} has just been written by another fit: start again")
            trainer.fit(model, datamodule=data, ckpt_path=path, weights_only=True)
    except runs.Interrupted as interrupted:
        if trainer.is_global_zero:
            print(f"interrupted at step {trainer.global_step:,}; resume with: {runs.resume_command(last.path)}")
        sys.exit(128 + interrupted.signum)
    metrics = print_metrics(trainer, model, data, *SPLITS)
    if not trainer.is_global_zero:
        return
    print_counting(trainer, metrics["val"]["loss"])
    losses = {f"whole/{split}_loss": values["loss"] for split, values in metrics.items()}
    hparams = dict(hyper_parameters=model.hparams, datamodule_hyper_parameters=data.hparams)
    settings = runs.flatten(runs.hparams_from_checkpoint({**hparams, "trainer": runs.trainer_settings(trainer)}))
    del settings["data.vocabulary"]  # as long as the list's script is rich
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            runs.log_hparams(logger, settings, losses, trainer.global_step - 1)  # from 0
            logger.experiment.close()
    guessing = math.log(len(data.vocabulary))
    if metrics["train"]["loss"] > guessing and trainer.global_step >= 1000:
        print(f"the loss is above {guessing:.2f}, that of pure guessing: give a smaller optimizer.lr, or more steps")
    if last is not None and last.saved_step >= 0:
        print_next_steps(last.path, best, metrics["val"]["loss"], trainer)


def validate(trainer: Trainer, model: NameModule, data: NamesDataModule, path: Path, checkpoint: Any) -> None:
    with report_user_errors(trainer, path, checkpoint):
        trainer.validate(model, datamodule=data, ckpt_path=path, weights_only=True, verbose=False)
    if trainer.is_global_zero and data.splits.sha256 != checkpoint.get("NamesDataModule", {}).get("sha256"):
        print(f"{data.source}: its validation split; `namemlp test --whole` evaluates all its names")
    print_metrics(trainer, model, data, "val")


def test(trainer: Trainer, model: NameModule, data: NamesDataModule, path: Path, checkpoint: Any, whole: bool) -> None:
    with report_user_errors(trainer, path, checkpoint):
        source = {"datamodule": data}
        if whole:
            data.setup("predict")
            source = {"dataloaders": data.evaluation_loader(data.predict_set)}
        trainer.test(model, **source, ckpt_path=path, weights_only=True, verbose=False)
    print_metrics(trainer, model, data, *(["whole"] if whole else SPLITS))


def predict(
    trainer: Trainer, model: NameModule, data: NamesDataModule, path: Path, checkpoint: Any, output: str | None
) -> None:
    """Print each name of the list with its log-probability (in nats), tab-separated, one per line."""
    with report_user_errors(trainer, path, checkpoint):
        batches = trainer.predict(model, datamodule=data, ckpt_path=path, weights_only=True)
    if sum(map(len, batches or [])) != len(data.predict_set):
        raise UserError("predict needs the whole list: omit limit_predict_batches and fast_dev_run")
    if trainer.is_global_zero:
        values = sum_per_name(torch.cat(batches), data.names).tolist()
        write_lines([f"{name}\t{value:.4f}" for name, value in zip(data.names, values, strict=True)], output)


def lr_find(trainer: Trainer, model: NameModule, data: NamesDataModule, path: None, checkpoint: None) -> None:
    """Save the loss against a learning rate that grows, as a figure and a table, and print the suggested one."""
    with report_user_errors(trainer):
        points = lr_range_test(trainer, model, data)
        folder = Path(trainer.log_dir)  # asked of all processes at once
        if trainer.is_global_zero:
            save_results(folder, *points.T, model.hparams.optimizer)


def try_optimizer(model: NameModule) -> None:
    """Make a step on a copy of a model. Raises: UserError: its optimizer or schedule does not take its settings."""
    model = copy.deepcopy(model)
    built = model.configure_optimizers()
    built = built if isinstance(built, dict) else {"optimizer": built}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    try:
        built["optimizer"].step(lambda: torch.zeros(()))
        if "lr_scheduler" in built:
            config = built["lr_scheduler"]
            config["scheduler"].step(*([torch.inf] if "monitor" in config else []))  # of a ReduceLROnPlateau
    except Exception as error:  # of a class that the settings name
        raise UserError(f"{INVALID_SETTINGS}: {shorten(str(error))}") from error


def try_network(model: NameModule, x: Tensor) -> None:
    """Raise a UserError where a network that the settings name does not make (B, V) logits of (B, T) ids."""
    try:
        with eval_mode(model):
            logits = model(x)
        if logits.shape == (len(x), len(model.vocabulary)) and logits.is_floating_point():
            return
        made = f"{tuple(logits.shape)} {str(logits.dtype).removeprefix('torch.')}"
    except Exception as error:
        made = shorten(str(error))
    wanted = f"takes {tuple(x.shape)} ids and returns {(len(x), len(model.vocabulary))} logits"
    raise UserError(f"model.network {model.hparams.network['name']} is no network that {wanted}: {made}")


@contextmanager
def remove_new_folder(trainer: Trainer) -> Iterator[None]:
    """Leave no folder of a run that has failed before its first step."""
    try:
        yield
    except BaseException:
        for logger in trainer.loggers if trainer.global_step == 0 else ():
            if isinstance(logger, runs.RunLogger):
                logger.discard()
        raise


@contextmanager
def report_user_errors(trainer: Trainer, path: Path | None = None, checkpoint: Any = None) -> Iterator[None]:
    """Turn what a user's files or settings have caused into a UserError, and let errors of the program through."""
    try:
        with remove_new_folder(trainer):
            yield
    except BrokenPipeError:
        raise
    except (UserError, OSError) as error:
        sentence = str(error)
        if isinstance(error, OSError):
            sentence = runs.write_error(Path(error.filename or trainer.log_dir or trainer.default_root_dir), error)
        paths = [saver.path for saver in trainer.checkpoint_callbacks if isinstance(saver, runs.LastCheckpoint)]
        hint = "".join(f" (the previous checkpoint {path} is intact)" for path in paths if path and path.is_file())
        raise UserError(f"{sentence}{hint}") from error
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        # What is wrong in a checkpoint shows when it is restored, or at the first step after.
        if checkpoint is not None and trainer.global_step in (0, checkpoint["global_step"]):
            raise UserError(f"cannot resume from {path}: {shorten(repr(error))}") from error
        if not isinstance(error, ValueError):
            raise
        raise UserError(f"training cannot continue with these settings: {shorten(str(error))}") from error


def print_metrics(trainer: Trainer, model: NameModule, data: NamesDataModule, *splits: str) -> dict[str, dict]:
    """Print the metrics of the model as it is now over whole splits: a line for each split."""
    if not trainer.is_global_zero:
        return {}
    model.to(trainer.strategy.root_device)  # from which the Trainer takes it in the end
    metrics = {}
    print(f"\n{'split':<6}{'examples':>10}{'loss':>12}{'perplexity':>12}{'bits/char':>12}{'top-1':>8}{'top-5':>8}")
    for split in splits:
        examples = data.predict_set if split == "whole" else getattr(data, f"{split}_set")
        row = metrics[split] = model.evaluate(data.evaluation_loader(examples, is_shared=False))
        losses = f"{row['loss']:>12.4f}{row['perplexity']:>12.5g}{row['bits_per_character']:>12.4f}"
        print(f"{split:<6}{len(examples):>10,}{losses}{row['top1']:>8.1%}{row['top5']:>8.1%}")
    return metrics


def print_counting(trainer: Trainer, val_loss: float) -> None:
    """Print what counting gets on the same split, where it was asked for."""
    for baseline in trainer.callbacks:
        if not isinstance(baseline, lists.CountingBaseline):
            continue
        if baseline.model is None:
            if trainer.global_step:  # else max_steps is 0
                print("counting left out, as the list is long: `namemlp baseline` shows it")
            return
        print(f"counting ({baseline.model.n}-gram)  {baseline.model.format_losses()}")
        if baseline.model.losses[1] < val_loss:
            print(f"counting is better: its val loss is {val_loss - baseline.model.losses[1]:.4f} lower")


def print_next_steps(last: Path, best: runs.BestCheckpoint, val_loss: float, trainer: Trainer) -> None:
    """Print where the checkpoints of a run are, and the commands that sample, show its curves and continue it."""
    run, path, used = last.parent.parent, best.best_model_path, last
    print(f"\ncheckpoint  {last}" + (f" (lowest val/loss: {Path(path).name})" if path else ""))
    if path and (best_loss := best.best_model_score.item()) < val_loss - CLEARLY:
        print(f"better      {path}: val loss {best_loss:.4f} instead of {val_loss:.4f}")
        used = path
    print(f"sample      {shlex.join(['python', '-m', 'namemlp', 'sample', '--ckpt_path', str(used)])}")
    if runs.is_run_folder(run):
        print(f"curves      tensorboard --logdir {shlex.quote(str(runs.log_root(run)))}")
    states = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    max_steps, reason = how_to_continue(states, trainer.global_step)
    epochs = [] if trainer.max_epochs in (None, -1) else ["--trainer.max_epochs", "null"]
    more = ["--trainer.max_steps", str(max_steps), *epochs]
    print(f"continue    {reason or runs.resume_command(last, *more)}")


def how_to_continue(schedules: list[dict[str, Any]], step: int) -> tuple[int, str]:
    """Up to which step a run can be continued, and why it cannot or "", by the states of its schedules."""
    for state in schedules:
        end, what = state.get("total_steps"), "ends at"
        if "T_max" in state:
            end, what = state["T_max"], "rises again after"
        elif "power" in state:
            end = state["total_iters"]
        if end is not None:
            reason = f"the learning-rate schedule {what} step {end:,}: train longer in a new run"
            return min(2 * step, end), reason if step >= end else ""
    return 2 * step, ""
