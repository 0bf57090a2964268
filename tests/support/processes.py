"""`plinth` as a process: its log as it comes, its end."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.support.notes import PACKAGES

__all__ = ["PATIENCE", "Process", "declare", "plinth"]

PATIENCE = 60.0  # seconds, for what takes two on an idle machine


def declare(folder: Path, settings: str = "notes.config:Settings") -> None:
    """Make `folder` one from which `plinth` finds the service whose settings class that is."""
    (folder / "pyproject.toml").write_text(f'[tool.plinth]\nsettings = "{settings}"\n')


class Process:
    """A running `plinth` command and the lines of its log."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        declare(folder)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "plinth.cli", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": PACKAGES, "LOG_FORMAT": "json", "METRICS_PORT": "0", **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._grown:
                self.lines.append(line)
                self._grown.notify_all()

    def said(self, message: str, *, nth: int = 1, timeout: float = PATIENCE) -> dict[str, Any] | None:
        """The nth line of the log whose message begins so, once it is there; None if it does not come in time."""

        def found() -> dict[str, Any] | None:
            entries = [json.loads(line) for line in self.lines if line.startswith("{")]
            matching = [entry for entry in entries if entry["message"].startswith(message)]
            return matching[nth - 1] if len(matching) >= nth else None

        with self._grown:
            return self._grown.wait_for(found, timeout)

    def heard(self, message: str, **which: Any) -> dict[str, Any]:
        """The same, for a line that has to come."""
        entry = self.said(message, **which)
        assert entry is not None, "".join(self.lines)
        return entry

    def end(self) -> tuple[int, list[str]]:
        """Wait for its end. Returns the exit code and its lines."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code, self.lines


@contextmanager
def plinth(folder: Path, *arguments: str, **environment: str) -> Iterator[Process]:
    """Run a command in a folder; keyword arguments are its environment. At the end of the block it is killed."""
    started = Process(folder, *arguments, **environment)
    try:
        yield started
    finally:
        with suppress(psutil.NoSuchProcess):  # its children, with --reload, would keep its log open
            for child in psutil.Process(started.process.pid).children(recursive=True):
                child.kill()
        started.process.kill()
        started.process.wait()
        started._reader.join()
        assert started.process.stderr
        started.process.stderr.close()
