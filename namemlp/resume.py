"""What must be as it was when a checkpoint is used again, and what becomes of a run where it is not."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning import Trainer

from namemlp.checkpoint import TRAINER, settings_of
from namemlp.corpus import Corpus
from namemlp.errors import UserError

# The shape must stay for anything at all; order and updates where a run goes on.
SHAPE = ("data.vocabulary", "model.context_length", "model.embedding_dim", "model.hidden_size")
ORDER = (
    "seed_everything",
    *(f"data.{name}" for name in ("lowercase", "split", "shuffles", "split_seed", "batch_size", "replacement")),
)
UPDATES = ("model.dropout", *(f"trainer.{name}" for name in TRAINER))


def check_settings(
    path: Path,
    checkpoint: dict[str, Any],
    given: dict[str, Any],
    corpus: Corpus,
    command: str,
    devices: int = 1,
    allow_changes: bool = False,
) -> list[str]:
    """Refuse settings under which a checkpoint cannot be used, or its run not go on as it was.

    Where changes are allowed, what they touch is made to start anew in the checkpoint: the optimizer and its schedule,
    or an epoch of the training examples.

    Args:
        path: of the checkpoint.
        checkpoint: its content.
        given: the settings, by their names on the command line.
        corpus: the list of names.
        command: fit, validate, test or predict.
        devices: processes that train together.
        allow_changes: go on from the checkpoint, though not with the same updates.

    Returns:
        A sentence for each change that was allowed.

    Raises:
        UserError: a setting, or the list of names, is not the checkpoint's.
    """
    saved, ours = flat(settings_of(checkpoint)), flat(given)
    ours["data.vocabulary"] = corpus.vocabulary.characters

    def others(names: Iterable[str]) -> list[str]:
        return [
            f"{name.replace('.init_args', '')} is {ours.get(name)} here but {saved.get(name)} in {path}"
            for name in names
            if ours.get(name) != saved.get(name)
        ]

    fitting = command == "fit"
    order, optimizer, updates = [], [], []
    if fitting:
        if ours["data.batch_size"] * devices == checkpoint["NamesDataModule"]["train_loader"]["update_size"]:
            ours["data.batch_size"] = saved["data.batch_size"]  # as many examples in an update, on other devices
        order = others(ORDER)
        for part in ("optimizer", "lr_scheduler"):
            names = [f"{part}.class_path", *sorted(name for name in saved | ours if name.startswith(part))]
            optimizer += others(names)[:1]
        updates = others(UPDATES)
    # A list that has changed would be split anew, and names that were trained on would come up in validation.
    same_list = fitting or (command != "predict" and ours["data.path"] == saved["data.path"])
    if same_list and corpus.digest != (digest := checkpoint["NamesDataModule"]["corpus"]):
        order.append(
            f"{corpus.source} (SHA-256 {corpus.digest[:8]}…) is not the list that {path} was trained on, which was "
            f"{saved['data.path'] or 'the bundled one'} as it was then ({digest[:8]}…)"
        )
    shape = others(SHAPE)
    changes = order + optimizer + updates
    if changes and not allow_changes:
        raise UserError(f"{changes[0]}: set it to that, or train a new model, or say --allow_changes")
    if shape:
        raise UserError(f"{shape[0]}, whose weights have that shape: set it to that, or train a new model")
    if optimizer:
        checkpoint["optimizer_states"], checkpoint["lr_schedulers"] = [], []
    if fitting and order:
        begin_epoch(checkpoint)
    return changes


def is_finished(checkpoint: dict[str, Any], trainer: Trainer, num_examples: int) -> bool:
    """Whether a checkpoint has all the updates, or all the epochs, that are asked for."""
    if 0 <= trainer.max_steps <= checkpoint["global_step"]:
        return True
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        return False
    read = checkpoint["NamesDataModule"]["train_loader"]
    if "epoch" in read:
        return trainer.max_epochs <= read["epoch"]
    epoch = -(-num_examples // read["update_size"])  # updates
    return trainer.max_epochs * epoch <= read["batches_read"]


def begin_epoch(checkpoint: dict[str, Any]) -> None:
    """Have the run of a checkpoint go on at the start of an epoch, whatever its examples are now."""
    loop = checkpoint["loops"]["fit_loop"]
    for counts in (loop["epoch_progress"]["current"], loop["epoch_progress"]["total"]):
        counts.update(dict.fromkeys(counts, counts["ready"]))
    batches = loop["epoch_loop.batch_progress"]
    batches["current"].update(dict.fromkeys(batches["current"], 0))
    batches["total"].update(dict.fromkeys(batches["total"], batches["total"]["ready"]))
    batches["is_last_batch"] = False
    loop["state_dict"] = {}  # of the loader
    checkpoint["NamesDataModule"]["train_loader"] = {"epoch": loop["epoch_progress"]["current"]["ready"]}


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their full names, such as optimizer.init_args.lr."""
    named = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            named |= flat(value, f"{prefix}{name}.")
        else:
            named[prefix + name] = list(value) if isinstance(value, tuple) else value
    return named
