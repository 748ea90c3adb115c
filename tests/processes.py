"""The program in processes of its own, forked from one that has imported it: seconds less than a new Python each."""

import contextlib
import multiprocessing
import os
import resource
import runpy
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from namemlp.__main__ import main

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["namemlp.commands.cli", "namemlp.fast.kernel", "torch.utils.tensorboard"])


class Command:
    """`python -m namemlp` with these arguments, started in the current folder, in a process group of its own.

    Args:
        environment: variables to add.
        script: a file to run instead of the program.
        max_file_bytes: the size that no file can exceed.
        terminal: the path of one to write to; else `out` and `err` are what was written.
    """

    def __init__(self, *arguments, environment=(), script=None, max_file_bytes=None, terminal=None):
        self._files = tempfile.TemporaryDirectory()
        self._out, self._err = (Path(self._files.name, name) for name in ("out", "err"))
        for path in (self._out, self._err):
            path.touch()
        outputs = [terminal, terminal] if terminal else [self._out, self._err]
        script = script and Path(script).absolute()
        folder = Path.cwd()
        settings = folder, list(map(str, arguments)), dict(environment), script, max_file_bytes, outputs
        self.process = FORKS.Process(target=_run, args=settings)
        os.chdir(self._files.name)  # the first one starts the server, which would import a copy of the package here
        self.process.start()
        os.chdir(folder)
        self.pid = self.process.pid

    @property
    def out(self):
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self):
        return self._err.read_text(encoding="utf-8")

    def wait_for(self, condition):
        """Wait until a condition holds while the command runs."""
        while not condition():
            assert self.process.is_alive() or condition(), self.err
            time.sleep(0.0003)  # leaves the cores to the run

    def wait_for_rewrite(self, path):
        """Wait until a file has been written again."""
        before = modified_at(path)
        self.wait_for(lambda: modified_at(path) not in (None, before))

    def wait(self):
        """Its exit code, negative after a signal that killed it."""
        self.process.join(120)
        return self.process.exitcode

    def result(self):
        """What a command that must succeed has printed."""
        assert self.wait() == 0, self.err
        return self.out

    def kill(self):
        """End it and all processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.join()


def modified_at(path):
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime_ns


def start_two(*arguments, rank="LOCAL_RANK", script=None, **environment):
    """A command in two processes that know of each other, as a cluster starts them: the commands of rank 0 and 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [Command(*arguments, environment={**address, **environment, rank: str(i)}, script=script) for i in range(2)]


def _run(folder, arguments, environment, script, max_file_bytes, outputs):
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    for path, stream in zip(outputs, (sys.stdout, sys.stderr), strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream.fileno())
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    sys.argv = [str(script or "namemlp"), *arguments]
    if script is None:
        main()
    else:
        sys.path.insert(0, str(script.parent))
        runpy.run_path(str(script), run_name="__main__")
