"""Measures from other threads whether an event loop turns, and its lag."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from plinth.telemetry.metrics import Observed

__all__ = ["LoopWatch"]

# Seconds after which a loop counts as hung. Kubernetes probes three times before it restarts a pod.
STUCK_SECONDS = 15.0
TICK_SECONDS = 1.0
# The worst lag is shown for one to two of these intervals, so that no scrape misses it. Seconds.
TOLD_SECONDS = 60.0

_LAG = Observed(
    "plinth_event_loop_lag_seconds",
    "How late the event loop is: by how much its last tick was, or the next one is already. Grows while it is stuck.",
)


class LoopWatch:
    """Watches an event loop. Enter `running` in the loop; read `alive` and `lag` from any thread."""

    def __init__(self) -> None:
        self._seen = monotonic()
        self._due = self._seen + TICK_SECONDS
        self._worst = self._worst_before = 0.0  # of this minute, and of the one before
        self._minute = self._seen

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch the running loop, and show its lag among the metrics, while the block runs."""
        self._loop = asyncio.get_running_loop()
        self._due = monotonic()
        self._tick()
        try:
            with _LAG.by(lambda: [((), self.lag)]):
                yield
        finally:
            self._timer.cancel()

    def _tick(self) -> None:
        self._seen = monotonic()
        if self._seen - self._minute >= TOLD_SECONDS:
            self._worst_before, self._worst, self._minute = self._worst, 0.0, self._seen
        self._worst = max(self._worst, self._seen - self._due)
        self._due = self._seen + TICK_SECONDS
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    @property
    def alive(self) -> bool:
        return monotonic() - self._seen < STUCK_SECONDS

    @property
    def lag(self) -> float:
        """The worst lag in seconds of the last one to two minutes, including a tick that is due now."""
        return max(self._worst, self._worst_before, monotonic() - self._due)
