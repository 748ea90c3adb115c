"""`python -m namemlp` and the console script."""

import gc
import logging
import os
import signal
import sys
import threading
import warnings

from namemlp.errors import UserError, fail
from namemlp.startup import quick_imports


def run() -> None:
    """Do what the command line says."""
    with quick_imports():
        import torch
        from lightning.pytorch.utilities.exceptions import MisconfigurationException

        from namemlp.cli import NameCLI
    # Lightning's INFO lines are tips for its products and news of what this program says itself; warnings stay.
    for package in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.callbacks.model_summary").setLevel(logging.INFO)  # where it is asked for
    ours = logging.getLogger("namemlp")
    ours.setLevel(logging.INFO)
    ours.handlers = [logging.StreamHandler(sys.stdout)]
    # None of these applies: a batch is read in microseconds; a run goes on in its own folder, also where that has been
    # moved; the deprecation is between Lightning and torch; what a run's callbacks know is of no use to test; curves
    # count updates from one epoch to the next.
    for message in (
        ".*does not have many workers",
        "Checkpoint directory .* exists and is not empty",
        "The dirpath has changed",
        "The number of training batches .* is smaller than the logging interval",
        ".*LeafSpec",
        "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint need to be provided",
    ):
        warnings.filterwarnings("ignore", message)
    # TensorBoard's thread that writes the curves: what stops it is told again by the next point or flush.
    threading.excepthook = lambda at: issubclass(at.exc_type, OSError) or threading.__excepthook__(at)
    try:
        NameCLI()
    except BrokenPipeError:  # whoever reads the pipe, head for one, has all it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, MisconfigurationException, OSError) as error:
        fail(" ".join(str(error).split()))
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Lightning leaves this to the end of the process, where threads of gloo that are still in use abort it.
            gc.collect()
            torch.distributed.destroy_process_group()


def main() -> None:
    """The console script."""
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # which Lightning has made exit code 1
            sys.exit(128 + signal.SIGINT)
        raise


if __name__ == "__main__":
    main()
