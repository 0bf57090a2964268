"""What a worker repeats for the whole fleet: makes due jobs available, reaps lost runs, tends batches, prunes."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from plinth.database.engine import DatabaseUnavailableError
from plinth.jobs.engine.batches import Batches
from plinth.jobs.engine.prune_sql import PRUNE_ROWS
from plinth.jobs.engine.store import Store
from plinth.jobs.hooks import DiscardedJob, tell_discarded
from plinth.jobs.kinds import JobKind
from plinth.jobs.metrics import HOUSEKEEPING, UNKNOWN_KIND
from plinth.jobs.metrics import reaped as reaped_of
from plinth.jobs.outcome import State
from plinth.settings import PlatformSettings

__all__ = ["PRUNE_SECONDS", "Housekeeping", "every"]

log = structlog.get_logger("plinth.jobs.engine.worker")

PRUNE_SECONDS = 60.0
# Fraction of the interval, either way, so that workers started together do not query in step.
JITTER = 0.2


async def every(seconds: float, name: str, step: Callable[[], Awaitable[float | None]]) -> None:
    """Repeat `step` for ever, about every `seconds` or as many as it returns; log its exceptions, time it."""
    failing = False
    duration = HOUSEKEEPING.labels(name)
    while True:
        wait = None
        try:
            with duration.time():
                wait = await step()
            failing = False
        except DatabaseUnavailableError as error:
            if not failing:  # once for an outage
                log.warning("the database is away", step=name, reason=error.reason)
            failing = True
        except Exception:
            log.exception("a step of the worker failed", step=name)
        if wait is None:
            wait = seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
        await asyncio.sleep(wait)


class Housekeeping:
    """Sweeps, reaps, tends batches and prunes; any worker does it for all.

    `on_work` is called when this worker may find a job to claim, `on_freed` with the queues of jobs that were taken
    away from lost runs.
    """

    def __init__(
        self,
        store: Store,
        settings: PlatformSettings,
        queues: Sequence[str],
        kinds: Mapping[str, JobKind[Any]],
        batches: Batches,
        *,
        on_work: Callable[[], None],
        on_freed: Callable[[set[str]], None],
    ) -> None:
        self._store = store
        self._settings = settings
        self._queues = queues
        self._kinds = list(kinds)
        self._kept = {name: kind.keep for name, kind in kinds.items() if kind.keep is not None}
        self._batches = batches
        self._on_work = on_work
        self._on_freed = on_freed

    async def sweep(self) -> None:
        """Make due jobs available, and reap if there are lost runs."""
        more = True
        while more:
            work, more, lost = await self._store.sweep(self._queues, self._kinds)
            if work:
                self._on_work()
        if lost:
            await self._reap()

    async def _reap(self) -> None:
        with HOUSEKEEPING.labels("reap").time():
            reaped = await self._store.reap(max_crashes=self._settings.JOBS_MAX_CRASHES)
        for job in reaped:
            reaped_of(job.kind if job.kind in self._kinds else UNKNOWN_KIND)[job.fate].inc()
            log.warning(
                "a job was taken away from its run",
                job_id=str(job.id),
                kind=job.kind,
                why="hung" if job.hung else "worker lost",
                fate=job.fate,
            )
            if job.fate == State.DISCARDED:
                error = "The attempt did not end at its time limit." if job.hung else "It crashed too many workers."
                tell_discarded([DiscardedJob(job.id, job.kind, job.queue, error)])
        if reaped:
            self._on_freed({job.queue for job in reaped})
            self._batches.look_at(job.batch_id for job in reaped)

    async def prune(self) -> None:
        """Delete records that are older than the settings keep them."""
        await self._reap()  # also deletes sessions that expired long ago
        await self._batches.tend()
        day = 86_400
        # A dead letter is work that is not done: no kind keeps it for another time.
        for state, days, of_kinds in (
            (State.SUCCEEDED, self._settings.JOBS_KEEP_SUCCEEDED_DAYS, self._kept),
            (State.CANCELLED, self._settings.JOBS_KEEP_SUCCEEDED_DAYS, self._kept),
            (State.DISCARDED, self._settings.JOBS_KEEP_DISCARDED_DAYS, {}),
        ):
            while await self._store.prune(state, days * day, of_kinds=of_kinds) == PRUNE_ROWS:
                log.debug("deleted records of ended jobs", state=state)
        # A job may wait for an event that was emitted long ago.
        while await self._store.prune_events(self._settings.JOBS_KEEP_DISCARDED_DAYS * day) == PRUNE_ROWS:
            log.debug("deleted events")
        while await self._store.prune_starts() == PRUNE_ROWS:
            log.debug("deleted starts of jobs")
        while await self._store.prune_keys() == PRUNE_ROWS:
            log.debug("deleted unique keys that are free")
        keep = max(self._settings.JOBS_KEEP_SUCCEEDED_DAYS, self._settings.JOBS_KEEP_DISCARDED_DAYS)
        while await self._store.prune_batches(keep * day) == PRUNE_ROWS:
            log.debug("deleted batches")
        while await self._store.prune_audit(self._settings.AUDIT_KEEP_DAYS * day) == PRUNE_ROWS:
            log.debug("deleted audit records")
