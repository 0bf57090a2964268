"""Watches jobs for event streams: all watchers of a process share one query each half second."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from uuid import UUID

import structlog

from plinth.aio import cancel_all
from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.errors import ConcurrencyLimitError, ServiceUnavailableError
from plinth.jobs.admin.jobs import JobView, summaries

__all__ = ["JobWatch", "Watcher"]

log = structlog.get_logger("plinth.jobs.admin.watch")

POLL_SECONDS = 0.5
MAX_WATCHERS = 500
MAX_WATCHERS_EACH = 50  # for each caller
RETRY_AFTER_SECONDS = 5


class Watcher:
    """One watcher of one job. Its snapshots are summaries: see `JobView.summary`."""

    def __init__(self, snapshot: JobView, caller: str) -> None:
        self.job_id = snapshot.id
        self.caller = caller
        self._snapshot: JobView | None = snapshot
        self._changed = asyncio.Event()

    async def next(self) -> JobView | None:
        """Wait until the job has changed and return it. None: the watch has ended."""
        await self._changed.wait()
        self._changed.clear()
        return self._snapshot

    def tell(self, snapshot: JobView | None) -> None:
        if snapshot != self._snapshot:
            self._snapshot = snapshot
            self._changed.set()


class JobWatch:
    """The watchers of a process: up to `MAX_WATCHERS`, and up to `MAX_WATCHERS_EACH` of one caller."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watchers: set[Watcher] = set()
        self._polling: asyncio.Task[None] | None = None
        self._stopped = False

    @contextmanager
    def watching(self, snapshot: JobView, caller: str) -> Iterator[Watcher]:
        """Watch a job while the block runs, from the snapshot that the caller has seen.

        Raises:
            ConcurrencyLimitError: the caller has too many watchers.
            ServiceUnavailableError: there are too many in all.
        """
        if sum(watcher.caller == caller for watcher in self._watchers) >= MAX_WATCHERS_EACH:
            raise ConcurrencyLimitError(RETRY_AFTER_SECONDS, f"You are watching {MAX_WATCHERS_EACH} jobs here already.")
        if len(self._watchers) >= MAX_WATCHERS:
            raise ServiceUnavailableError("Too many jobs are being watched here.", code="too_many_watchers")
        watcher = Watcher(snapshot, caller)
        self._watchers.add(watcher)
        if self._stopped:
            watcher.tell(None)
        elif self._polling is None or self._polling.done():
            # In its own context, because it is not part of the first watcher's request.
            self._polling = asyncio.get_running_loop().create_task(self._poll(), context=Context())
        try:
            yield watcher
        finally:
            self._watchers.remove(watcher)

    def stop(self) -> None:
        """End all watches, present and future."""
        self._stopped = True
        if self._polling is not None:
            self._polling.cancel()
        for watcher in self._watchers:
            watcher.tell(None)

    async def aclose(self) -> None:
        self.stop()
        if self._polling is not None:
            await cancel_all([self._polling])

    async def _poll(self) -> None:
        away = False
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._watchers:
                return
            asked = list(self._watchers)
            try:
                found = await self._look(list({watcher.job_id for watcher in asked}))
                for watcher in asked:
                    watcher.tell(found.get(watcher.job_id))  # None: it is in neither table, it has been pruned
                away = False
            except DatabaseUnavailableError:
                if not away:
                    log.warning("the database is away: jobs cannot be watched")
                away = True
            except Exception:
                log.exception("jobs cannot be watched")

    async def _look(self, ids: Sequence[UUID]) -> dict[UUID, JobView]:
        async with self._database.session() as session:
            return {job.id: job for job in await summaries(session, ids)}
