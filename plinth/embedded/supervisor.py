"""Keeps processes together: when one of them ends, or a signal comes, all of them are stopped."""

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Self

from plinth.embedded.lock import Lock
from plinth.embedded.process import POLL, Process

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HURRY = 5.0  # seconds that a process has to end after a second signal
LOOK = 0.05  # seconds between two looks at the processes


class StopRequested(Exception):
    """A signal asks for the end."""


class Supervisor(ExitStack[None]):
    """A context manager for the main thread: on the way out it stops what was added, the last one first.

    A second signal hurries the stop. What it has added is written into `lock`.
    """

    def __init__(self, lock: Lock | None = None) -> None:
        super().__init__()
        self._lock = lock
        self._processes: list[Process] = []
        self._again: dict[Process, Callable[[], Process]] = {}
        self._requests = 0
        self._patience = 0

    def __enter__(self) -> Self:
        for signum in STOP_SIGNALS:
            before = signal.signal(signum, self._request)
            self.callback(signal.signal, signum, before)
            if signum is signal.SIGHUP and before is signal.SIG_IGN:  # started by nohup
                signal.signal(signum, before)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patience = self._requests
        super().__exit__(kind, error, trace)

    def add(self, process: Process, *, again: Callable[[], Process] | None = None) -> Process:
        """Watch a process, and stop it at the end, before those that were added earlier.

        `again` starts another one in the place of one that was killed.
        """
        self.callback(self._stop, process)
        self._processes.append(process)
        if again is not None:
            self._again[process] = again
        if self._lock:
            self._lock.add(process.pid)
        return process

    def sleep(self, seconds: float = LOOK) -> None:
        """Sleep for some seconds; raises StopRequested after a signal."""
        time.sleep(seconds)
        if self._requests:
            raise StopRequested

    def watch(self) -> None:
        """Sleep until a process ends for good, and raise its failure; raises StopRequested at a signal."""
        while True:
            for process in [process for process in self._processes if not process.running]:
                self._replace(process)
            self.sleep()

    def _replace(self, ended: Process) -> None:
        again = self._again.pop(ended, None)
        if again is None or ended.exit_code != -signal.SIGKILL:
            raise ended.failure()
        ended.kill()  # what it has left behind has its ports
        self._processes.remove(ended)
        self.add(again(), again=again)

    def _stop(self, process: Process) -> None:
        deadline = time.monotonic() + process.grace
        hurried = False
        process.send(process.stop_signal)
        while process.running and time.monotonic() < deadline:
            if self._requests > self._patience and not hurried:
                process.send(process.hurry_signal)
                hurried, deadline = True, time.monotonic() + HURRY
            time.sleep(POLL)
        process.kill()

    def _request(self, _signum: int, _frame: FrameType | None) -> None:
        self._requests += 1
