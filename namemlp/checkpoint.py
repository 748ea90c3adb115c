"""Find and read the checkpoints of runs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from namemlp.corpus import Corpus
from namemlp.errors import UserError

RUNS = "lightning_logs"
# What must be as in a checkpoint: the shape for anything at all, the rest for going on with the same updates.
SHAPE = ("data.vocabulary", "model.context_length", "model.embedding_dim", "model.hidden_size")
UPDATES = (
    "seed_everything",
    *(f"data.{name}" for name in ("lowercase", "split", "shuffles", "split_seed", "batch_size", "replacement")),
    *(f"trainer.{name}" for name in ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")),
    "trainer.precision",
)


def find_checkpoint(which: str, root: Path) -> Path:
    """The path of a checkpoint: `last` or `best` of the newest run below a folder, or a path as it is.

    The newest run is the one whose checkpoint was written last.

    Raises:
        UserError: there is none.
    """
    if which in ("last", "best"):
        found = (root / RUNS).glob(f"version_*/checkpoints/{which}*.ckpt")
        newest = max(filter(Path.is_file, found), key=lambda path: path.stat().st_mtime_ns, default=None)
        if newest is None:
            raise UserError(
                f"--ckpt_path {which}: no run in {root / RUNS} has a checkpoint; run fit first or give a path"
            )
        return newest
    path = Path(which)
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"--ckpt_path {which}: {reason}; give a .ckpt file, or last for the newest run's last one")
    return path


def read_checkpoint(path: Path, fitting: bool) -> dict[str, Any]:
    """A checkpoint of this program, read without running anything that it may hold.

    Raises:
        UserError: the file is damaged, is not such a checkpoint, or (for fitting) has only the weights.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        settings_of(checkpoint)
        whole = {"NamesDataModule", "state_dict", "global_step", "pytorch-lightning_version"} <= checkpoint.keys()
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(f"{path} is not a checkpoint of namemlp, or it is damaged: give another --ckpt_path") from error
    if not whole:
        raise UserError(f"{path} is a checkpoint with parts missing: give another --ckpt_path")
    if fitting and not {"loops", "callbacks", "optimizer_states", "lr_schedulers"} <= checkpoint.keys():
        raise UserError(f"{path} has only the weights, which is not enough to train on: give another --ckpt_path")
    return checkpoint


def settings_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The settings that a checkpoint was trained with, by their names on the command line."""
    model = dict(checkpoint["hyper_parameters"])
    data = dict(checkpoint["datamodule_hyper_parameters"])
    settings = {name: model.pop(name) for name in ("optimizer", "lr_scheduler")}
    settings["seed_everything"] = data.pop("seed")
    data["vocabulary"] = model.pop("vocabulary")
    del data["context_length"]  # follows from the model's
    settings.update({f"model.{name}": value for name, value in model.items()})
    settings.update({f"data.{name}": value for name, value in data.items()})
    settings.update({f"trainer.{name}": value for name, value in checkpoint["trainer"].items()})
    return settings


def check_settings(path: Path, checkpoint: dict[str, Any], given: dict[str, Any], corpus: Corpus, command: str) -> None:
    """Refuse settings under which a checkpoint cannot be used, or (for fit) not go on as it was.

    Raises:
        UserError: a setting, or the list of names, is not the checkpoint's.
    """
    saved, ours = flat(settings_of(checkpoint)), flat(given)
    ours["data.vocabulary"] = corpus.vocabulary.characters

    def refuse_other(names: Iterable[str]) -> None:
        for name in names:
            if ours.get(name) != saved.get(name):
                raise UserError(
                    f"{name.replace('.init_args', '')} is {ours.get(name)} here but {saved.get(name)} in {path}: "
                    "set it to that, or train a new model"
                )

    if command == "fit":
        refuse_other(UPDATES)
        refuse_other(sorted(name for name in saved | ours if name.startswith(("optimizer", "lr_scheduler"))))
    # A list that has changed would be split anew, and names that were trained on would come up in validation.
    same_list = command == "fit" or (command != "predict" and ours["data.path"] == saved["data.path"])
    if same_list and corpus.digest != checkpoint["NamesDataModule"]["corpus"]:
        raise UserError(
            f"{corpus.source} is not the list that {path} was trained on, which was "
            f"{saved['data.path'] or 'the bundled one'} as it was then: set data.path to that, or train a new model"
        )
    refuse_other(SHAPE)


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their full names, such as optimizer.init_args.lr."""
    named = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            named |= flat(value, f"{prefix}{name}.")
        else:
            named[prefix + name] = list(value) if isinstance(value, tuple) else value
    return named
