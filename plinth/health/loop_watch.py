"""Measures from other threads whether an event loop turns, and its lag."""

import asyncio
from time import monotonic
from typing import Any

__all__ = ["LoopWatch"]

# Seconds after which a loop counts as hung. Kubernetes probes three times before it restarts a pod.
STUCK_SECONDS = 15.0
TICK_SECONDS = 1.0
# The worst lag is shown for one to two of these intervals, so that no scrape misses it. Seconds.
TOLD_SECONDS = 60.0


class LoopWatch:
    """Watches an event loop. Call `start` in the loop; read `alive` and `lag` from any thread."""

    def __init__(self) -> None:
        self._seen = monotonic()
        self._due = self._seen + TICK_SECONDS
        self._worst = self._worst_before = 0.0  # of this minute, and of the one before
        self._minute = self._seen
        self._timer: Any = None

    def start(self) -> None:
        """Start watching the running loop."""
        self._loop = asyncio.get_running_loop()
        self._due = monotonic()
        self._tick()

    def stop(self) -> None:
        if self._timer is not None:
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
