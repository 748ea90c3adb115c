"""A quicker start of the program: its imports are not searched for garbage, and leave out what it does not use.

Importing torch._dynamo takes a second, as long as the rest of torch. Lightning wants one class of it, to know compiled
models by, and torch.optim wants to hide four methods from it. torchmetrics imports Matplotlib (a third of a second), to
plot metrics, and SciPy where there is one (half a second), for metrics of sound.
"""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

PLOTS_AND_SOUND = ("matplotlib", "scipy")  # what torchmetrics imports


@contextmanager
def quick_imports() -> Iterator[None]:
    """Make the imports within quicker, where they are the first of this process.

    Code that compiles models afterwards imports torch._dynamo as ever, and Lightning knows those models.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    from lightning_utilities.core.imports import RequirementCache

    check = RequirementCache._check_available

    def check_but(requirement: RequirementCache) -> None:
        if requirement.requirement in PLOTS_AND_SOUND:
            requirement.available, requirement.message = False, "left out for a quicker start"
        else:
            check(requirement)

    RequirementCache._check_available = check_but
    left_out = [name for name in PLOTS_AND_SOUND if name not in sys.modules]
    sys.modules.update(dict.fromkeys(left_out))  # None: as if they were not installed
    import torch  # before the stand-in is there: torch itself looks for parts of the real one

    stand_in = ModuleType("torch._dynamo")
    stand_in.OptimizedModule = _CompiledModule
    stand_in.disable = lambda function, *_, **__: function

    def of_the_real_one(name: str) -> Any:
        if name.startswith("__"):  # the import system only asks whether there is a path
            raise AttributeError(name)
        sys.modules.pop("torch._dynamo", None)
        return getattr(importlib.import_module("torch._dynamo"), name)

    stand_in.__getattr__ = of_the_real_one
    if "torch._dynamo" not in sys.modules:
        sys.modules["torch._dynamo"] = stand_in
    try:
        yield
    finally:
        RequirementCache._check_available = check
        for name in left_out:
            del sys.modules[name]
        if sys.modules.get("torch._dynamo") is stand_in:
            del sys.modules["torch._dynamo"]
        for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
            method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
            if method is not None:
                method.__dynamo_disable = method  # where torch keeps a method once it is hidden from the compiler
        gc.freeze()  # what is imported stays: neither later collections nor the end of the process look at it
        gc.enable()


class _Compiled(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        dynamo = sys.modules.get("torch._dynamo")
        return dynamo is not None and isinstance(instance, dynamo.OptimizedModule)


class _CompiledModule(metaclass=_Compiled):
    """Stands for torch._dynamo.OptimizedModule in isinstance."""
