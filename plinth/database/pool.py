"""A connection pool with first-come, first-served waiting.

SQLAlchemy's asyncio pool lets a new task take a connection that was just returned while the task that waited for it is
still waking up. Under load that task goes to the end of the queue again, and the slowest requests wait for many others.
Here a returned connection goes to the oldest waiter directly, and so does the capacity of a connection that was lost.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any, Literal

from prometheus_client import Counter
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet
from sqlalchemy.util.queue import Empty, Full, QueueCommon

from plinth.telemetry.histogram import Family, Histogram, render
from plinth.telemetry.metrics import expose

__all__ = ["POOL_LABEL", "FairQueuePool"]

# For the server to answer: one that is frozen does not, and none does on a connection that the network has dropped.
CLOSE_SECONDS = 0.5

_ROOM = object()  # handed to a waiter that is to open a new connection

POOL_LABEL = "db_client_connection_pool_name"
_WAIT_TIME = Family(
    "db_client_connection_wait_time_seconds",
    "How long tasks waited for a connection of the pool, time-outs included.",
    (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
)
_wait_times: dict[str, Histogram] = {}
_TIMEOUTS = Counter("db_client_connection_timeouts", "Waits for a connection of the pool that timed out.", [POOL_LABEL])

expose(lambda openmetrics: render(_WAIT_TIME, _wait_times.copy().values(), openmetrics))


class _Room(Exception):
    """The task that gets this has capacity reserved to open a new connection."""


class _Counts:
    """The metrics of one pool."""

    def __init__(self, name: str) -> None:
        self.wait_time = _wait_times.setdefault(name, Histogram(_WAIT_TIME, f'{POOL_LABEL}="{name}"'))
        self.timeouts = _TIMEOUTS.labels(name)


class _FairQueue(QueueCommon[Any]):
    """Idle connections and waiting tasks. Never both: a connection is idle only if no task waits.

    `give_up` is called with what finds no task and is not kept: reserved capacity, or a connection once it is `closed`.
    """

    give_up: Callable[[Any], object]
    closed = False

    def __init__(self, maxsize: int = 0, use_lifo: bool = True) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo  # read when a pool is recreated
        self._idle: deque[Any] = deque()
        self._waiters: deque[asyncio.Future[Any]] = deque()
        self.counts: _Counts | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    def qsize(self) -> int:
        return len(self._idle)

    def empty(self) -> bool:
        return not self._idle

    def full(self) -> bool:
        return len(self._idle) >= self.maxsize > 0

    def put_nowait(self, item: Any) -> None:
        if self._hand_over(item):
            return
        if self.closed or self.full():
            raise Full
        self._idle.append(item)

    def hand_over_room(self) -> bool:
        """Let the oldest waiter open a new connection; returns whether there was one."""
        return self._hand_over(_ROOM)

    def _hand_over(self, item: Any) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(item)
                return True
        return False

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self.put_nowait(item)

    def get_nowait(self) -> Any:
        if not self._idle:
            raise Empty
        # The one used last: its caches are warm, and the others can be recycled.
        return self._idle.pop()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        began = perf_counter()
        try:
            return self.get_nowait() if self._idle or not block else await_only(self._wait(timeout))
        finally:
            if self.counts is not None:
                self.counts.wait_time.observe(perf_counter() - began)

    async def _wait(self, timeout: float | None) -> Any:  # noqa: ASYNC109 - QueueCommon's own signature
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                item = await waiter
        except TimeoutError:
            if not waiter.done() or waiter.cancelled():
                if self.counts is not None:
                    self.counts.timeouts.inc()
                raise Empty from None
            item = waiter.result()  # handed over at the moment of the time-out
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                item = waiter.result()
                if self._hand_over(item):
                    pass
                elif item is _ROOM or self.closed:
                    self.give_up(item)
                else:
                    self._idle.append(item)
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        if item is _ROOM:
            raise _Room
        return item


class FairQueuePool(AsyncAdaptedQueuePool):
    """`AsyncAdaptedQueuePool` with first-come, first-served waiting and last-in, first-out reuse."""

    _queue_class = _FairQueue
    _pool: _FairQueue

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pool.give_up = self._give_up

    def count_as(self, name: str) -> None:
        """Count the waits of this pool under a name."""
        self._pool.counts = _Counts(name)

    def _do_get(self) -> ConnectionPoolEntry:
        try:
            return super()._do_get()
        except _Room:
            pass
        try:
            return self._create_connection()
        except BaseException:
            self._dec_overflow()
            raise

    def _give_up(self, item: Any) -> None:
        if item is not _ROOM:
            item.invalidate()  # drops the connection at once: outside a greenlet SQLAlchemy cannot await a close
        super()._dec_overflow()

    def _dec_overflow(self) -> Literal[True]:
        # A connection was lost or could not be opened. The oldest waiter opens it, so the capacity stays taken.
        if not self._pool.hand_over_room():
            super()._dec_overflow()
        return True

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        if terminate and in_greenlet():  # SQLAlchemy waits 2 s for the server's answer
            with suppress(Exception):
                await_only(connection.driver_connection.close(timeout=CLOSE_SECONDS))
        super()._close_connection(connection, terminate=terminate)

    async def aclose(self) -> None:
        """Close the idle connections, all at once; those that are in use are closed when they come back."""
        self._pool.closed = True
        idle = [self._pool.get_nowait() for _ in range(self._pool.qsize())]
        for _ in idle:
            self._dec_overflow()
        connections = [record.driver_connection for record in idle if record.driver_connection is not None]
        closing = (connection.close(timeout=CLOSE_SECONDS) for connection in connections)
        await asyncio.gather(*closing, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """How many tasks wait for a connection."""
        return self._pool.waiting

    @property
    def limit(self) -> int:
        """How many connections it opens at most."""
        return self._pool.maxsize + self._max_overflow
