"""A database server as a child process, on a unix socket that only its owner can reach."""

import shutil
import signal
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from plinth.embedded.folders import socket_folder
from plinth.embedded.process import POLL, Account, EmbeddedError, Process, Sleep

START_TIMEOUT = 60.0  # seconds
# Nothing of the caller's environment: a PGPORT or PGOPTIONS would reach the server.
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}


class Server(ABC):
    """The server on one data folder. `durable=False` trades the safety of the data for speed, for tests."""

    name: ClassVar[str]

    def __init__(self, folder: Path, *, log: Path, durable: bool = True, account: Account | None = None) -> None:
        self.folder = folder
        self.log = log
        self.durable = durable
        self.process: Process | None = None
        self._account = account
        self._sockets = socket_folder(folder, account)

    @abstractmethod
    def launch(self, sleep: Sleep = time.sleep) -> Process:
        """Make the data folder if there is none, and start the server."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether it answers."""

    def start(self, sleep: Sleep = time.sleep) -> None:
        """Launch it and wait until it answers."""
        self.launch(sleep)
        self.wait(sleep)

    def wait(self, sleep: Sleep = time.sleep) -> None:
        """Wait until it answers. Raises EmbeddedError if it ends, or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self._ready():
            if not self._running.running or time.monotonic() > deadline:
                error = self._running.failure()
                self._running.kill()
                raise error
            sleep(POLL)

    def stop(self, signum: signal.Signals | None = None) -> None:
        """Stop it, with `signum` instead of the signal that asks for a stop in good order."""
        self._running.stop(signum)
        self.sweep()

    def sweep(self) -> None:
        """Remove the socket's folder, once the server has ended."""
        shutil.rmtree(self._sockets, ignore_errors=True)

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers."""
        self._running.pause()

    def resume(self) -> None:
        """Undo `pause`."""
        self._running.resume()

    @property
    def _running(self) -> Process:
        if self.process is None:
            raise EmbeddedError(f"{self.name} has not been started.")
        return self.process
