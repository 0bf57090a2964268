"""Keeps processes together: when one of them ends, or a signal comes, all of them are stopped."""

import os
import select
import signal
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

from plinth.embedded.process import Process

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HURRY = 5.0  # seconds that a process has to end after a second signal


class StopRequested(Exception):
    """A signal asks for the end."""


class Supervisor:
    """A context manager for the main thread: on the way out it stops what was added, the last one first.

    A second signal hurries the stop. Between signals it sleeps: nothing is polled while all goes well.
    """

    def __init__(self) -> None:
        self._processes: list[Process] = []
        self._requests = 0

    def __enter__(self) -> Self:
        # Python runs a handler between two bytecodes, not within a blocking call: the pipe ends that call.
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._handlers_before = {signum: signal.signal(signum, self._request) for signum in STOP_SIGNALS}
        if self._handlers_before[signal.SIGHUP] is signal.SIG_IGN:  # started by nohup
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._handlers_before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for signum, handler in self._handlers_before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._reader)
        os.close(self._writer)

    def add(self, process: Process) -> Process:
        """Watch a process, and stop it at the end, before those that were added earlier."""
        self._processes.append(process)
        return process

    def sleep(self, seconds: float | None) -> None:
        """Sleep for some seconds, or less when a child ends; raises StopRequested at a signal."""
        if not self._requests:
            self._doze(seconds)
        if self._requests:
            raise StopRequested

    def watch(self) -> None:
        """Sleep until a process ends by itself, and raise its failure; raises StopRequested at a signal."""
        while all(process.running for process in self._processes):
            self.sleep(None)
        raise next(process for process in self._processes if not process.running).failure()

    def stop(self) -> None:
        """Stop every process, the last one first, and collect what they leave behind."""
        patience = self._requests
        while self._processes:
            process = self._processes[-1]
            deadline = time.monotonic() + process.grace
            hurried = False
            process.send(process.stop_signal)
            while process.running and (left := deadline - time.monotonic()) > 0:
                if self._requests > patience and not hurried:
                    process.send(process.hurry_signal)
                    hurried, deadline = True, time.monotonic() + HURRY
                self._doze(left)
            process.kill()
            self._processes.pop()

    def _request(self, _signum: int, _frame: FrameType | None) -> None:
        self._requests += 1

    def _doze(self, seconds: float | None) -> None:
        select.select([self._reader], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self._reader, 4096)
