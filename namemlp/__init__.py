"""Character-level name models with PyTorch Lightning."""

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from namemlp.datamodule import NamesDataModule as NamesDataModule
    from namemlp.errors import UserError as UserError
    from namemlp.fast import FusedDDPStrategy as FusedDDPStrategy
    from namemlp.fast import FusedStrategy as FusedStrategy
    from namemlp.module import NameModule as NameModule
    from namemlp.network import NameMLP as NameMLP
    from namemlp.share import export as export
    from namemlp.share import load as load
    from namemlp.vocabulary import Vocabulary as Vocabulary

__version__ = "0.2.0"
# The networks that have a name, and where each is found.
NETWORKS = {"mlp": "namemlp.network.NameMLP", "linear": "namemlp.networks.linear.Linear"}
NETWORKS |= {"deep": "namemlp.networks.deep.Deep", "wavenet": "namemlp.networks.wavenet.WaveNet"}
NETWORKS |= {"rnn": "namemlp.networks.rnn.RNN", "gru": "namemlp.networks.rnn.GRU"}
NETWORKS |= {"bow": "namemlp.networks.bow.BagOfWords", "transformer": "namemlp.networks.transformer.Transformer"}
# What a wing does for the core, where there is that wing: the core itself knows none.
PLUGS = {"check_checkpoint": "namemlp.runs", "load_or_make": "namemlp.runs", "FastMatmul": "namemlp.fast"}
PLUGS["complete_network"] = "namemlp.networks"


def plug(name: str) -> Callable | None:  # the function or class of a wing, or None where that wing is missing
    is_there = importlib.util.find_spec(PLUGS[name]) is not None
    return getattr(importlib.import_module(PLUGS[name]), name) if is_there else None


def lazy_exports(package: str, modules: dict[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """The `__getattr__` and `__all__` of a package, from {module: its public names}, imported on first use."""
    module_of = {name: module for module, names in modules.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)

    return get, list(module_of)


# Lazily, so that sampling needs no Lightning, and the core works without the wings.
_MODULES = {"fast": "FusedDDPStrategy FusedStrategy", "network": "NameMLP", "module": "NameModule"}
_MODULES |= {"share": "export load", "datamodule": "NamesDataModule", "errors": "UserError", "vocabulary": "Vocabulary"}
__getattr__, __all__ = lazy_exports(__name__, _MODULES)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
