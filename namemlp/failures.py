"""What goes wrong while the Trainer works, told as a sentence."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Trainer

from namemlp.callbacks import LastCheckpoint
from namemlp.errors import MAKE_ROOM, UserError, shortened

RESTORING = "lightning.pytorch.trainer.connectors.checkpoint_connector"


@contextmanager
def told(trainer: Trainer, ckpt_path: Path | None, checkpoint: dict[str, Any] | None) -> Iterator[None]:
    """Turn what a user's files or settings have caused into a UserError, and let errors of the program through.

    Args:
        trainer: at work within.
        ckpt_path: of the checkpoint that it starts from, if any.
        checkpoint: its content.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}{kept(trainer)}") from error
    except BrokenPipeError:
        raise
    except OSError as error:
        where = Path(error.filename or trainer.log_dir or trainer.default_root_dir)
        raise UserError(f"{where} cannot be written ({error.strerror}): {MAKE_ROOM}{kept(trainer)}") from error
    except Exception as error:
        modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        # What is wrong in a checkpoint shows when it is restored, or at the first step after.
        untouched = checkpoint is not None and trainer.global_step == checkpoint["global_step"]
        if RESTORING in modules or (untouched and isinstance(error, LookupError | TypeError | ValueError)):
            raise UserError(f"{ckpt_path} cannot be gone on from: {error!r}") from error
        if not modules[-1].startswith(("torch.optim", "lightning", "jsonargparse")):
            raise
        raise UserError(f"training cannot go on with these settings: {shortened(str(error))}") from error


def kept(trainer: Trainer) -> str:
    """What there is to go on from after an error, as the end of its sentence."""
    paths = [saver.path for saver in trainer.checkpoint_callbacks if isinstance(saver, LastCheckpoint)]
    return "".join(f" ({path} is from before)" for path in paths if path and path.is_file())
