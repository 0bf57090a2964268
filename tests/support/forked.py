"""Processes of Python that begin with the platform imported: its import takes a second, and many tests start some.

They are forked of a server, which pytest's process starts at the first need of one.
"""

import ctypes
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

__all__ = ["Forked", "run_module"]

PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Neither the tables nor the kinds of a service: each process has those of its own.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["alembic.config", "plinth.cli", "plinth.jobs.engine.worker", "tests.support.forked"])


def _start_server() -> None:
    # A killed process writes no coverage, and all would be slower.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    with patch.dict(os.environ, kept, clear=True):
        forkserver.ensure_running()


class Forked:
    """`python -m module` in a folder, with nothing in its environment but `env`; it writes to two files."""

    def __init__(
        self, module: str, *arguments: str, folder: Path, env: Mapping[str, str], stdout: Path, stderr: Path
    ) -> None:
        _start_server()
        given = (module, arguments, folder, dict(env), stdout, stderr)
        self._process = _context.Process(target=_run, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it."""
        return self._process.exitcode

    @property
    def running(self) -> bool:
        return self.exit_code is None

    def send(self, signum: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        if self.running:
            os.kill(self.pid, signum)

    def wait(self) -> int:
        """Wait for its end; its exit code."""
        self._process.join()
        assert self.exit_code is not None
        return self.exit_code

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()


def run_module(module: str, *arguments: str, folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`python -m module` to its end, and what it has written."""
    with tempfile.TemporaryDirectory() as place:
        stdout, stderr = Path(place, "stdout"), Path(place, "stderr")
        code = Forked(module, *arguments, folder=folder, env=env, stdout=stdout, stderr=stderr).wait()
        return subprocess.CompletedProcess([module, *arguments], code, stdout.read_text(), stderr.read_text())


def _run(
    module: str, arguments: tuple[str, ...], folder: Path, env: Mapping[str, str], stdout: Path, stderr: Path
) -> None:
    if sys.platform == "linux":  # should pytest be killed, the server ends, and this with it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    for path, descriptor in ((stdout, 1), (stderr, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
