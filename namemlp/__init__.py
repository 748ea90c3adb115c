"""Character-level name models with PyTorch Lightning."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from namemlp.datamodule import NamesDataModule
    from namemlp.errors import UserError
    from namemlp.module import NameModule
    from namemlp.network import NameMLP
    from namemlp.vocabulary import Vocabulary

__all__ = ["NameMLP", "NameModule", "NamesDataModule", "UserError", "Vocabulary"]

_MODULES = {
    "NameMLP": "network",
    "NameModule": "module",
    "NamesDataModule": "datamodule",
    "UserError": "errors",
    "Vocabulary": "vocabulary",
}


def __getattr__(name: str) -> Any:
    # On first use, so that the program can see to its imports before they begin; see startup.py.
    if name not in _MODULES:
        raise AttributeError(f"module 'namemlp' has no attribute {name!r}")
    return getattr(importlib.import_module(f"namemlp.{_MODULES[name]}"), name)
