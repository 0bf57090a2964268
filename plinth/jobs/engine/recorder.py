"""Writes outcomes and progress of runs, in batches.

While one batch is being written the next one collects: a single outcome is written at once, a thousand in a few
statements, and no timer delays either. While the database is away outcomes are kept and tried again. They are dropped
when the worker session is lost, since other workers have its jobs then.

An outcome with follow-up jobs may have to wait for another transaction, one that has enqueued the same unique key, or
take long, if they are thousands. So these outcomes have a lane of their own, and each waits but a moment before it is
put off. Those with a few follow-ups without a key do neither, and have another lane.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any
from uuid import UUID

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.aio import cancel_all
from plinth.database.errors import DatabaseUnavailableError, database_reason, sqlstate
from plinth.jobs.after_commit import after_commit
from plinth.jobs.claimed import ClaimedJob, Progress
from plinth.jobs.context import JobContext
from plinth.jobs.engine.batches import Batches
from plinth.jobs.engine.lane import Lane
from plinth.jobs.engine.step_recorder import StepRecorder
from plinth.jobs.engine.step_store import StepStore
from plinth.jobs.engine.store import Store
from plinth.jobs.enqueue import Insertion
from plinth.jobs.follow_ups import MAX_ROWS
from plinth.jobs.hooks import DiscardedJob, tell_discarded
from plinth.jobs.metrics import LEASES_LOST, of_kind
from plinth.jobs.outcome import Finish, Outcome, Release, State, Suspend, TryAgain, error_entry

__all__ = ["EndedRun", "Recorder", "RunKey"]

log = structlog.get_logger("plinth.jobs.engine.recorder")

# A job's id and the number of the run: a run that has been replaced may go on beside the next one for a while, even in
# the same worker.
RunKey = tuple[UUID, int]

BATCH = 1000
FOLLOW_UP_BATCH = 100
# Those that are put off are tried again so many at a time, behind those that are new: 10 ms each, at most.
FOLLOW_UP_AGAIN = 50
# Seconds that one waits for another transaction before it is put off, and while others are put off.
FOLLOW_UP_WAIT, FOLLOW_UP_SHORT_WAIT = 0.05, 0.005
PROGRESS_SECONDS = 0.5
AWAY_SECONDS = 0.25  # between two attempts while the database is away
# SQLSTATEs: another transaction is in the way, and this one has to try again.
IN_THE_WAY = ("40P01", "40001", "55P03")

Write = Callable[[Sequence[Any]], Awaitable[Collection[UUID]]]


@dataclass(slots=True, eq=False)
class EndedRun:
    """A run that has ended: its job, its outcome, and the jobs that are enqueued with it."""

    job: ClaimedJob
    outcome: Outcome
    follow_ups: Sequence[Insertion] = ()

    @property
    def key(self) -> RunKey:
        return self.job.id, self.job.lease

    @property
    def length(self) -> int:
        """The characters of its result."""
        return len(self.outcome.result or "") if isinstance(self.outcome, Finish) else 0

    @property
    def discarded(self) -> DiscardedJob | None:
        """The job, if the outcome discards it."""
        outcome = self.outcome
        if not isinstance(outcome, Finish) or outcome.state is not State.DISCARDED:
            return None
        error = "" if outcome.error is None else outcome.error["error"]
        return DiscardedJob(self.job.id, self.job.kind, self.job.queue, error)

    @property
    def unique_keys(self) -> set[tuple[str, str]]:
        """The unique keys of its follow-up jobs, each with the kind."""
        rows = ((follow_up.terms.kind, row.unique_key) for follow_up in self.follow_ups for row in follow_up.rows)
        return {(kind, key) for kind, key in rows if key is not None}


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
        measure = attrgetter("length")
        self._plain = Lane(self._write_plain, size=BATCH, again=BATCH, measure=measure)
        self._with_follow_ups, self._slow = (
            Lane(self._write_with_follow_ups, size=FOLLOW_UP_BATCH, again=FOLLOW_UP_AGAIN, measure=measure)
            for _ in range(2)
        )
        self._suspended = Lane(self._write_suspended, size=FOLLOW_UP_BATCH, again=FOLLOW_UP_AGAIN)
        self._lanes = (self._plain, self._with_follow_ups, self._slow, self._suspended)
        self.batches = Batches(store.database)
        self._progress: dict[RunKey, tuple[JobContext, Progress]] = {}
        self._progress_wanted = asyncio.Event()
        # Held while rows of running jobs are locked: two statements of this worker would skip each other's.
        self._rows = asyncio.Lock()
        self.steps = StepRecorder(StepStore(store.database, store.session_id), held=store.held, rows=self._rows)
        self._away = False  # the database is away, and that is logged
        self._waiting: set[RunKey] = set()  # put off, and that is logged

    def pending(self) -> list[EndedRun]:
        """The runs whose outcomes are not committed yet."""
        return [run for lane in self._lanes for run in lane.unwritten]

    def put(self, job: ClaimedJob, outcome: Outcome, follow_ups: Sequence[Insertion] = ()) -> None:
        """Queue the outcome of a run for writing; that of a success in one transaction with its follow-up jobs."""
        run = EndedRun(job, outcome, follow_ups)
        if isinstance(outcome, Suspend):
            self._suspended.put(run)
        elif not follow_ups:
            self._plain.put(run)
        elif sum(len(follow_up.rows) for follow_up in follow_ups) > MAX_ROWS or run.unique_keys:
            self._slow.put(run)
        else:
            self._with_follow_ups.put(run)

    def progress(self, ctx: JobContext, progress: Progress) -> None:
        """Queue a run's progress; it is written within `PROGRESS_SECONDS`, and a later report replaces it."""
        self._progress[ctx.id, ctx.run] = (ctx, progress)
        self._progress_wanted.set()

    async def complete(self, ctx: JobContext, session: AsyncSession, result: str | None) -> bool:
        """Complete a run's job in the session's transaction; False if another run has taken over."""
        await self._write_progress()  # the last report goes into the history with the job
        done = await self._store.finish_in(session, Finish(ctx.id, ctx.run, State.SUCCEEDED, result=result))
        if done and ctx.batch is not None:
            after_commit(session, partial(self.batches.look_at, [ctx.batch]))
        return done

    @property
    def backlog(self) -> int:
        """Outcomes that are not committed yet."""
        return sum(map(len, self._lanes))

    @property
    def pressing(self) -> int:
        """Outcomes that are not committed yet and wait for no other transaction."""
        return self.backlog - sum(lane.put_off for lane in self._lanes)

    async def drained(self) -> None:
        """Wait until all outcomes are committed, and batches have ended by them."""
        while self.backlog or len(self.batches.lane):
            for lane in (*self._lanes, self.batches.lane):
                await lane.idle.wait()

    async def run(self) -> None:
        """Write, for ever."""
        lanes = (*self._lanes, self.batches.lane)
        parts = (*(lane.run() for lane in lanes), self.steps.run(), self._report_progress())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await asyncio.gather(*tasks)
        finally:
            await cancel_all(tasks)

    async def _write_plain(self, runs: Sequence[EndedRun]) -> set[EndedRun]:
        await self._write_progress()  # first, so that a job's last report goes into the history with it
        put_off: set[EndedRun] = set()
        for kind, write in (
            (Finish, self._store.finish),
            (TryAgain, self._store.retry),
            (Release, self._store.release),
        ):
            if some := [run for run in runs if isinstance(run.outcome, kind)]:
                put_off |= await self._persist(some, write)
        self._committed(runs, put_off)
        return put_off

    async def _write_suspended(self, runs: Sequence[EndedRun]) -> set[EndedRun]:
        await self._write_progress()
        put_off = await self._persist(runs, self._store.suspend)
        self._committed(runs, put_off)
        return put_off

    async def _write_with_follow_ups(self, runs: Sequence[EndedRun]) -> set[EndedRun]:
        await self._write_progress()
        follow_ups = {run.job.id: run.follow_ups for run in runs}

        async def write(outcomes: Sequence[Finish]) -> set[UUID]:
            wait = FOLLOW_UP_SHORT_WAIT if self._waiting else FOLLOW_UP_WAIT
            return await self._store.finish_with_follow_ups(follow_ups, outcomes, wait=wait)

        put_off = await self._persist(runs, write)
        self._committed(runs, put_off)
        return put_off

    def _committed(self, runs: Sequence[EndedRun], put_off: set[EndedRun]) -> None:
        written = [run for run in runs if run not in put_off]
        self._on_written(written)
        self.batches.look_at(run.job.batch_id for run in written)

    async def _persist(self, runs: Sequence[EndedRun], write: Write) -> set[EndedRun]:
        """Write outcomes of one kind; returns the runs that are put off."""
        tried = False
        while True:
            try:
                done = await write([run.outcome for run in runs])
                missed = [run for run in runs if run.job.id not in done]
                held = await self._store.held([run.key for run in missed]) if missed else set()
                break
            except Exception as error:  # noqa: BLE001 - logged, or tried again
                if sqlstate(error) in IN_THE_WAY or not isinstance(error, DatabaseUnavailableError):
                    if len(runs) > 1:
                        return await self._persist_each(runs, write)
                    if sqlstate(error) in IN_THE_WAY:
                        return self._wait_for(runs[0], error)
                    return await self._give_up(runs[0], error)
                if not self._away:
                    log.warning("outcomes cannot be written; they are kept", count=self.backlog, error=str(error))
                self._away = tried = True
                await asyncio.sleep(AWAY_SECONDS)
        self._away = False
        self._waiting.difference_update(run.key for run in runs)
        tell_discarded(run.discarded for run in runs if run.job.id in done and run.discarded is not None)
        for run in missed:
            if run.key not in held and not tried:  # after a retry, the earlier attempt may have committed
                LEASES_LOST.inc()
                log.warning("an outcome came too late; the job was taken away", job_id=str(run.job.id))
        return {run for run in missed if run.key in held}

    async def _persist_each(self, runs: Sequence[EndedRun], write: Write) -> set[EndedRun]:
        """Write outcomes each by itself: one must not fail or delay the others.

        One that needs all the keys of one that waits would wait as well, and is not tried.
        """
        put_off: set[EndedRun] = set()
        waited_for: list[set[tuple[str, str]]] = []
        for run in runs:
            keys = run.unique_keys
            if any(waited <= keys for waited in waited_for):
                put_off.add(run)
                continue
            put_off |= await self._persist([run], write)
            if keys and run.key in self._waiting:
                waited_for.append(keys)
        return put_off

    def _wait_for(self, run: EndedRun, error: Exception) -> set[EndedRun]:
        if run.key not in self._waiting:
            self._waiting.add(run.key)
            kinds = sorted({follow_up.terms.kind for follow_up in run.follow_ups})
            log.warning(
                "an outcome waits for another transaction",
                job_id=str(run.job.id),
                kind=run.job.kind,
                follow_ups=kinds,
                error=database_reason(error),
            )
        return {run}

    async def _give_up(self, run: EndedRun, error: Exception) -> set[EndedRun]:
        """Discard a job whose outcome the database refuses: an operator sees why in the dead letter."""
        job, outcome = run.job, run.outcome
        log.error("an outcome cannot be written", job_id=str(job.id), exc_info=error)
        if isinstance(outcome, Finish) and outcome.state is State.DISCARDED:
            return set()  # refused as well: the reaper finds the run past its deadline
        entry = error_entry(
            "error",
            run=job.lease,
            attempt=job.attempt,
            error="What came of this run could not be written.",
            exception=error,
        )
        of_kind(job.kind).finished["discarded"].inc()  # beside the outcome that was counted when the run ended
        discarded = EndedRun(job, Finish(job.id, job.lease, State.DISCARDED, entry))
        return await self._persist([discarded], self._store.finish)

    # --- progress ---

    async def _report_progress(self) -> None:
        while True:
            await self._progress_wanted.wait()
            await asyncio.sleep(PROGRESS_SECONDS)
            await self._write_progress()

    async def _write_progress(self) -> None:
        async with self._rows:  # by this call, or by the one that took the reports
            self._progress_wanted.clear()
            words, self._progress = self._progress, {}
            try:
                if words:
                    await self._write_reports(words)
            except asyncio.CancelledError:  # of one run that completes: the reports are those of all
                self._progress = words | self._progress
                self._progress_wanted.set()
                raise

    async def _write_reports(self, words: dict[RunKey, tuple[JobContext, Progress]]) -> None:
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
