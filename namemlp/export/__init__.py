"""A trained model outside of Lightning."""

from namemlp import lazy_exports

_MODULES = {"model": "Model load open_model"}
__getattr__, __all__ = lazy_exports(__name__, _MODULES)
