"""Checkpoints and config files that are made to do harm: refused by name, and nothing of them is run."""

import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch

LAST = "lightning_logs/version_0/checkpoints/last.ckpt"


class Attack:
    """Unpickled, it makes the file `harm`."""

    def __reduce__(self):
        return os.system, ("touch harm",)


class Reserve:
    """Unpickled, it takes a terabyte of memory; torch itself lets it."""

    def __reduce__(self):
        return bytearray, (10**12,)


def repacked(change, compression=zipfile.ZIP_STORED):
    """The file of a checkpoint with the entries {name: content} changed."""
    with zipfile.ZipFile(LAST) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def pickled(value, protocol):
    def change(entries):
        entries[next(name for name in entries if name.endswith("data.pkl"))] = pickle.dumps(value, protocol)

    return repacked(change)


def changed(**values):
    """The file of a checkpoint with other values: a__b is what checkpoint["a"]["b"] becomes."""
    checkpoint = torch.load(LAST, weights_only=True)
    for names, value in values.items():
        *folders, name = names.split("__")
        place = checkpoint
        for folder in folders:
            place = place[folder]
        place[name] = value
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()


def bomb():
    """Forty lists, each of which holds the one before twice: a tree of 2**40."""
    tree = []
    for _ in range(40):
        tree = [tree, tree]
    return changed(callbacks__bomb={"tree": tree})


def elsewhere():
    saved = {"dirpath": str(Path(LAST).parent), "best_k_models": {f"{Path(LAST).parent}/../../../names.txt": 1.0}}
    return changed(callbacks={"ModelCheckpoint": saved})


OPTIMIZER = {"class_path": "os.system", "init_args": {"command": "touch harm"}}
HOSTILE = {
    "pickle": (lambda: pickle.dumps(Attack()), "is not a checkpoint of namemlp, or it is damaged"),
    "protocol 2": (lambda: pickled({"state_dict": Attack()}, 2), r"would run code \(posix.system\) and is not read"),
    "protocol 4": (lambda: pickled({"state_dict": Attack()}, 4), r"would run code \(STACK_GLOBAL\) and is not read"),
    "memory": (lambda: pickled({"state_dict": Reserve()}, 2), r"would run code \(__builtin__.bytearray\) and is not"),
    "packed": (lambda: repacked(lambda entries: None, zipfile.ZIP_DEFLATED), "holds more than its size"),
    "tree": (bomb, "holds more than 1,000,000 values"),
    "size": (
        lambda: changed(hyper_parameters__hidden_size=10**10),
        r"holds network.hidden.weight as \(20, 15\) but says it is \(10000000000, 15\)",
    ),
    "tensor": (
        lambda: changed(optimizer_states=[torch.zeros(1).expand(10**12)]),
        "holds a tensor larger than its memory",
    ),
    "files": (elsewhere, "names .*names.txt as a checkpoint of its run"),
    "optimizer": (lambda: changed(hyper_parameters__optimizer=OPTIMIZER), "optimizer cannot be .*os.system"),
    "scheduler": (lambda: changed(hyper_parameters__lr_scheduler=OPTIMIZER), "lr_scheduler cannot be .*os.system"),
}


@pytest.mark.parametrize("subcommand", ["fit", "predict"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_is_refused_and_runs_nothing(fit, namemlp, name, subcommand):
    fit(5)
    make, sentence = HOSTILE[name]
    Path("hostile.ckpt").write_bytes(make())
    result = namemlp(subcommand, "--ckpt_path=hostile.ckpt")
    assert re.match(rf"namemlp: error: .*{sentence}", result.err), result.err
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert not Path("harm").exists()
