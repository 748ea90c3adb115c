"""The core stands alone, wings import in one direction, and private names of other packages stand in one file."""

import ast
import importlib
import inspect
import re
import shutil
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path

import numba
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from tests.processes import Command

PACKAGE = Path(__file__).parents[1] / "namemlp"
WINGS = ("fast", "networks", "runs", "viz", "lists", "share", "commands")
CORE = [file for file in PACKAGE.glob("*.py") if not file.stem.startswith("__")]
INTERNALS = PACKAGE / "lightning_internals.py"
OTHERS = [file for file in PACKAGE.rglob("*.py") if file != INTERNALS]
PROGRESS = {"fit_loop", "epoch_loop", "epoch_progress", "batch_progress", "optim_progress", "scheduler_progress"}


def name_of(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def imported_names(file: Path) -> Iterator[str]:
    """The full names of all that a file imports, also within functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(file)}, line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def imported_wings(file: Path) -> dict[str, str]:
    """What a file imports of wings: {full name: wing}."""
    parts = {name: name.split(".") for name in imported_names(file)}
    return {name: part[1] for name, part in parts.items() if part[0] == "namemlp" and part[1:] and part[1] in WINGS}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_core_is_twelve_files():
    assert len(CORE) == 12, sorted(map(name_of, CORE))
    assert {file.parent.name for file in OTHERS} == {"namemlp", *WINGS}


@pytest.mark.parametrize("file", CORE, ids=name_of)
def test_core_imports_no_wing(file):
    assert not imported_wings(file)


@pytest.mark.parametrize("file", [file for file in CORE if file.stem != "resume"], ids=name_of)
def test_core_imports_no_internals_but_in_resume(file):
    assert not [name for name in imported_names(file) if name.startswith("namemlp.lightning_internals")]


@pytest.mark.parametrize("file", [file for file in OTHERS if file.parent.name in WINGS], ids=name_of)
def test_wings_import_only_what_another_exports(file):
    attributes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)]
    for name, wing in imported_wings(file).items():
        if wing == file.parent.name:
            continue
        used = {name.removeprefix(f"namemlp.{wing}.")}
        if name == f"namemlp.{wing}":  # imported as a whole
            used = {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == wing}
        missing = used - set(importlib.import_module(f"namemlp.{wing}").__all__)
        assert not missing, f"{name_of(file)} imports {missing}, which namemlp/{wing}/__init__.py does not export"


def test_wings_do_not_import_in_a_circle():
    imports = {wing: set() for wing in WINGS}
    for file in OTHERS:
        if file.parent.name in WINGS:
            imports[file.parent.name] |= {*imported_wings(file).values()} - {file.parent.name}
    assert set(TopologicalSorter(imports).static_order()) == set(WINGS)  # raises a CycleError that names the circle
    assert not any("commands" in others for others in imports.values())


def test_core_alone_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    core = tmp_path / "namemlp"
    core.mkdir()
    for file in (*PACKAGE.glob("*.py"), PACKAGE / "names.txt"):
        shutil.copy(file, core)
    source = """
import sys
for name in [name for name in sys.modules if name.startswith("namemlp")]:
    del sys.modules[name]
from lightning import Trainer
import namemlp
from namemlp import NameModule, NamesDataModule
from namemlp.cli import NameCLI
assert namemlp.__file__.startswith(sys.argv.pop(1))
settings = dict(max_steps=3, accelerator="cpu", logger=False, limit_val_batches=1)
data = NamesDataModule()
trainer = Trainer(**settings)
trainer.fit(NameModule(str(data.vocabulary)), data)
trainer.save_checkpoint("3.ckpt")
assert len(NameModule.load_from_checkpoint("3.ckpt").sample(2, seed=1)) == 2
cli = NameCLI(args=["fit", "--trainer.max_steps=5", "--ckpt_path=3.ckpt"], trainer_defaults={**settings})
assert cli.trainer.global_step == 5
"""
    script = tmp_path / "train.py"
    script.write_text(source)
    Command(tmp_path, script=script).result()


@pytest.mark.parametrize("file", OTHERS, ids=name_of)
def test_private_names_stand_in_one_file(file):
    """A private attribute is one of the same file, be it read, assigned or named in a string."""
    nodes, own = [*ast.walk(ast.parse(file.read_text()))], {*PROTECTED, "_exit"}  # of os: documented
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            own.add(node.attr)
    for node in nodes:
        names = [node.attr] if isinstance(node, ast.Attribute) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        for name in names:
            is_own = not isinstance(name, str) or not is_private(name) or name in own
            assert is_own, f"{name_of(file)}, line {node.lineno}: {name} is private to another package"
    assert not [name for name in imported_names(file) if "._" in name]


@pytest.mark.parametrize("file", OTHERS, ids=name_of)
def test_no_private_attribute_of_a_base_class_is_assigned(file):
    classes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)]
    module = importlib.import_module(f"namemlp.{name_of(file)[:-3].replace('/', '.')}") if classes else None
    for node in classes:
        bases = [base for base in getattr(module, node.name).__mro__ if not base.__module__.startswith("namemlp")]
        theirs = set().union(*(re.findall(r"self\.(_\w+)", source_of(base)) for base in bases)) - set(PROTECTED)
        for at in ast.walk(node):
            if isinstance(at, ast.Attribute) and isinstance(at.ctx, ast.Store):
                assert at.attr not in theirs, f"{name_of(file)}, line {at.lineno}: {at.attr} belongs to a base class"


@pytest.mark.parametrize("file", [file for file in OTHERS if file.name != "resume.py"], ids=name_of)
def test_counters_of_progress_are_used_in_two_files(file):
    for node in ast.walk(ast.parse(file.read_text())):
        assert not (isinstance(node, ast.Attribute) and node.attr in PROGRESS), f"{name_of(file)}, line {node.lineno}"


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def source_of(base: type) -> str:
    try:
        return inspect.getsource(base)
    except (TypeError, OSError):  # it is written in C
        return ""


# Protected names of base classes that are made to be subclassed, which stay with the subclass.
PROTECTED = {
    **dict.fromkeys(
        ["_add_arguments", "_add_subcommands", "_get", "_parse_ckpt_path", "_run_subcommand"], LightningCLI
    ),
    "_subcommand_parsers": LightningCLI,
    "_get_next_version": TensorBoardLogger,
}


@pytest.mark.parametrize("name", PROTECTED)
def test_protected_name_still_exists(name):
    owner = PROTECTED[name]
    assert re.search(rf"\b{name}\b", source_of(owner)), message(name, owner, *LIGHTNING)


def trainer():
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)


def fit_loop():
    return trainer().fit_loop


def epoch_loop():
    return fit_loop().epoch_loop


def optimizer():
    """An optimizer that has made a step, with a scheduler."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    torch.optim.lr_scheduler.ConstantLR(optimizer)
    optimizer.step()
    return optimizer


def linked_parser():
    parser = ArgumentParser()
    parser.add_argument("--a", type=int)
    parser.add_argument("--b", type=int)
    parser.link_arguments("a", "b")
    return parser


# The owner of every private name, and of every counter of progress, that lightning_internals.py and resume.py use.
LIGHTNING, TORCH, NUMBA = ("lightning", "2.6.6"), ("torch", "2.13.0"), ("numba", "0.68.1")  # where they were read
JSONARGPARSE = ("jsonargparse", "4.53.0")
PRIVATE_NAMES = {
    "_batches_that_stepped": (epoch_loop, *LIGHTNING),
    "_should_check_val_fx": (epoch_loop, *LIGHTNING),
    "_should_accumulate": (fit_loop, *LIGHTNING),
    "_data_fetcher": (fit_loop, *LIGHTNING),
    "_logger_connector": (trainer, *LIGHTNING),
    "_every_n_train_steps": (ModelCheckpoint, *LIGHTNING),
    "_root_device": (lambda: SingleDeviceStrategy("cpu"), *LIGHTNING),
    "_ddp_comm_hook": (DDPStrategy, *LIGHTNING),
    "_compiler_ctx": (LightningModule, *LIGHTNING),
    "_compiled_call_impl": (nn.Module, *TORCH),
    "_forward_hooks": (nn.Module, *TORCH),
    "_forward_pre_hooks": (nn.Module, *TORCH),
    "_backward_pre_hooks": (nn.Module, *TORCH),
    "_backward_hooks": (nn.Module, *TORCH),
    "_post_accumulate_grad_hooks": (lambda: torch.zeros(1), *TORCH),
    "_has_any_global_hook": (lambda: sys.modules["torch.nn.modules.module"], *TORCH),
    "_global_optimizer_pre_hooks": (lambda: sys.modules["torch.optim.optimizer"], *TORCH),
    "_global_optimizer_post_hooks": (lambda: sys.modules["torch.optim.optimizer"], *TORCH),
    "_optimizer_step_pre_hooks": (optimizer, *TORCH),
    "_optimizer_step_post_hooks": (optimizer, *TORCH),
    "_opt_called": (optimizer, *TORCH),
    "_wrapped_by_lr_sched": (lambda: optimizer().step, *TORCH),
    "_cache": (lambda: numba.njit(lambda: 0), *NUMBA),
    "_action_groups": (ArgumentParser, *JSONARGPARSE),
    "_links_group": (linked_parser, *JSONARGPARSE),
    "_group_actions": (lambda: ArgumentParser().add_argument_group("group"), *JSONARGPARSE),
}
COUNTERS = {
    "epoch_progress.total.completed": fit_loop,
    "epoch_progress.current.ready": fit_loop,
    "epoch_progress.current.started": fit_loop,
    "epoch_progress.current.processed": fit_loop,
    "epoch_progress.current.reset_on_restart": fit_loop,
    "restarted_on_epoch_start": fit_loop,
    "restarted_on_epoch_end": fit_loop,
    "restarted_mid_epoch": fit_loop,
    "reset_restart_stage": fit_loop,
    "restarted_on_last": epoch_loop,
    "restarting": epoch_loop,
    "batch_progress.total.ready": epoch_loop,
    "batch_progress.current.ready": epoch_loop,
    "batch_progress.current.started": epoch_loop,
    "batch_progress.current.processed": epoch_loop,
    "batch_progress.current.completed": epoch_loop,
    "batch_progress.increment_by": epoch_loop,
    "scheduler_progress.increment_by": epoch_loop,
    "automatic_optimization.optim_progress.optimizer.step.increment_by": epoch_loop,
    "automatic_optimization.optim_progress.optimizer.zero_grad.increment_by": epoch_loop,
    "fetched": _DataFetcher,
}


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_private_name_still_exists(name):
    make_owner, package, read_in = PRIVATE_NAMES[name]
    assert_exists(make_owner(), name, package, read_in)


@pytest.mark.parametrize("name", COUNTERS)
def test_counter_still_exists(name):
    assert_exists(COUNTERS[name](), name, *LIGHTNING)


def assert_exists(owner, name, package, read_in):
    for part in name.split("."):
        assert hasattr(owner, part), message(name, owner, package, read_in)
        owner = getattr(owner, part)


def message(name, owner, package, read_in):
    place = getattr(owner, "__name__", type(owner).__name__)
    return (
        f"{package} {version(package)} has no {name} in {place} any more, where {package} {read_in} has it: "
        "correct the file that uses it (lightning_internals.py, if it is private) and this test"
    )


def test_every_private_name_is_looked_for():
    used = set()
    for node in ast.walk(ast.parse(INTERNALS.read_text())):
        name = node.attr if isinstance(node, ast.Attribute) else node.value if isinstance(node, ast.Constant) else None
        name = node.name if isinstance(node, ast.alias) else name
        used |= {name} if isinstance(name, str) and name.isidentifier() and is_private(name) else set()
    assert used == set(PRIVATE_NAMES)
