"""Read and write checkpoints: nothing in one is run, nothing in one is believed, and none is ever half written."""

import io
import os
import pickletools
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from namemlp.errors import MAKE_ROOM, UserError
from namemlp.runs import RUNS, checkpoints

# What pickled tensors and plain values name. All else is refused, also what torch itself takes to be harmless.
HARMLESS = re.compile(
    r"collections (OrderedDict|Counter)|torch\._utils _rebuild_tensor_v[23]|torch \w+Storage|torch u?int\d+"
)
IMPORTS = ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4")
LARGEST = 1_000_000  # values in a checkpoint; ours have some thousand
WEIGHTS = {"NamesDataModule", "state_dict", "global_step", "pytorch-lightning_version"}
TRAINING = {"loops", "callbacks", "optimizer_states", "lr_schedulers"}
# The Trainer's settings that decide what an update is, and the only ones that a checkpoint may give.
TRAINER = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "precision")
ENTRIES = re.compile(r"[^/]+/(data\.pkl|data/\d+|version|byteorder|\.\w+|\.data/\w+)")  # of a file by torch.save


class Hostile(UserError):
    """A checkpoint that is made to do harm."""


class CheckpointFiles(TorchCheckpointIO):
    """Reads checkpoints by `read_checkpoint`, and writes each so that a kill leaves the one before whole."""

    def __init__(self) -> None:
        self.checkpoint: dict[str, Any] | None = None  # already read; the next that is asked for

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        checkpoint, self.checkpoint = self.checkpoint, None
        return checkpoint or read_checkpoint(Path(path))

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        unfinished = path.with_name(f"{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(unfinished, "wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise UserError(f"{path} cannot be written ({error.strerror}): {MAKE_ROOM}") from error
        sync(path.parent)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, outlast a power cut."""
    if os.name == "nt" and path.is_dir():
        return  # cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_checkpoint(which: str, root: Path, fitting: bool) -> tuple[Path, dict[str, Any]]:
    """The path of a checkpoint and what `read_checkpoint` makes of it.

    Args:
        which: a path, or `last` or `best` of the newest run below the root. A damaged one is passed over for the one
            before, which is said on stderr.

    Raises:
        UserError: there is none.
    """
    if which not in ("last", "best"):
        path = Path(which)
        if not path.is_file():
            reason = "is a folder" if path.is_dir() else "no such file"
            raise UserError(f"--ckpt_path {which}: {reason}; give a .ckpt file, or last for the newest run's last one")
        return path, read_checkpoint(path, fitting)
    errors = []
    for path in checkpoints(which, root):
        try:
            checkpoint = read_checkpoint(path, fitting)
        except Hostile:
            raise
        except UserError as error:
            errors.append(error)
        else:
            for error in errors:
                print(f"namemlp: passed over: {error}; taking {path}", file=sys.stderr)
            return path, checkpoint
    if errors:
        raise errors[0]
    raise UserError(f"--ckpt_path {which}: no run in {root / RUNS} has a checkpoint; run fit first or give a path")


def read_checkpoint(path: Path, fitting: bool = False) -> dict[str, Any]:
    """A checkpoint of this program, read without running anything that it may hold.

    Raises:
        Hostile: the file is made to run code, to take more memory than it is large, or to reach for other files.
        UserError: the file is damaged, is not such a checkpoint, or (for fitting) has only the weights.
    """
    try:
        refuse_hostile_file(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        refuse_hostile_values(path, checkpoint)
        settings_of(checkpoint)
        loader = checkpoint["NamesDataModule"]["train_loader"]
        counts = [checkpoint["global_step"], loader["batches_read"], loader["update_size"]]
        whole = checkpoint.keys() >= WEIGHTS and isinstance(checkpoint["NamesDataModule"]["corpus"], str)
        known = checkpoint.get("known_names", torch.zeros(0, dtype=torch.int32))
        whole = whole and known.dtype == torch.int32 and known.dim() == 1
        whole = whole and all(type(count) is int and 0 <= count < 2**63 for count in counts)
    except Hostile:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give another --ckpt_path") from None
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(f"{path} is not a checkpoint of namemlp, or it is damaged: give another --ckpt_path") from error
    if not whole:
        raise UserError(f"{path} is a checkpoint with parts missing: give another --ckpt_path")
    if fitting and not (checkpoint.keys() >= TRAINING and checkpoint["optimizer_states"]):
        raise UserError(f"{path} has only the weights, which is not enough to train on: give another --ckpt_path")
    return checkpoint


def refuse_hostile_file(path: Path) -> None:
    """Look into a file before torch does.

    Raises:
        Hostile: loading it would run code or take far more memory than the file is large.
        Exception: it is damaged. (torch.load does not notice a changed bit.)
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            refuse_imports(path, file.read(2**20))
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        packed = packed or not all(ENTRIES.fullmatch(entry.filename) for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise Hostile(
                f"{path} is packed as torch never does, and may hold more than its size: give another --ckpt_path"
            )
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                refuse_imports(path, archive.read(entry))
        if broken := archive.testzip():
            raise ValueError(f"{broken} is damaged")


def refuse_imports(path: Path, pickled: bytes) -> None:
    """Refuse a pickle that names anything but what tensors and plain values need."""
    strings = ["", ""]  # the last two, which are what STACK_GLOBAL names unless it has been made to mislead
    for operation, argument, _ in pickletools.genops(pickled):
        if isinstance(argument, str) and "\0" in argument:  # where torch would take a name to end
            raise Hostile(f"{path} has a NUL in a name: give another --ckpt_path")
        if "UNICODE" in operation.name:
            strings = [strings[1], argument]
        named = " ".join(strings) if operation.name == "STACK_GLOBAL" else argument or operation.name
        if operation.name in IMPORTS and not (operation.name == "GLOBAL" and HARMLESS.fullmatch(named)):
            name = str(named).replace(" ", ".")
            raise Hostile(f"{path} would run code ({name}) and is not read: give another --ckpt_path")


def refuse_hostile_values(path: Path, checkpoint: dict[str, Any]) -> None:
    """Look at all values of a checkpoint before anything is built from them.

    Raises:
        Hostile: they would take far more memory than the file is large, or name files outside their folder.
        TypeError: it is something else than tensors and plain values.
    """
    count, waiting = 0, [checkpoint]
    while waiting:
        value = waiting.pop()
        count += 1
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.nbytes > value.untyped_storage().nbytes():
                raise Hostile(f"{path} holds a tensor larger than its memory: give another --ckpt_path")
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif not isinstance(value, (str, int, float, type(None))):
            raise TypeError(f"{type(value)} in a checkpoint")
        if count + len(waiting) > LARGEST:
            raise Hostile(f"{path} holds more than {LARGEST:,} values: give another --ckpt_path")
    settings, weights = checkpoint["hyper_parameters"], checkpoint["state_dict"]
    size, units = len(settings["vocabulary"]), settings["hidden_size"]
    expected = {
        "network.embedding.weight": (size, settings["embedding_dim"]),
        "network.hidden.weight": (units, settings["context_length"] * settings["embedding_dim"]),
        "network.output.weight": (size, units),
    }
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise Hostile(
                f"{path} holds {name} as {tuple(weights[name].shape)} but says it is {shape}: give another --ckpt_path"
            )
    for state in checkpoint.get("callbacks", {}).values():
        if not isinstance(state, dict):
            continue
        # ModelCheckpoint removes what its state names as its own.
        inside = os.path.normpath(state.get("dirpath") or "") + os.sep
        named = [state.get("kth_best_model_path"), state.get("last_model_path"), *state.get("best_k_models", ())]
        for name in filter(None, named):
            if not os.path.normpath(name).startswith(inside):
                raise Hostile(f"{path} names {name} as a checkpoint of its run: give another --ckpt_path")


def settings_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The settings that a checkpoint was trained with, by their names on the command line."""
    model = {"dropout": 0.0, **checkpoint["hyper_parameters"]}  # which older ones do not have
    data = dict(checkpoint["datamodule_hyper_parameters"])
    settings = {name: model.pop(name) for name in ("optimizer", "lr_scheduler")}
    settings["seed_everything"] = data.pop("seed")
    data["vocabulary"] = model.pop("vocabulary")
    del data["context_length"]  # follows from the model's
    settings.update({f"model.{name}": value for name, value in model.items()})
    settings.update({f"data.{name}": value for name, value in data.items()})
    settings.update({f"trainer.{name}": checkpoint["trainer"][name] for name in TRAINER})
    return settings


def trainer_settings(trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint keeps of the Trainer's settings, as plain values."""
    return {name: getattr(getattr(trainer, name), "value", getattr(trainer, name)) for name in TRAINER}
