"""Whether an event loop turns, and how late, as it is seen from other threads."""

import asyncio
from time import monotonic
from typing import Any

__all__ = ["LoopWatch"]

# A loop that has not turned for so long does not turn any more. Kubernetes asks three times before it restarts a pod.
STUCK_SECONDS = 15.0
TICK_SECONDS = 1.0
# For so long, and for twice as long at the most, the worst lag is told: no scrape misses it.
TOLD_SECONDS = 60.0


class LoopWatch:
    """Knows whether an event loop turns. `start` it in the loop; ask `alive` and `lag` from any thread."""

    def __init__(self) -> None:
        self._seen = monotonic()
        self._due = self._seen + TICK_SECONDS
        self._worst = self._worst_before = 0.0  # of this minute, and of the one before
        self._minute = self._seen
        self._timer: Any = None

    def start(self) -> None:
        """Begin to watch the running loop."""
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
        """Seconds by which a tick was late at worst, in the last minute or two; or the next one is already."""
        return max(self._worst, self._worst_before, monotonic() - self._due)
