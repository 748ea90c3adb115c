"""`python -m namemlp` and the console script."""

import gc
import importlib
import logging
import os
import signal
import sys
import threading
import warnings

from namemlp.errors import UserError


def run_with_trainer() -> None:
    """Run a subcommand that needs Lightning."""
    gc.disable()  # imports make much that stays and little garbage
    import torch
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from namemlp.commands.cli import FullCLI

    gc.freeze()  # what is imported stays: neither later collections nor the end of the process look at it
    gc.enable()
    # Lightning's INFO lines are tips for its products and news of what this program says itself; warnings stay.
    for package in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.callbacks.model_summary").setLevel(logging.INFO)  # where it is asked for
    ours = logging.getLogger("namemlp")
    ours.setLevel(logging.INFO)
    ours.handlers = [logging.StreamHandler(sys.stdout)]
    # None of these applies: a batch is read in microseconds; a run is resumed in its own folder, also where that has
    # been moved; the deprecation is between Lightning and torch; the states of a run's callbacks are of no use to test;
    # curves count steps from one epoch to the next.
    for message in (
        ".*does not have many workers",
        "Checkpoint directory .* exists and is not empty",
        "The dirpath has changed",
        "The number of training batches .* is smaller than the logging interval",
        ".*LeafSpec",
        "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint need to be provided",
    ):
        warnings.filterwarnings("ignore", message)
    # TensorBoard's thread that writes the curves: what stops it is raised again by the next point or flush.
    threading.excepthook = lambda at: issubclass(at.exc_type, OSError) or threading.__excepthook__(at)
    try:
        FullCLI()
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Lightning leaves this to the end of the process, where threads of gloo that are still in use abort it.
            gc.collect()
            torch.distributed.destroy_process_group()


def run() -> None:
    """Run the subcommand that the command line names."""
    command = sys.argv[1] if len(sys.argv) > 1 else None
    try:
        if command in ("sample", "plot"):  # which need no Lightning, and start in half the time
            from namemlp.commands.parser import run_command

            run_command(getattr(importlib.import_module(f"namemlp.commands.{command}"), command), sys.argv[2:])
        else:
            run_with_trainer()
    except BrokenPipeError:  # whoever reads the pipe, head for one, has all it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError) as error:
        from namemlp.commands.parser import fail

        fail(str(error))


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
