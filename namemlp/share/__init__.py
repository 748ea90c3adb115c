"""A trained model to hand over: in Python without Lightning, as a page, a folder or an ONNX file."""

from namemlp import lazy_exports

_MODULES = {"model": "Model load load_list open_model", "write": "export"}
__getattr__, __all__ = lazy_exports(__name__, _MODULES)
