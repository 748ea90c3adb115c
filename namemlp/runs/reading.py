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
from torch import nn

from namemlp import NETWORKS
from namemlp.errors import UserError, shorten
from namemlp.network import build_network, network_settings
from namemlp.runs.folders import LOG_DIR, find_checkpoints

# What pickled tensors and plain values name. All else is refused, also what torch itself takes to be harmless.
ALLOWED_GLOBALS = re.compile(
    r"collections (OrderedDict|Counter|defaultdict)|(builtins|__builtin__) (set|dict|list|int|float)|"
    r"torch\._utils (_rebuild_tensor_v[23]|_rebuild_parameter)|torch (\w+Storage|u?int\d+|b?float\d+|Size|device)"
)
IMPORTS = ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4")
MAX_VALUES = 1_000_000  # in a checkpoint; ours have some thousand
NO_NETWORKS = ("namemlp", "torch", "lightning", "torchmetrics")  # whose other classes a checkpoint does not name
REQUIRED_KEYS = {"hyper_parameters", "state_dict", "global_step", "pytorch-lightning_version"}
RESUME_KEYS = {"loops", "callbacks", "optimizer_states", "lr_schedulers"}
# The Trainer's settings that decide what a step is, and the only ones that a checkpoint may give.
TRAINER_KEYS = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "precision")
ENTRIES = re.compile(r"[^/]+/(data\.pkl|data/\d+|version|byteorder|\.\w+|\.data/\w+)")  # of a file by torch.save


class UnsafeCheckpointError(UserError):
    """A checkpoint that is made to do harm: to run code, to take more memory than it is large, to reach other files."""


def open_checkpoint(selector: str | None, root: Path, is_fit: bool, command: str) -> tuple[Path, dict[str, Any]]:
    """The path and content of a checkpoint, given by its path or as `last` or `best`: of the newest run below a folder.

    A damaged one is skipped for the previous one, which is said on stderr. Raises: UserError: there is none.
    """
    if selector is None:
        raise UserError(f"{command} needs a checkpoint: --ckpt_path last, or the path of one")
    if selector not in ("last", "best"):
        path = Path(selector)
        if not path.is_file():
            reason = "is a folder" if path.is_dir() else "no such file"
            raise UserError(f"--ckpt_path {path}: {reason}; give a .ckpt file, or last for the newest run's last one")
        return path, read_checkpoint(path, is_fit)
    damaged = {}
    for path in find_checkpoints(selector, root):
        try:
            checkpoint = read_checkpoint(path, is_fit)
        except UnsafeCheckpointError:
            raise
        except UserError as error:
            damaged[path] = error
        else:
            for skipped in damaged:
                print(f"namemlp: skipping damaged {skipped}; using {path}", file=sys.stderr)
            return path, checkpoint
    nothing = f"--ckpt_path {selector}: no run in {root / LOG_DIR} has a checkpoint; run fit first or give a path"
    raise next(iter(damaged.values()), UserError(nothing))


def read_checkpoint(path: Path, is_fit: bool = False) -> dict[str, Any]:
    """Read a checkpoint. Raises: UserError: it is unsafe, damaged, not ours, or (for fit) contains weights only."""
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
    start = file.tell()
    try:
        check_archive(file)
        file.seek(start)
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        check_values(checkpoint, is_name_module)
        hparams_from_checkpoint(checkpoint)
        names = checkpoint.get("training_names", torch.zeros(0, dtype=torch.int32))
        is_valid = (names.dtype, names.dim()) == (torch.int32, 1) and 0 <= checkpoint["global_step"] < 2**63
        if not (is_valid and checkpoint.keys() >= REQUIRED_KEYS):
            raise ValueError("a value is missing or not valid")
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(f"{path} {error}: give another --ckpt_path") from error
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(f"{path} is not a checkpoint of namemlp, or it is damaged: give another --ckpt_path") from error
    finally:
        file.seek(start) if file is path else file.close()
    if "known_names" in checkpoint:
        raise UserError(f"{path} was saved by namemlp 0.1, whose checkpoints this version does not read: train again")
    return checkpoint


def check_archive(file: IO[bytes]) -> None:
    """Look into a file before torch does, which does not notice a changed bit. Raises: Exception: it is damaged."""
    start, size = file.tell(), file.seek(0, os.SEEK_END)
    if not zipfile.is_zipfile(file):
        file.seek(start)
        check_pickle(file.read(2**20))
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        is_plain = all(e.compress_type == zipfile.ZIP_STORED and ENTRIES.fullmatch(e.filename) for e in entries)
        if not is_plain or sum(entry.file_size for entry in entries) > size:
            raise UnsafeCheckpointError("is packed as torch never does, and may hold more than its size")
        for entry in entries:
            content = archive.read(entry)  # an error where a bit has changed
            if entry.filename.endswith(".pkl"):
                check_pickle(content)


def check_pickle(pickled: bytes) -> None:  # refuse one that names anything but what tensors and plain values need
    strings = ["", ""]  # the last two, which are what STACK_GLOBAL names unless it has been made to mislead
    for operation, argument, _ in pickletools.genops(pickled):
        if isinstance(argument, str) and "\0" in argument:  # where torch would take a name to end
            raise UnsafeCheckpointError("has a NUL in a name")
        if "UNICODE" in operation.name:
            strings = [strings[1], argument]
        named = " ".join(strings) if operation.name == "STACK_GLOBAL" else argument or operation.name
        if operation.name in IMPORTS and not (operation.name == "GLOBAL" and ALLOWED_GLOBALS.fullmatch(named)):
            raise UnsafeCheckpointError(f"would run code ({str(named).replace(' ', '.')}) and is not read")


def check_values(checkpoint: dict[str, Any], is_name_module: bool) -> None:
    """Look at all values of a checkpoint before anything is built from them."""
    values = [checkpoint]
    for value in values:  # which grows on the way
        if torch.is_tensor(value):
            if value.layout != torch.strided or value.nbytes > value.untyped_storage().nbytes():
                raise UnsafeCheckpointError("holds a tensor larger than its memory")
        elif isinstance(value, dict):
            values += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            values += value
        if len(values) > MAX_VALUES:
            raise UnsafeCheckpointError(f"holds more than {MAX_VALUES:,} values")
    if is_name_module:
        check_shapes(checkpoint["hyper_parameters"], checkpoint["state_dict"])
    for state in checkpoint.get("callbacks", {}).values():
        if isinstance(state, dict) and "best_k_models" in state:  # what it names as its own ModelCheckpoint removes
            inside = os.path.normpath(state.get("dirpath") or "") + os.sep
            for path in [state.get("kth_best_model_path"), state.get("last_model_path"), *state["best_k_models"]]:
                if path and not os.path.normpath(path).startswith(inside):
                    raise UnsafeCheckpointError(f"names {path} as a checkpoint of its run")


def check_shapes(hparams: dict[str, Any], state_dict: dict[str, Any]) -> None:
    """Compare the tensors that settings ask for with those that are there, before memory is taken for them."""
    network, shapes = hparams.get("network", "mlp"), {}
    name = network.get("name") if isinstance(network, dict) else network
    if not isinstance(name, str) or (name not in NETWORKS and name.split(".")[0] in NO_NETWORKS):
        raise UnsafeCheckpointError(f"has {shorten(str(network))} as its network")
    if network == "mlp":
        V, T = len(hparams["vocabulary"]), hparams["context_length"]
        C, H = hparams["embedding_dim"], hparams["hidden_size"]
        shapes = {"embedding.weight": (V, C), "hidden.weight": (H, T * C), "output.weight": (V, H)}
    elif name in NETWORKS:
        numbers = sum(tensor.numel() for tensor in state_dict.values())
        limits = {"num_layers": len(state_dict), "context_length": max(numbers, 2**16)}
        settings = {"context_length": hparams["context_length"], **network_settings(network)}
        for setting, size in settings.items():
            if isinstance(size, int) and size > limits.get(setting, numbers):
                raise UnsafeCheckpointError(f"says that {setting} is {size:,}, for which it holds too little")
        with torch.device("meta"):  # tensors without memory
            shapes = {name: tuple(p.shape) for name, p in build_network(hparams).state_dict().items()}
    for name, shape in shapes.items():
        saved = tuple(state_dict[f"network.{name}"].shape)
        if saved != shape:
            raise UnsafeCheckpointError(f"holds network.{name} as {saved} but says it is {shape}")


def hparams_from_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The settings that a checkpoint was trained with, by their names on the command line."""
    model, data = dict(checkpoint["hyper_parameters"]), dict(checkpoint.get("datamodule_hyper_parameters", {}))
    trainer = {name: value for name, value in checkpoint.get("trainer", {}).items() if name in TRAINER_KEYS}
    parts = {name: model.pop(name) for name in ("optimizer", "lr_scheduler")}
    if "seed" in data:
        parts["seed_everything"] = data.pop("seed")
    data["vocabulary"] = model.pop("vocabulary")
    data.setdefault("duplicates", "keep")  # version 0.1 had no such setting
    data.pop("context_length", None)  # follows from the model's
    model, data, trainer = (
        {f"{part}.{name}": value for name, value in values.items()}
        for part, values in {"model": model, "data": data, "trainer": trainer}.items()
    )
    return model | parts | data | trainer  # what is tried most comes first


def trainer_settings(trainer: Any) -> dict[str, Any]:  # those that a checkpoint keeps, as plain values
    settings = {name: getattr(trainer, name) for name in (*TRAINER_KEYS, "world_size")}
    return {name: getattr(value, "value", value) for name, value in settings.items()}


def is_finite(module: nn.Module) -> bool:  # whether its weights are numbers, or its run has diverged
    return all(bool(weights.isfinite().all()) for weights in module.parameters())
