"""Writes outcomes and progress of runs, in batches.

While one batch is being written the next one collects: a single outcome is written at once, a thousand in a few
statements, and no timer delays either. While the database is away outcomes are kept and tried again. They are dropped
when the worker session is lost, since other workers have its jobs then.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.errors import DatabaseUnavailableError, is_conflict
from plinth.jobs.context import ClaimedJob, JobContext, Progress
from plinth.jobs.engine.store import Store
from plinth.jobs.enqueue import Insertion
from plinth.jobs.metrics import LEASES_LOST, of_kind
from plinth.jobs.outcome import Finish, Outcome, Release, Retry, State, error_entry

__all__ = ["EndedRun", "Recorder", "RunKey"]

log = structlog.get_logger("plinth.jobs.engine.recorder")

# A job's id and the number of the run: a run that has been replaced may go on beside the next one for a while, even in
# the same worker.
RunKey = tuple[UUID, int]

BATCH = 1000
PROGRESS_SECONDS = 0.5
AWAY_SECONDS = 0.25  # between two attempts while the database is away
LOCKED_SECONDS = 0.25  # until a locked row is tried again

Write = Callable[[Sequence[Any]], Awaitable[Collection[UUID]]]


@dataclass(frozen=True, slots=True, eq=False)
class EndedRun:
    """A run that has ended: its job, its outcome, and the jobs that are enqueued with it."""

    job: ClaimedJob
    outcome: Outcome
    follow_ups: Sequence[Insertion] = ()

    @property
    def key(self) -> RunKey:
        return self.job.id, self.job.lease


class Recorder:
    """Writes outcomes and progress in batches.

    `on_written` gets each batch of ended runs once it has committed, `on_lost` each run that has lost its lease.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_written: Callable[[Sequence[EndedRun]], None],
        on_lost: Callable[[RunKey], None],
    ) -> None:
        self._store = store
        self._on_written = on_written
        self._on_lost = on_lost
        self._ended: list[EndedRun] = []
        self._batch: list[EndedRun] = []  # being written
        self._locked: list[EndedRun] = []  # their rows were locked; tried again
        self._progress: dict[RunKey, tuple[JobContext, Progress]] = {}
        self._progress_timer: asyncio.TimerHandle | None = None
        self._away = False  # the database is away, and that is logged
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def backlog(self) -> int:
        """Outcomes that are not committed yet."""
        return len(self._ended) + len(self._batch) + len(self._locked)

    def pending(self) -> list[RunKey]:
        """The runs whose outcomes are not committed yet."""
        return [run.key for run in (*self._ended, *self._batch, *self._locked)]

    def put(self, job: ClaimedJob, outcome: Outcome, follow_ups: Sequence[Insertion] = ()) -> None:
        """Queue the outcome of a run for writing, in one transaction with its follow-up jobs."""
        self._ended.append(EndedRun(job, outcome, follow_ups))
        self._idle.clear()
        self._wanted.set()

    def progress(self, ctx: JobContext, progress: Progress) -> None:
        """Queue a run's progress; it is written within `PROGRESS_SECONDS`, and a later report replaces it."""
        self._progress[ctx.id, ctx.run] = (ctx, progress)
        if self._progress_timer is None:
            self._progress_timer = asyncio.get_running_loop().call_later(PROGRESS_SECONDS, self._wanted.set)

    async def complete(self, ctx: JobContext, session: AsyncSession) -> bool:
        """Complete a run's job in the session's transaction; False if another run has taken over."""
        await self._write_progress()  # the last report goes into the history with the job
        return await self._store.finish_in(session, Finish(ctx.id, ctx.run, State.SUCCEEDED))

    async def drained(self) -> None:
        """Wait until all outcomes are committed."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if self._progress_timer is not None:
                self._progress_timer.cancel()
                self._progress_timer = None
            # Progress first, so that a job's last report goes into the history with it.
            await self._write_progress()
            while self._ended:
                self._batch, self._ended = self._ended[:BATCH], self._ended[BATCH:]
                locked = await self._write_batch()
                written = [run for run in self._batch if run not in locked]
                self._batch = []
                if locked:
                    self._locked += locked
                    asyncio.get_running_loop().call_later(LOCKED_SECONDS, self._try_locked)
                self._on_written(written)
            if not self._locked:
                self._idle.set()

    def _try_locked(self) -> None:
        self._ended += self._locked
        self._locked = []
        self._wanted.set()

    async def _write_batch(self) -> set[EndedRun]:
        """Write the batch; returns the runs that are to be tried again."""
        plain = [run for run in self._batch if not run.follow_ups]
        locked: set[EndedRun] = set()
        for kind, write in (
            (Finish, self._store.finish),
            (Retry, self._store.retry),
            (Release, self._store.release),
        ):
            if some := [run for run in plain if isinstance(run.outcome, kind)]:
                locked |= await self._persist(some, write)
        for run in self._batch:
            if run.follow_ups:
                locked |= await self._persist([run], partial(self._finish_with_follow_ups, run.follow_ups))
        return locked

    async def _persist(self, runs: Sequence[EndedRun], write: Write) -> set[EndedRun]:
        """Write outcomes of one kind; returns the runs that are to be tried again."""
        tried = False
        while True:
            try:
                done = await write([run.outcome for run in runs])
                missed = [run for run in runs if run.job.id not in done]
                held = await self._store.held([run.key for run in missed]) if missed else set()
                break
            except DatabaseUnavailableError:
                if not self._away:
                    log.warning("the database is away; outcomes are kept", count=self.backlog)
                self._away = tried = True
                await asyncio.sleep(AWAY_SECONDS)
            except Exception as error:  # noqa: BLE001 - logged, or tried again
                if len(runs) > 1:  # one bad outcome must not fail the others
                    return {again for run in runs for again in await self._persist([run], write)}
                if is_conflict(error):
                    return set(runs)
                return await self._give_up(runs[0], error)
        self._away = False
        for run in missed:
            if run.key not in held and not tried:  # after a retry, the earlier attempt may have committed
                LEASES_LOST.inc()
                log.warning("an outcome came too late; the job was taken away", job_id=str(run.job.id))
        return {run for run in missed if run.key in held}

    async def _give_up(self, run: EndedRun, error: Exception) -> set[EndedRun]:
        """Discard a job whose outcome the database refuses: an operator sees why in the dead letter."""
        job, outcome = run.job, run.outcome
        log.error("an outcome cannot be written", job_id=str(job.id), exc_info=error)
        if isinstance(outcome, Finish) and outcome.state is State.DISCARDED:
            return set()  # refused as well: the reaper finds the run past its deadline
        entry = error_entry(
            "error", run=job.lease, attempt=0, error="What came of this run could not be written.", exception=error
        )
        of_kind(job.kind).finished["discarded"].inc()  # beside the outcome that was counted when the run ended
        discarded = EndedRun(job, Finish(job.id, job.lease, State.DISCARDED, entry))
        return await self._persist([discarded], self._store.finish)

    async def _finish_with_follow_ups(
        self, follow_ups: Sequence[Insertion], outcomes: Sequence[Finish]
    ) -> Collection[UUID]:
        (outcome,) = outcomes
        async with self._store.database.session() as session:
            if not await self._store.finish_in(session, outcome):
                return ()
            for follow_up in follow_ups:
                await follow_up.execute(session)
        return (outcome.id,)

    async def _write_progress(self) -> None:
        words, self._progress = self._progress, {}
        if not words:
            return
        rows = [(ctx.id, ctx.run, word.done, word.total, word.message) for ctx, word in words.values()]
        try:
            missed = words.keys() - await self._store.write_progress(rows)
            lost = missed - await self._store.held(list(missed)) if missed else ()
        except DatabaseUnavailableError:
            return  # the next report will be written
        except Exception:
            log.exception("progress cannot be written")
            return
        for key in lost:
            self._on_lost(key)
