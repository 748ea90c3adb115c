"""Character-level name models with PyTorch Lightning."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from namemlp.datamodule import NamesDataModule
    from namemlp.errors import UserError
    from namemlp.module import NameModule
    from namemlp.network import NameMLP
    from namemlp.vocabulary import Vocabulary

__version__ = "0.2.0"
__all__ = [
    "FusedDDPStrategy", "FusedStrategy", "NameMLP", "NameModule", "NamesDataModule", "UserError", "Vocabulary",
]  # fmt: skip

# The networks that have a name, and where each is found.
NETWORKS = {"mlp": "namemlp.network.NameMLP"}
# What a wing does for the core, where there is that wing: the core itself knows none.
PLUGS = {"check_checkpoint": "namemlp.runs", "load_or_make": "namemlp.runs"}


def plug(name: str) -> Callable | None:
    """The function of a wing that the core works with, or None where that wing is missing."""
    is_there = importlib.util.find_spec(PLUGS[name]) is not None
    return getattr(importlib.import_module(PLUGS[name]), name) if is_there else None


def lazy_exports(package: str, modules: dict[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names, {name: module}, are imported on first use."""

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return get


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


# Lazily, so that sampling needs no Lightning, and the core works without the wings.
__getattr__ = lazy_exports(
    __name__,
    dict(
        FusedDDPStrategy="fast",
        FusedStrategy="fast",
        NameMLP="network",
        NameModule="module",
        NamesDataModule="datamodule",
        UserError="errors",
        Vocabulary="vocabulary",
    ),
)
