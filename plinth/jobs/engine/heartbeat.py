"""The heartbeat: renews a worker session from its own thread, over its own connection.

A job that blocks the event loop, or an exhausted pool, must not make a live worker look dead. A worker that cannot
renew learns it early enough to stop its runs before another worker starts them.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from uuid import UUID

import structlog

from plinth.database.engine import Database, one_connection
from plinth.jobs.engine.sql import CANCELLED_RUNS, RENEW_SESSION
from plinth.jobs.metrics import HEARTBEAT_LAG
from plinth.settings import PlatformSettings
from plinth.telemetry.metrics import Labels

__all__ = ["Heartbeat"]

log = structlog.get_logger("plinth.jobs.engine.worker")

BEATS = 4  # in the time until a session expires
CANCELLED_SECONDS = 0.5  # to learn which jobs are to be cancelled; at most a beat, and a stop waits for it


class Heartbeat:
    """Renews `session_id` until `stop`. The callbacks are called in the event loop that called `start`.

    `on_cancelled` gets the jobs of this session with a cancellation request, at each beat; `on_lost` is called once,
    when the session has expired or is about to.

    `answered`: whether the database answered the last beat.
    """

    answered = True

    def __init__(
        self,
        settings: PlatformSettings,
        session_id: UUID,
        *,
        on_cancelled: Callable[[list[UUID]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._timeout = settings.JOBS_SESSION_TIMEOUT
        self._interval = self._timeout / BEATS
        self._settings = settings
        self._session_id = session_id
        self._on_cancelled = on_cancelled
        self._on_lost = on_lost
        self._thread = threading.Thread(target=lambda: asyncio.run(self._beat()), name="heartbeat", daemon=True)
        self._started = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        self._caller = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._thread.start()
        self._started.wait()

    async def stop(self) -> None:
        """Stop the thread and wait for its end. May be called again."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # its loop has just ended
                self._loop.call_soon_threadsafe(self._stopping.set)
            await self._ended.wait()  # not by `to_thread`: handlers may occupy all threads

    async def _beat(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._started.set()
        database = one_connection(self._settings, self._interval)
        self._renewed_at = monotonic()  # the session has just been opened
        HEARTBEAT_LAG.add(self._lag)
        try:
            while not self._stopping.is_set():
                began = monotonic()
                try:
                    alive = await self._renew(database)
                    self._renewed_at = began
                    self.answered = True
                except Exception as error:  # noqa: BLE001 - logged, once for an outage
                    # Two more beats fit in before the session expires: time to stop its runs.
                    alive = self._since_renewal() < self._timeout - self._interval
                    if self.answered:
                        log.warning("no answer to the heartbeat", error=repr(error))
                    self.answered = False
                if not alive:
                    self._caller.call_soon_threadsafe(self._on_lost)
                    return
                if self.answered and (cancelled := await self._cancelled(database)):
                    self._caller.call_soon_threadsafe(self._on_cancelled, cancelled)
                await self._pause(self._interval - (monotonic() - began))
        finally:
            HEARTBEAT_LAG.remove(self._lag)
            await database.aclose()
            with suppress(RuntimeError):  # the worker's loop has ended
                self._caller.call_soon_threadsafe(self._ended.set)

    async def _renew(self, database: Database) -> bool:
        async with asyncio.timeout(self._interval), database.connection() as connection:
            renewed = await connection.fetchval(RENEW_SESSION, self._session_id, timedelta(seconds=self._timeout))
        return renewed is not None

    async def _cancelled(self, database: Database) -> list[UUID]:
        """Return the jobs of this session with a cancellation request. The next beat asks again."""
        try:
            async with asyncio.timeout(CANCELLED_SECONDS), database.connection() as connection:
                return [row["id"] for row in await connection.fetch(CANCELLED_RUNS, self._session_id)]
        except Exception as error:  # noqa: BLE001 - the session has been renewed, and lives on
            log.debug("cancellation is left to the next heartbeat", error=repr(error))
            return []

    def _since_renewal(self) -> float:
        return monotonic() - self._renewed_at

    def _lag(self) -> list[tuple[Labels, float]]:
        return [((), self._since_renewal())]

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0, seconds)):
                await self._stopping.wait()
