"""Malicious checkpoints and config files: an error names the reason, and nothing in them is run."""

import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch

from namemlp import NameModule, UserError
from tests.helpers import SMALL
from tests.processes import Command

LAST = "lightning_logs/version_0/checkpoints/last.ckpt"


class Attack:
    """Creates the file `harm` when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch harm",)


class HugeAllocation:
    """Takes a terabyte of memory when it is unpickled; torch itself allows it."""

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


def aliased_storage():
    """One storage record under several names: torch would read it once for each."""

    def change(entries):
        [pickled] = (name for name in entries if name.endswith("data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        content = entries[pickled].replace(b"X\x01\x00\x00\x000q", b"X\x01\x00\x00\x00aq", 1)
        entries[f"{folder}data/a"] = entries.pop(f"{folder}data/0")
        entries[pickled] = content

    return repacked(change)


def nul_in_name():
    return changed(hyper_parameters__init="notebook\0")


def nested_lists():
    """Forty lists, each of which contains the previous one twice: a tree of 2**40."""
    tree = []
    for _ in range(40):
        tree = [tree, tree]
    return changed(callbacks__bomb={"tree": tree})


def outside_path():
    saved = {"dirpath": str(Path(LAST).parent), "best_k_models": {f"{Path(LAST).parent}/../../../names.txt": 1.0}}
    return changed(callbacks={"ModelCheckpoint": saved})


OPTIMIZER = {"class_path": "os.system", "init_args": {"command": "touch harm"}}
HOSTILE = {
    "pickle": (lambda: pickle.dumps(Attack()), r"would run code \(posix.system\) and is not read"),
    "old pickle": (lambda: pickle.dumps(Attack(), 0), r"would run code \(posix.system\) and is not read"),
    "protocol 2": (lambda: pickled({"state_dict": Attack()}, 2), r"would run code \(posix.system\) and is not read"),
    "protocol 4": (lambda: pickled({"state_dict": Attack()}, 4), r"would run code \(posix.system\) and is not read"),
    "memory": (lambda: pickled({"state_dict": HugeAllocation()}, 2), r"would run code \(__builtin__.bytearray\)"),
    "packed": (lambda: repacked(lambda entries: None, zipfile.ZIP_DEFLATED), "may hold more than its size"),
    "aliases": (aliased_storage, "may hold more than its size"),
    "nul": (nul_in_name, "has a NUL in a name"),
    "tree": (nested_lists, "holds more than 1,000,000 values"),
    "size": (
        lambda: changed(hyper_parameters__hidden_size=10**10),
        r"holds network.hidden.weight as \(20, 15\) but says it is \(10000000000, 15\)",
    ),
    "tensor": (
        lambda: changed(optimizer_states=[torch.zeros(1).expand(10**12)]),
        "holds a tensor larger than its memory",
    ),
    "files": (outside_path, "names .*names.txt as a checkpoint of its run"),
    "optimizer": (lambda: changed(hyper_parameters__optimizer=OPTIMIZER), "invalid value .*os.system.* for optimizer"),
    "scheduler": (
        lambda: changed(hyper_parameters__lr_scheduler=OPTIMIZER),
        "invalid value .*os.system.* for lr_scheduler",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("subcommand", ["fit", "predict"])
def test_hostile_checkpoint_is_refused_and_nothing_runs(fit, namemlp, name, subcommand):
    fit(5)
    make, sentence = HOSTILE[name]
    Path("hostile.ckpt").write_bytes(make())
    result = namemlp(subcommand, "--ckpt_path=hostile.ckpt")
    assert re.match(rf"namemlp: error: .*{sentence}", result.err), result.err
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert not Path("harm").exists()


def test_checkpoint_sets_only_the_trainer_settings_that_define_a_step(fit, namemlp):
    fit(5)
    callback = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "harm", "every_n_train_steps": 1}}
    Path("hostile.ckpt").write_bytes(changed(trainer__callbacks=[callback], trainer__default_root_dir="harm"))
    assert namemlp("fit", "--ckpt_path=hostile.ckpt", "--trainer.max_steps=7").code == 0
    assert namemlp("validate", "--ckpt_path=hostile.ckpt").code == 0
    assert not Path("harm").exists()


def test_hostile_last_checkpoint_is_not_skipped(fit, namemlp):
    fit(5)
    fit(5)
    Path("lightning_logs/version_1/checkpoints/last.ckpt").write_bytes(pickle.dumps(Attack()))
    result = namemlp("validate", "--ckpt_path=last")
    assert (result.code, result.out) == (2, "")
    assert "version_1/checkpoints/last.ckpt would run code (posix.system)" in result.err
    assert not Path("harm").exists()


@pytest.mark.parametrize("name", ["pickle", "protocol 2", "memory", "size", "tensor"])
def test_load_from_checkpoint_refuses_hostile_checkpoints(fit, name):
    fit(5)
    make, sentence = HOSTILE[name]
    Path("hostile.ckpt").write_bytes(make())
    with pytest.raises(UserError, match=sentence):
        NameModule.load_from_checkpoint("hostile.ckpt")
    assert not Path("harm").exists()


def test_subclass_is_loaded_without_running_anything(fit):
    class CustomModule(NameModule):
        pass

    fit(5)
    assert CustomModule.load_from_checkpoint(LAST).hparams.hidden_size == 20
    Path("hostile.ckpt").write_bytes(HOSTILE["protocol 2"][0]())
    with pytest.raises(UserError, match="would run code"):
        CustomModule.load_from_checkpoint("hostile.ckpt")
    assert not Path("harm").exists()


def test_optimizer_in_a_checkpoint_must_be_a_torch_optimizer(fit):
    """Also where a loaded model is trained in Python, without the checks of the command line."""
    fit(5)
    Path("hostile.ckpt").write_bytes(changed(hyper_parameters__optimizer=OPTIMIZER))
    model = NameModule.load_from_checkpoint("hostile.ckpt")
    with pytest.raises(UserError, match=r"os\.system is not an imported Optimizer class: use a class of torch\.optim"):
        model.configure_optimizers()
    assert not Path("harm").exists()


# Each would create the file `harm`, itself or through the module of that name in the current folder.
CONFIGS = {
    "tag": "data: !!python/object/apply:os.system ['touch harm']",
    "optimizer": "optimizer: {class_path: os.system, init_args: {command: touch harm}}",
    "custom optimizer": "optimizer: {class_path: harm.Harm}",
    "scheduler": "lr_scheduler: {class_path: StepLR, init_args: {step_size: {class_path: harm.Harm}}}",
    "function": "lr_scheduler: {class_path: LambdaLR, init_args: {lr_lambda: os.system}}",
    "callback": "trainer: {callbacks: [{class_path: harm.Harm}]}",
    "callback's function": "trainer: {callbacks: [{class_path: LambdaCallback, init_args: {setup: harm.Harm}}]}",
    "inner module": "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.model_checkpoint.os.system}]}",
    "logger": "trainer: {logger: {class_path: harm.Harm}}",
    "profiler": "trainer: {profiler: {class_path: harm.Harm}}",
    "strategy": "trainer: {strategy: {class_path: harm.Harm}}",
    "plugin": "trainer: {plugins: [{class_path: harm.Harm}]}",
    "data path": "data: {path: {class_path: subprocess.Popen, init_args: {args: [touch, harm]}}}",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_can_name_only_classes_that_training_needs(namemlp, monkeypatch, name):
    Path("harm.py").write_text("open('harm', 'w')\nfrom torch.optim import SGD as Harm")
    monkeypatch.syspath_prepend(".")
    Path("hostile.yaml").write_text(CONFIGS[name])
    result = namemlp("fit", "--data.path=names.txt", "--trainer.max_steps=1", "--config=hostile.yaml")
    assert re.match("namemlp: error: .*(invalid value|invalid config)", result.err), result.err
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert not Path("harm").exists()


def test_script_can_allow_classes_of_its_own(folder):
    """By the setting of jsonargparse, in another process."""
    Path("harm.py").write_text(
        "from lightning import Callback\nclass Greet(Callback):\n    def setup(self, *_, **__): print('hi')"
    )
    Path("own.py").write_text(
        "from jsonargparse import set_parsing_settings\n"
        "from namemlp.__main__ import main\n\n"
        'set_parsing_settings(import_path_allowlist=["harm"])\n'
        "main()\n"
    )
    settings = ("fit", "--data.path=names.txt", *SMALL, "--trainer.max_steps=2", "--trainer.callbacks=harm.Greet")
    assert "hi\n" in Command(*settings, script="own.py").result().splitlines(keepends=True)
