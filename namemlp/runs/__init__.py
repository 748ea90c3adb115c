"""Run folders, safe and atomic checkpoints, exact resume."""

from namemlp import lazy_exports

_MODULES = {
    "cache": "load_or_make",
    "callbacks": "BestCheckpoint FinalValidation Interrupted LastCheckpoint SafeCheckpointIO",
    "folders": "LOG_DIR is_run_folder log_root read_curves resume_command run_lock write_error",
    "logger": "RunLogger log_hparams make_run_logger",
    "reading": "check_checkpoint hparams_from_checkpoint is_finite open_checkpoint read_checkpoint trainer_settings",
    "resume_checks": "check_resume flatten is_finished",
    "warm_start": "copy_weights",
}
__getattr__, __all__ = lazy_exports(__name__, _MODULES)
