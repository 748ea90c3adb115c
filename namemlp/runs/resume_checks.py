"""What must be as it was when a checkpoint is used again, and what is reset where it is not."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from namemlp.datamodule import NamesDataModule
from namemlp.errors import UserError
from namemlp.runs.reading import TRAINER_KEYS, hparams_from_checkpoint

# The shape must stay for anything at all; data and steps where training is resumed.
SHAPE_KEYS = ["data.vocabulary", "model.context_length", "model.embedding_dim", "model.hidden_size"]
DATA_KEYS = ["seed_everything", "data.lowercase", "data.split", "data.shuffles", "data.split_seed", "data.duplicates"]
DATA_KEYS += ["data.replacement"]
STEP_KEYS = ["model.dropout", "model.init", "model.init_seed", "model.network.dropout", "model.network.init"]
STEP_KEYS += [f"trainer.{name}" for name in TRAINER_KEYS]
STEP_SIZE = "examples per step (data.batch_size x processes)"


def check_resume(
    path: Path, checkpoint: dict, given: dict, data: NamesDataModule, command: str, world_size: int, allow_changes: bool
) -> list[str]:
    """Raise a UserError for settings or a list under which a checkpoint cannot be used, or resumed exactly.

    Where changes are allowed, what they touch is reset in the checkpoint: the optimizer and its schedule, or the
    training examples, which start with a new epoch. Returns a sentence for each.
    """
    saved, ours = flatten(hparams_from_checkpoint(checkpoint)), flatten(given)
    ours["data.vocabulary"] = data.vocabulary.characters
    names = sorted(saved | ours)

    def mismatches(names: Iterable[str]) -> list[str]:
        values = ((name.replace(".init_args", ""), ours.get(name), saved.get(name)) for name in names)
        return [f"{name} is {new} here but {old} in {path}" for name, new, old in values if new != old]

    is_fit = command == "fit"
    data_changes, optimizer_changes, step_changes = [], [], []
    if is_fit:
        saved_world_size = checkpoint.get("trainer", {}).get("world_size", 1)
        for settings, processes in ((ours, world_size), (saved, saved_world_size)):
            settings[STEP_SIZE] = settings["data.batch_size"] * processes
        data_changes = mismatches([*DATA_KEYS, "data.batch_size" if world_size == saved_world_size else STEP_SIZE])
        for part in ("optimizer", "lr_scheduler"):
            differences = mismatches(name for name in names if name.startswith(part))  # the class first
            is_same_class = ours.get(f"{part}.class_path") == saved.get(f"{part}.class_path")
            optimizer_changes += differences if is_same_class else differences[:1]
        step_changes = mismatches(name for name in STEP_KEYS if name in saved)
    # A changed list would be split differently, and names that were trained on would come up in validation.
    is_same_path = ours["data.path"] == saved.get("data.path", ours["data.path"])
    sha256 = checkpoint.get("NamesDataModule", {}).get("sha256")
    is_other_list = data.splits.sha256 != sha256
    if is_other_list and (is_fit or (command != "predict" and is_same_path and sha256)):
        data_changes.append(
            f"{data.source} (SHA-256 {data.splits.sha256[:8]}…) is not the list that {path} was trained on, which was "
            f"{saved.get('data.path') or 'the bundled one'} as it was then ({str(sha256)[:8]}…)"
        )
    networks = [settings.get("model.network.name", settings.get("model.network", "mlp")) for settings in (ours, saved)]
    if networks[0] != networks[1]:
        raise UserError(
            f"model.network is {networks[0]} here but {networks[1]} in {path}: match it, or start a new run"
        )
    of_network = (name for name in names if name.startswith("model.network.") and name not in STEP_KEYS)
    shape_changes = mismatches([*SHAPE_KEYS, *of_network])
    changes = data_changes + optimizer_changes + step_changes
    if changes and not allow_changes:
        way_out = "match it" if len(changes) == 1 else "match them"
        sentence = f"{'; '.join(changes)}: {way_out}, start a new run, or pass --allow_changes"
        if is_fit and not (is_same_path and is_other_list) and saved_world_size == 1:
            sentence += f"; `namemlp fit --ckpt_path {path}` takes the run's own settings"
        raise UserError(sentence)
    if shape_changes:
        raise UserError(f"{shape_changes[0]}, whose weights have that shape: match it, or start a new run")
    if optimizer_changes:
        checkpoint["optimizer_states"], checkpoint["lr_schedulers"] = [], []
    if is_fit and data_changes:
        reset_to_epoch_start(checkpoint)
    return changes


def is_finished(checkpoint: dict[str, Any], trainer: Any) -> bool:
    """Whether a checkpoint has all the steps, or all the epochs, that are asked for."""
    has_all_steps = 0 <= trainer.max_steps <= checkpoint["global_step"]
    if has_all_steps or trainer.max_epochs is None or trainer.max_epochs < 0:
        return has_all_steps
    loop = checkpoint["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]
    is_at_end = loop["epoch_loop.batch_progress"]["is_last_batch"] and epochs["processed"] < epochs["ready"]
    return trainer.max_epochs <= epochs["processed"] + is_at_end


def reset_to_epoch_start(checkpoint: dict[str, Any]) -> None:
    """Have a run be resumed at the start of an epoch, whatever its examples are now."""
    loop = checkpoint["loops"]["fit_loop"]
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    for counts in (epochs["current"], epochs["total"], batches["total"]):
        counts.update(dict.fromkeys(counts, counts["ready"]))
    batches["current"].update(dict.fromkeys(batches["current"], 0))
    batches["is_last_batch"], loop["state_dict"] = False, {}  # the state of the loader


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their full names, such as optimizer.init_args.lr."""
    named = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            named |= flatten(value, f"{prefix}{name}.")
        else:
            named[prefix + name] = list(value) if isinstance(value, tuple) else value
    return named
