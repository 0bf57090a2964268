"""The state of an API process for its probes: alive, ready, draining.

The event loop enters `running`; everything else may be called from any thread.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import sleep

from plinth.health.loop_watch import LoopWatch
from plinth.health.readiness import Readiness

__all__ = ["Lifecycle"]


class Lifecycle:
    """The lifecycle of one application. `drain_seconds`: how long `drain` waits for clients to move."""

    draining = False
    """Whether every response says `Connection: close`, so that clients reconnect to another process."""

    def __init__(self, drain_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        self._watch = LoopWatch()
        self._readiness: Readiness | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end_streams: Sequence[Callable[[], None]] = ()

    @contextmanager
    def running(self, readiness: Readiness, end_streams: Sequence[Callable[[], None]]) -> Iterator[None]:
        """Mark the application as serving on the running loop while the block runs.

        `end_streams` are called on the loop when draining begins, to end open event streams.
        """
        self._readiness = readiness
        self._end_streams = end_streams
        self._loop = asyncio.get_running_loop()
        try:
            with self._watch.running():
                yield
        finally:
            self._readiness = self._loop = None

    @property
    def alive(self) -> bool:
        """Whether the event loop turns. A starting process gets the same time."""
        return self._watch.alive

    @property
    def ready(self) -> bool:
        """Whether `/public/health/ready` answers 200."""
        readiness = self._readiness
        return readiness is not None and readiness.status != "unavailable"

    def drain(self) -> None:
        """Send clients elsewhere and return after `drain_seconds`. Blocks: call it in a thread.

        New connections are still served: load balancers send them until they have learned that this process leaves.
        """
        self.draining = True
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):  # the loop has just been closed, and its streams with it
                for function in self._end_streams:
                    loop.call_soon_threadsafe(function)
        sleep(self._drain_seconds)
