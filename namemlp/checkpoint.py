"""Find and read the checkpoints of runs."""

from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from namemlp.corpus import Corpus
from namemlp.errors import UserError

RUNS = "lightning_logs"
# What must be as in a checkpoint: the shape for anything at all, the rest for training on with the same examples.
SHAPE = ("model.context_length", "model.embedding_dim", "model.hidden_size")
EXAMPLES = (
    "seed_everything",
    *(f"data.{name}" for name in ("lowercase", "split", "shuffles", "split_seed", "batch_size", "replacement")),
)


def find_checkpoint(which: str, root: Path) -> Path:
    """The path of a checkpoint: `last` or `best` of the newest run below a folder, or a path as it is.

    The newest run is the one whose checkpoint was written last.

    Raises:
        UserError: there is none.
    """
    if which in ("last", "best"):
        found = (root / RUNS).glob(f"version_*/checkpoints/{which}*.ckpt")
        newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of this program, read without running anything that it may hold.

    Raises:
        UserError: the file is damaged, or not such a checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        settings_of(checkpoint), checkpoint["NamesDataModule"]["corpus"], checkpoint["global_step"]
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(f"{path} is not a checkpoint of namemlp, or it is damaged: give another --ckpt_path") from error
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
    return settings


def check_settings(path: Path, checkpoint: dict[str, Any], given: Namespace, corpus: Corpus | None) -> None:
    """Refuse settings under which a checkpoint cannot be used, or (where a corpus is given) be trained on.

    Raises:
        UserError: a setting, or the list of names, is not the checkpoint's.
    """
    saved = settings_of(checkpoint)
    for name in SHAPE + (EXAMPLES if corpus else ()):
        ours, theirs = (list(value) if isinstance(value, tuple) else value for value in (given[name], saved[name]))
        if ours != theirs:
            raise UserError(f"{name} is {ours} here but {theirs} in {path}: set it to that, or train a new model")
    if corpus and corpus.digest != checkpoint["NamesDataModule"]["corpus"]:
        raise UserError(
            f"{corpus.source} is not the list that {path} was trained on, which was "
            f"{saved['data.path'] or 'the bundled one'}: set data.path to that, or train a new model"
        )
