"""What a user looks at: TensorBoard's pictures, figures, the progress bar."""

from namemlp import lazy_exports

_FIGURES = "count_pairs gaussian_smooth plot_calibration plot_losses plot_losses_by_place plot_lr_range_test"
_FIGURES += " plot_next_characters save_figure"
_MODULES = {"diagnostics": "ModelDiagnostics", "figures": _FIGURES, "progress": "StepProgressBar"}
_MODULES |= {"embedding_image": "arrange_embedding", "errors": "calibrate describe_names_by_loss evaluate_examples"}
_MODULES |= {"labels": "character_classes"}
__getattr__, __all__ = lazy_exports(__name__, _MODULES)
