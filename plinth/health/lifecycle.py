"""The life of a process that serves the API, as its second port tells it: alive, ready, draining.

The event loop enters `running`; all else may be asked, and asked for, from any thread.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import sleep

from plinth.health.loop_watch import LoopWatch
from plinth.health.readiness import Readiness
from plinth.telemetry.metrics import LOOP_LAG

__all__ = ["Lifecycle"]


class Lifecycle:
    """Of one application. `drain_seconds`: how long its clients have to move before it ends."""

    draining = False
    """Whether every response says `Connection: close`, so that its client comes again at another process."""

    def __init__(self, drain_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        self._watch = LoopWatch()
        self._readiness: Readiness | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end_streams: Sequence[Callable[[], None]] = ()

    @contextmanager
    def running(self, readiness: Readiness, end_streams: Sequence[Callable[[], None]]) -> Iterator[None]:
        """The application serves on the running loop while the block runs.

        `end_streams` are called there when draining begins: a response that goes on and on keeps its client here.
        """
        self._readiness = readiness
        self._end_streams = end_streams
        self._loop = asyncio.get_running_loop()
        self._watch.start()
        try:
            with LOOP_LAG.by(lambda: [((), self._watch.lag)]):
                yield
        finally:
            self._watch.stop()
            self._readiness = self._loop = None

    @property
    def alive(self) -> bool:
        """Whether the event loop turns. A process that has not come so far yet is given the same time."""
        return self._watch.alive

    @property
    def ready(self) -> bool:
        """What `/public/health/ready` says."""
        readiness = self._readiness
        return readiness is not None and readiness.status != "unavailable"

    def drain(self) -> None:
        """Send the clients elsewhere; returns when they have had their time. For a thread: it sleeps.

        New connections are served as before, and so they must: others go on sending them until the news that this
        process leaves has reached them all.
        """
        self.draining = True
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):  # the loop has just been closed, and its streams with it
                for function in self._end_streams:
                    loop.call_soon_threadsafe(function)
        sleep(self._drain_seconds)
