"""A trained model to hand over: in Python without Lightning, and as a page."""

from namemlp import lazy_exports

_MODULES = {
    "folder": "export_folder",
    "html": "export_html",
    "onnx": "export_onnx",
    "model": "Model load load_list open_model",
}
__getattr__, __all__ = lazy_exports(__name__, _MODULES)
