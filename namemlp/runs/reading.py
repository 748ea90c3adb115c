"""Read checkpoints safely: nothing in one is run, and nothing in one is believed."""

import os
import pickletools
import re
import sys
import zipfile
from pathlib import Path
from typing import IO, Any

import fsspec
import torch
from torch import Tensor

from namemlp.errors import UserError
from namemlp.runs.folders import LOG_DIR, find_checkpoints

# What pickled tensors and plain values name. All else is refused, also what torch itself takes to be harmless.
ALLOWED_GLOBALS = re.compile(
    r"collections (OrderedDict|Counter|defaultdict)|(builtins|__builtin__) (set|dict|list|int|float)|"
    r"torch\._utils (_rebuild_tensor_v[23]|_rebuild_parameter)|torch (\w+Storage|u?int\d+|b?float\d+|Size|device)"
)
IMPORTS = ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4")
MAX_VALUES = 1_000_000  # in a checkpoint; ours have some thousand
REQUIRED_KEYS = {"hyper_parameters", "state_dict", "global_step", "pytorch-lightning_version"}
RESUME_KEYS = {"loops", "callbacks", "optimizer_states", "lr_schedulers"}
# The Trainer's settings that decide what a step is, and the only ones that a checkpoint may give.
TRAINER_KEYS = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "precision")
ENTRIES = re.compile(r"[^/]+/(data\.pkl|data/\d+|version|byteorder|\.\w+|\.data/\w+)")  # of a file by torch.save


class UnsafeCheckpointError(UserError):
    """A checkpoint that is made to do harm."""


def open_checkpoint(selector: str | None, root: Path, is_fit: bool, command: str) -> tuple[Path, dict[str, Any]]:
    """The path and the content of a checkpoint: of a path, or of `last` or `best` of the newest run below a folder.

    A damaged one of a run is skipped for the previous one, which is said on stderr.

    Raises: UserError: there is none.
    """
    if selector is None:
        raise UserError(f"{command} needs a checkpoint: --ckpt_path last, or the path of one")
    if selector not in ("last", "best"):
        path = Path(selector)
        if not path.is_file():
            reason = "is a folder" if path.is_dir() else "no such file"
            raise UserError(f"--ckpt_path {path}: {reason}; give a .ckpt file, or last for the newest run's last one")
        return path, read_checkpoint(path, is_fit)
    errors, skipped = [], []
    for path in find_checkpoints(selector, root):
        try:
            checkpoint = read_checkpoint(path, is_fit)
        except UnsafeCheckpointError:
            raise
        except UserError as error:
            errors.append(error)
            skipped.append(f"namemlp: skipping damaged {path}; using")
        else:
            for message in skipped:
                print(message, path, file=sys.stderr)
            return path, checkpoint
    if errors:
        raise errors[0]
    raise UserError(
        f"--ckpt_path {selector}: no run in {root / LOG_DIR} has a checkpoint; run fit first or give a path"
    )


def read_checkpoint(path: Path, is_fit: bool = False) -> dict[str, Any]:
    """A checkpoint of this program, read without running anything in it.

    Raises:
        UnsafeCheckpointError: the file is made to run code, to take more memory than it is large, or to reach for
            other files.
        UserError: it is damaged, is no such checkpoint, or (for fit) contains weights only.
    """
    checkpoint = check_checkpoint(path)
    if is_fit and not (checkpoint.keys() >= RESUME_KEYS and checkpoint["optimizer_states"]):
        raise UserError(f"{path} contains weights only; cannot resume training: give another --ckpt_path")
    if is_fit and "sha256" not in checkpoint.get("NamesDataModule", {}):
        raise UserError(f"{path} does not say which list it was trained on; cannot resume training from it here")
    return checkpoint


def check_checkpoint(path: Any, is_name_module: bool = True) -> dict[str, Any]:
    """The content of a checkpoint, a path or URL or a file object. Raises: UserError: as `read_checkpoint`."""
    try:
        file = path if hasattr(path, "read") else fsspec.open(str(path), "rb").open()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(f"{path}: {reason}; give another --ckpt_path") from error
    start, damaged = file.tell(), f"{path} is not a checkpoint of namemlp, or it is damaged: give another --ckpt_path"
    try:
        check_archive(file, path)
        file.seek(start)
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        check_values(checkpoint, path, is_name_module)
        hparams_from_checkpoint(checkpoint)
        names = checkpoint.get("training_names", torch.zeros(0, dtype=torch.int32))
        is_whole = names.dtype == torch.int32 and names.dim() == 1 and 0 <= checkpoint["global_step"] < 2**63
        is_whole = is_whole and checkpoint.keys() >= REQUIRED_KEYS
    except UnsafeCheckpointError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(damaged) from error
    finally:
        file.seek(start) if file is path else file.close()
    if "known_names" in checkpoint:
        raise UserError(f"{path} was saved by namemlp 0.1, whose checkpoints this version does not read: train again")
    if not is_whole:
        raise UserError(damaged)
    return checkpoint


def check_archive(file: IO[bytes], name: Any) -> None:
    """Look into a file before torch does.

    Raises:
        UnsafeCheckpointError: loading it would run code or take far more memory than the file is large.
        Exception: it is damaged. (torch.load does not notice a changed bit.)
    """
    start, size = file.tell(), file.seek(0, os.SEEK_END)
    file.seek(start)
    if not zipfile.is_zipfile(file):
        file.seek(start)
        check_pickle(file.read(2**20), name)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        is_packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        is_packed = is_packed or not all(ENTRIES.fullmatch(entry.filename) for entry in entries)
        if is_packed or sum(entry.file_size for entry in entries) > size:
            raise UnsafeCheckpointError(
                f"{name} is packed as torch never does, and may hold more than its size: give another --ckpt_path"
            )
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                check_pickle(archive.read(entry), name)
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged")


def check_pickle(pickled: bytes, name: Any) -> None:
    """Refuse a pickle that names anything but what tensors and plain values need."""
    strings = ["", ""]  # the last two, which are what STACK_GLOBAL names unless it has been made to mislead
    for operation, argument, _ in pickletools.genops(pickled):
        if isinstance(argument, str) and "\0" in argument:  # where torch would take a name to end
            raise UnsafeCheckpointError(f"{name} has a NUL in a name: give another --ckpt_path")
        if "UNICODE" in operation.name:
            strings = [strings[1], argument]
        named = " ".join(strings) if operation.name == "STACK_GLOBAL" else argument or operation.name
        if operation.name in IMPORTS and not (operation.name == "GLOBAL" and ALLOWED_GLOBALS.fullmatch(named)):
            code = str(named).replace(" ", ".")
            raise UnsafeCheckpointError(f"{name} would run code ({code}) and is not read: give another --ckpt_path")


def check_values(checkpoint: dict[str, Any], name: Any, is_name_module: bool) -> None:
    """Look at all values of a checkpoint before anything is built from them.

    Raises:
        UnsafeCheckpointError: they would take far more memory than the file is large, or name files outside their
            folder.
    """
    count, waiting = 0, [checkpoint]
    while waiting:
        value = waiting.pop()
        count += 1
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.nbytes > value.untyped_storage().nbytes():
                raise UnsafeCheckpointError(f"{name} holds a tensor larger than its memory: give another --ckpt_path")
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        if count + len(waiting) > MAX_VALUES:
            raise UnsafeCheckpointError(f"{name} holds more than {MAX_VALUES:,} values: give another --ckpt_path")
    hparams, weights = checkpoint["hyper_parameters"], checkpoint["state_dict"]
    if is_name_module and hparams.get("network", "mlp") == "mlp":
        V, C, H, T = len(hparams["vocabulary"]), *(hparams[key] for key in SIZES)
        for part, shape in {"embedding": (V, C), "hidden": (H, T * C), "output": (V, H)}.items():
            saved = tuple(weights[f"network.{part}.weight"].shape)
            if saved != shape:
                raise UnsafeCheckpointError(
                    f"{name} holds network.{part}.weight as {saved} but says it is {shape}: give another --ckpt_path"
                )
    for state in checkpoint.get("callbacks", {}).values():
        if not isinstance(state, dict) or "best_k_models" not in state:
            continue
        # ModelCheckpoint removes what its state names as its own.
        inside = os.path.normpath(state.get("dirpath") or "") + os.sep
        paths = [state.get("kth_best_model_path"), state.get("last_model_path"), *state["best_k_models"]]
        for path in filter(None, paths):
            if not os.path.normpath(path).startswith(inside):
                raise UnsafeCheckpointError(f"{name} names {path} as a checkpoint of its run: give another --ckpt_path")


SIZES = ("embedding_dim", "hidden_size", "context_length")


def hparams_from_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The settings that a checkpoint was trained with, by their names on the command line."""
    model, data = dict(checkpoint["hyper_parameters"]), dict(checkpoint.get("datamodule_hyper_parameters", {}))
    settings = {name: model.pop(name) for name in ("optimizer", "lr_scheduler")}
    if "seed" in data:
        settings["seed_everything"] = data.pop("seed")
    data["vocabulary"] = model.pop("vocabulary")
    data.pop("context_length", None)  # follows from the model's
    settings.update({f"model.{name}": value for name, value in model.items()})
    settings.update({f"data.{name}": value for name, value in data.items()})
    trainer = checkpoint.get("trainer", {})
    settings.update({f"trainer.{name}": trainer[name] for name in TRAINER_KEYS if name in trainer})
    return settings


def trainer_settings(trainer: Any) -> dict[str, Any]:
    """What a checkpoint keeps of the Trainer's settings, as plain values."""
    settings = {name: getattr(trainer, name) for name in (*TRAINER_KEYS, "world_size")}
    return {name: getattr(value, "value", value) for name, value in settings.items()}
