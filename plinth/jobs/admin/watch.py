"""Watches jobs for event streams: all watchers of a process share one query each half second."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from uuid import UUID

import structlog

from plinth.aio import cancel_all
from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.errors import ServiceUnavailableError
from plinth.jobs.admin.jobs import JobView, summaries

__all__ = ["JobWatch", "Watcher"]

log = structlog.get_logger("plinth.jobs.admin.watch")

POLL_SECONDS = 0.5
MAX_WATCHERS = 500
MAX_WATCHERS_EACH = 50  # for each caller


class Watcher:
    """One watcher of one job. Its snapshots are summaries: see `JobView.summary`."""

    def __init__(self, snapshot: JobView) -> None:
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
        self._watchers: dict[UUID, set[Watcher]] = {}
        self._callers: Counter[str] = Counter()
        self._polling: asyncio.Task[None] | None = None
        self._stopped = False

    @contextmanager
    def watching(self, snapshot: JobView, caller: str) -> Iterator[Watcher]:
        """Watch a job while the block runs, from the snapshot that the caller has seen.

        Raises:
            ServiceUnavailableError: there are too many watchers.
        """
        if self._callers.total() >= MAX_WATCHERS or self._callers[caller] >= MAX_WATCHERS_EACH:
            raise ServiceUnavailableError("Too many jobs are being watched here.", code="too_many_watchers")
        watcher = Watcher(snapshot)
        self._watchers.setdefault(snapshot.id, set()).add(watcher)
        self._callers[caller] += 1
        if self._stopped:
            watcher.tell(None)
        elif self._polling is None or self._polling.done():
            # In its own context, because it is not part of the first watcher's request.
            self._polling = asyncio.get_running_loop().create_task(self._poll(), context=Context())
        try:
            yield watcher
        finally:
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]
            self._watchers[snapshot.id].discard(watcher)
            if not self._watchers[snapshot.id]:
                del self._watchers[snapshot.id]

    def stop(self) -> None:
        """End all watches, present and future."""
        if self._stopped:
            return
        self._stopped = True
        if self._polling is not None:
            self._polling.cancel()
        self._tell({}, list(self._watchers))

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
            ids = list(self._watchers)
            try:
                self._tell(await self._look(ids), ids)
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

    def _tell(self, snapshots: dict[UUID, JobView], ids: Sequence[UUID]) -> None:
        # A job that is in neither table has been pruned.
        for job_id in ids:
            for watcher in self._watchers.get(job_id, ()):
                watcher.tell(snapshots.get(job_id))
