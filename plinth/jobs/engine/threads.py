"""The threads of a worker: plain functions run in them, and what a coroutine sends there by `asyncio.to_thread`."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic

from plinth.telemetry.metrics import Observed

__all__ = ["HandlerThreads"]

NAME = "handlers"
SPARE = 4  # for name look-ups and the like, beside one for each slot
TICK_SECONDS = 1.0

_WAIT = Observed(
    "plinth_worker_threads_wait_seconds",
    "For how long a worker's threads have taken no new work. Grows while each of them is stuck.",
)


class HandlerThreads(ThreadPoolExecutor):
    """A thread for each slot of a worker, and some to spare.

    Once a second `running` gives them nothing to do: while that waits, all of them are at work.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(slots + SPARE, thread_name_prefix=NAME)
        self._asked: float | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch the threads, and show among the metrics how long they let work wait, while the block runs."""
        self._tick()
        try:
            with _WAIT.by(lambda: [((), self.waiting)]):
                yield
        finally:
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        if self._asked is None:
            self._asked = monotonic()
            self.submit(self._answer)

    def _answer(self) -> None:
        self._asked = None

    @property
    def waiting(self) -> float:
        """For how many seconds no thread has taken new work."""
        asked = self._asked
        return 0.0 if asked is None else monotonic() - asked
