"""What a user looks at: TensorBoard's pictures, figures, the progress bar."""

from namemlp import lazy_exports

_FIGURES = "count_pairs gaussian_smooth plot_losses plot_lr_range_test plot_next_characters save_figure"
_MODULES = {"diagnostics": "ModelDiagnostics", "figures": _FIGURES, "progress": "StepProgressBar"}
__getattr__, __all__ = lazy_exports(__name__, _MODULES)
