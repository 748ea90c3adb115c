"""`python -m namemlp` and the console script."""

import gc
import io
import logging
import os
import signal
import sys
import threading
import warnings
from typing import Any

from namemlp.errors import UserError


class PipeOutput(io.FileIO):
    """An output that nobody may read any more: training goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def run_with_trainer() -> None:
    """Run a subcommand that needs Lightning."""
    import torch
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from namemlp.commands.cli import FullCLI

    gc.freeze()  # what is imported stays: neither later collections nor the end of the process look at it
    gc.enable()
    if sys.argv[1:2] == ["fit"] and sys.stdout is sys.__stdout__ and not sys.stdout.isatty():
        sys.stdout.flush()
        output = io.BufferedWriter(PipeOutput(sys.stdout.fileno(), "wb", closefd=False))
        sys.stdout = io.TextIOWrapper(output, sys.stdout.encoding, sys.stdout.errors, line_buffering=True)
    # Lightning's INFO lines are tips for its products and news of what this program says itself; warnings stay.
    for name, level in (("lightning.pytorch", "WARNING"), ("lightning.fabric", "WARNING"), ("namemlp", "INFO")):
        logging.getLogger(name).setLevel(level)
    logging.getLogger("lightning.pytorch.callbacks.model_summary").setLevel("INFO")  # where it is asked for
    logging.getLogger("namemlp").handlers = [logging.StreamHandler(sys.stdout)]
    for message in (  # warnings that do not apply
        ".*does not have many workers",  # a batch is read in microseconds
        "Checkpoint directory .* exists and is not empty",  # a run is resumed in its own folder
        "The dirpath has changed",  # a run's folder may be moved
        "The number of training batches .* is smaller than the logging interval",  # which counts on over epochs
        ".*LeafSpec",  # a deprecation between Lightning and torch
        "Be aware that when using `ckpt_path`, callbacks",  # whose states are of no use to test
    ):
        warnings.filterwarnings("ignore", message)
    # TensorBoard's thread that writes the curves: what stops it is raised again by the next point or flush.
    threading.excepthook = lambda at: issubclass(at.exc_type, OSError) or threading.__excepthook__(at)
    try:
        FullCLI()
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if "gloo" not in str(error) and type(error).__module__ != "torch.distributed":
            raise
        text = "another process of this run has ended or does not answer: see what it said, and pass --ckpt_path last"
        print(f"namemlp: error: {text}", file=sys.stderr, flush=True)
        os._exit(2)  # at once: threads of gloo may wait half an hour for that process
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Lightning leaves this to the end of the process, where threads of gloo that are still in use abort it.
            gc.collect()
            torch.distributed.destroy_process_group()


def main() -> None:
    """The console script: run the subcommand that the command line names."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    gc.disable()  # until all is imported, which makes much that stays and little garbage
    try:
        from namemlp.commands.parser import NO_LIGHTNING, run_command

        if sys.argv[1] in NO_LIGHTNING:
            run_command(*sys.argv[1:])
        else:
            run_with_trainer()
    except (KeyboardInterrupt, SystemExit) as end:
        if KeyboardInterrupt in (type(end), type(end.__context__)):  # which Lightning makes exit code 1
            sys.exit(128 + signal.SIGINT)
        raise
    except BrokenPipeError:  # whoever reads the pipe, head for one, has all it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError) as error:
        from namemlp.commands.parser import fail

        fail(str(error))


if __name__ == "__main__":
    main()
