"""Claims and runs jobs under one worker session, until the worker stops or the session expires."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from random import random
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from plinth.aio import cancel_all
from plinth.database.engine import Database, DatabaseUnavailableError, TransactionConflictError
from plinth.database.errors import database_reason
from plinth.jobs.claimed import ClaimedJob
from plinth.jobs.context import JobContext
from plinth.jobs.doorbell import Doorbell
from plinth.jobs.engine.claims import Claims
from plinth.jobs.engine.endings import Interruption
from plinth.jobs.engine.heartbeat import Heartbeat
from plinth.jobs.engine.housekeeping import PRUNE_SECONDS, Housekeeping, every
from plinth.jobs.engine.recorder import EndedRun, Recorder, RunKey
from plinth.jobs.engine.run import Run, error_type
from plinth.jobs.engine.scheduler import Scheduler
from plinth.jobs.engine.store import DEADLINE_MARGIN, Store
from plinth.jobs.kinds import JobKind
from plinth.jobs.metrics import UNKNOWN_KIND, of_kind, reaped
from plinth.jobs.outcome import Finish, Release, State
from plinth.settings import PlatformSettings
from plinth.telemetry.metrics import exemplar
from plinth.telemetry.tracing import end_job

__all__ = ["Runner"]

log = structlog.get_logger("plinth.jobs.engine.worker")

MAX_CLAIM = 500
# A claim whose connection broke may commit so long after that, if it waits for a lock or its server stood still: the
# engine's DB_STATEMENT_TIMEOUT and some more.
LATE_CLAIM_SECONDS = 12.0
MAX_BACKLOG, MAX_PUT_OFF = 2000, 20_000  # outcomes not yet committed; above it nothing is claimed
SCHEDULES_SECONDS = 1.0  # after a failure; else the scheduler says when a slot is due
# Of the grace at shutdown: to end what is cancelled, to write it down, and to leave.
SHUTDOWN_MARGIN = 5.0
CLEANUP_SECONDS = 2.0  # for a cancelled handler to end before its job is released
RECORD_SECONDS = 2.0  # for outcomes to be written


class Runner:
    """Claims and runs jobs for the worker session `store.session_id`."""

    def __init__(
        self,
        store: Store,
        settings: PlatformSettings,
        *,
        database: Database,
        doorbell: Doorbell,
        kinds: Mapping[str, JobKind[Any]],
        queues: Sequence[str],
        concurrency: int,
    ) -> None:
        self._store = store
        self._settings = settings
        self._database = database
        self._doorbell = doorbell
        self._kinds = kinds
        for name in kinds:
            of_kind(name)
        reaped(UNKNOWN_KIND)
        self._queues = queues
        self._concurrency = concurrency
        # Kinds of which an ended run may let another start, or has the time of the next start looked up.
        self._limited = {name for name, kind in kinds.items() if kind.max_running is not None or kind.limit is not None}
        self._free_later: asyncio.TimerHandle | None = None  # when a limit of starts lets a job go
        self._running: dict[RunKey, Run] = {}
        self._held: list[ClaimedJob] = []  # claimed, to be started with the next claim
        self._claims = Claims(store, queues, kinds)
        self._recorder = Recorder(store, on_written=self._written, on_lost=self._lost_one)
        # Kept for each run: `asyncio.get_running_loop` is a system call in Python 3.11.
        self._loop = asyncio.get_running_loop()
        self._log = log.bind()  # 0.8 µs a line
        self._sample = settings.LOG_JOB_SAMPLE
        self._wake = asyncio.Event()
        self._wake.set()
        self._unsure = False  # a claim broke off, and may have committed
        self._unsure_later: asyncio.TimerHandle | None = None  # or may commit still
        self._stopping = False
        self.lost = asyncio.Event()
        self._unrecorded: list[RunKey] = []  # runs whose outcomes were not written when the session was lost
        self._heartbeat: Heartbeat | None = None

    @property
    def in_touch(self) -> bool:
        """Whether the last renewal of the session was answered."""
        return self._heartbeat is not None and self._heartbeat.answered and not self.lost.is_set()

    @property
    def overdue(self) -> int:
        """Runs that go on though their jobs were taken away: they hold a slot each."""
        now = monotonic() - DEADLINE_MARGIN.total_seconds()
        return sum(run.began + run.kind.time_limit < now for run in list(self._running.values()))

    async def serve(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """Run jobs until `stop` is set or the session is lost. `hurry` ends the wait for running jobs."""
        heartbeat = Heartbeat(self._settings, self._store.session_id, on_cancelled=self._cancel, on_lost=self._lose)
        heartbeat.start()
        self._heartbeat = heartbeat
        interval = self._settings.JOBS_POLL_INTERVAL
        served = self._queues, self._kinds, self._recorder.batches
        housekeeping = Housekeeping(self._store, self._settings, *served, on_work=self._wake.set, on_freed=self._freed)
        scheduler = Scheduler(self._store.database)
        claiming = asyncio.create_task(self._claim_loop())
        recording = asyncio.create_task(self._recorder.run())
        tasks = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(every(interval, "sweep", housekeeping.sweep)),
            asyncio.create_task(every(PRUNE_SECONDS, "prune", housekeeping.prune)),
            asyncio.create_task(every(SCHEDULES_SECONDS, "schedules", scheduler.step)),
        ]
        ends = [asyncio.create_task(event.wait()) for event in (stop, self.lost)]
        try:
            await asyncio.wait({*ends, claiming, recording}, return_when=asyncio.FIRST_COMPLETED)
            if not self.lost.is_set() and not claiming.done() and not recording.done():
                await self._drain(claiming, heartbeat, hurry)
            for task in (claiming, recording):
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error
        finally:
            self._unrecorded = self._known()
            for run in list(self._running.values()):
                run.interrupt(Interruption.LOST)
            await cancel_all([claiming, recording, *tasks, *ends])
            await heartbeat.stop()
            if self.lost.is_set() and self._running:
                # A handler that ignores cancellation goes on; its writes are fenced off.
                await asyncio.wait([run.task for run in self._running.values()], timeout=CLEANUP_SECONDS)

    async def survive(self) -> None:
        """Give back the jobs of a lost session: this worker has not crashed."""
        await self._store.survive(self._unrecorded)

    # --- claiming and running ---

    def _room(self) -> int:
        # Outcomes that wait for another transaction stop no claim until there are very many.
        if self._recorder.pressing > MAX_BACKLOG or self._recorder.backlog > MAX_PUT_OFF:
            return 0
        return min(self._concurrency - len(self._running) - len(self._held), MAX_CLAIM)

    async def _claim_loop(self) -> None:
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while (room := self._room()) > 0 and not self._stopping:
                claim = asyncio.create_task(self._claim(room))
                self._start_held()  # and they run while the claim is on its way
                if not await claim:
                    break
                await asyncio.sleep(0)  # short jobs end here, and make room
            self._start_held()

    async def _claim(self, room: int) -> bool:
        """Claim up to `room` jobs; returns whether there may be more of them.

        If there may be, half of the jobs are held until the next claim has been sent, so that the database is at work
        while they run.
        """
        try:
            if self._unsure:
                await self._release_unknown()
            jobs = await self._claims.take(room, suspect=not any(run.job.suspect for run in self._running.values()))
            self._unsure = False
        except (DatabaseUnavailableError, TransactionConflictError, asyncpg.PostgresError) as error:
            if not self._unsure:  # once for an outage
                log.warning("nothing could be claimed", error=repr(error), reason=database_reason(error))
            self._doubt()
            if self._unsure_later is not None:
                self._unsure_later.cancel()
            self._unsure_later = self._loop.call_later(LATE_CLAIM_SECONDS, self._doubt)
            await asyncio.sleep(self._settings.JOBS_POLL_INTERVAL / 2)
            return False
        self._wake_in(self._claims.free_in)
        now = len(jobs) - len(jobs) // 2 if self._claims.more else len(jobs)
        self._held = jobs[now:]
        for job in jobs[:now]:
            self._start(job)
        return self._claims.more

    def _wake_in(self, seconds: float | None) -> None:
        if self._free_later is not None:
            self._free_later.cancel()
            self._free_later = None
        if seconds is not None and seconds < self._settings.JOBS_POLL_INTERVAL:  # else the sweep comes first
            self._free_later = self._loop.call_later(seconds, self._wake.set)

    def _doubt(self) -> None:
        """Have the next claim, at once, look first for jobs of one that broke off."""
        self._unsure = True
        self._wake.set()

    def _start_held(self) -> None:
        held, self._held = self._held, []
        for job in held:
            self._start(job)

    def _known(self) -> list[RunKey]:
        return [
            *self._running,
            *((job.id, job.lease) for job in self._held),
            *(run.key for run in self._recorder.pending()),
        ]

    async def _release_unknown(self) -> None:
        released = await self._store.release_unknown(self._known())
        if released:
            log.info("released jobs of an interrupted claim", count=released)

    def _start(self, job: ClaimedJob) -> None:
        if self._stopping:
            self._give_back(job)
            return
        kind = self._kinds[job.kind]
        ctx = JobContext(job, self._recorder, self._database, self._settings, self._loop, kind.result)
        run = Run(job, kind, ctx, self._loop)
        metrics = of_kind(job.kind)
        metrics.started.inc()
        metrics.wait.observe(max(0.0, (job.started_at - job.run_at).total_seconds()))
        self._running[job.id, job.lease] = run
        run.task = self._loop.create_task(self._attend(run))

    def _give_back(self, job: ClaimedJob) -> None:
        self._recorder.put(job, Release(job.id, job.lease))

    async def _attend(self, run: Run) -> None:
        job = run.job
        try:
            outcome = await run.execute()
        finally:
            # Nothing is awaited from here on, so that the run and its outcome change hands in one step.
            del self._running[job.id, job.lease]
        seconds = monotonic() - run.began
        result = run.result(outcome)
        metrics = of_kind(job.kind)
        traced = exemplar()
        metrics.run.observe(seconds, traced)
        metrics.finished[result].inc()
        if traced is not None or result != State.SUCCEEDED or self._sample == 1 or random() < self._sample:  # noqa: S311
            milliseconds = round(seconds * 1000, 2)
            self._log.info("job", kind=job.kind, outcome=result, attempt=job.attempt, duration_ms=milliseconds)
        end_job(run.span, outcome=result, error=error_type(outcome))
        if outcome is not None:
            succeeded = isinstance(outcome, Finish) and outcome.state is State.SUCCEEDED
            self._recorder.put(job, outcome, run.ctx.follow_ups if succeeded else ())
        elif job.kind in self._limited:
            self._freed({job.queue})
        if self._claims.more or job.suspect:
            self._wake.set()

    def _written(self, runs: Sequence[EndedRun]) -> None:
        if self._claims.more:
            self._wake.set()  # claiming may have paused because of the backlog of outcomes
        # Other workers may claim what was released, and jobs of a kind that was at its limit.
        frees = [run for run in runs if run.job.kind in self._limited or isinstance(run.outcome, Release)]
        if frees:
            self._freed({run.job.queue for run in frees})

    def _freed(self, queues: set[str]) -> None:
        """Tell this worker and the others that these queues may have work."""
        self._wake.set()
        self._doorbell.ring(queues)

    # --- notifications ---

    async def _listen(self) -> None:
        async for queues, cancelled in self._doorbell.listen():
            if not queues or not queues.isdisjoint(self._queues):
                self._wake.set()
            # Two empty sets mean that notifications may have been missed.
            unknown = not queues and not cancelled
            if mine := [run.job.id for run in self._running.values() if unknown or run.job.id in cancelled]:
                try:
                    self._cancel(await self._store.cancelled_among(mine))
                except DatabaseUnavailableError:
                    log.debug("cancellation is left to the next heartbeat")

    def _cancel(self, ids: Collection[UUID]) -> None:
        for run in self._running.values():
            if run.job.id in ids:
                run.request_cancel()

    def _lose(self) -> None:
        if not self.lost.is_set():
            log.error("the worker session is lost; running jobs are cancelled", running=len(self._running))
            self.lost.set()

    def _lost_one(self, key: RunKey) -> None:
        # A run that is completing holds or has deleted the row, and finds out by itself.
        if (run := self._running.get(key)) and not run.ctx.completing:
            log.warning("the lease is lost; the run is cancelled", job_id=str(run.job.id), kind=run.job.kind)
            run.interrupt(Interruption.LOST)

    # --- shutdown ---

    async def _drain(self, claiming: asyncio.Task[None], heartbeat: Heartbeat, hurry: asyncio.Event) -> None:
        """Stop claiming, wait for runs within the grace period, then release those that still run."""
        deadline = monotonic() + max(0.0, self._settings.JOBS_SHUTDOWN_GRACE - SHUTDOWN_MARGIN)
        self._stopping = True
        self._wake.set()
        log.info("stopping", running=len(self._running))
        try:
            await self._store.mark_stopping()
        except DatabaseUnavailableError:
            log.warning("the database is away", step="stop")
        await claiming  # jobs of a claim in flight are released
        if self._running:
            ended = asyncio.wait([run.task for run in self._running.values()])
            waits = [asyncio.create_task(wait) for wait in (ended, hurry.wait(), self.lost.wait())]
            await asyncio.wait(waits, timeout=max(0.0, deadline - monotonic()), return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        if self.lost.is_set():
            return
        interrupted = list(self._running.values())
        for run in interrupted:
            run.interrupt(Interruption.SHUTDOWN)
        if interrupted:
            await asyncio.wait([run.task for run in interrupted], timeout=CLEANUP_SECONDS)
            log.info("released", count=len(interrupted))
        for run in interrupted:
            if not run.task.done():  # it ignores cancellation; its writes are fenced off
                self._give_back(run.job)
        try:
            async with asyncio.timeout(SHUTDOWN_MARGIN - CLEANUP_SECONDS):
                with suppress(TimeoutError):
                    async with asyncio.timeout(RECORD_SECONDS):
                        await self._recorder.drained()
                # What still waits, for transactions of others, is given back with the session: see `CLOSE_SESSION`.
                await heartbeat.stop()
                await self._store.close_session()
        except (TimeoutError, DatabaseUnavailableError):
            log.warning("the session could not be closed; it expires by itself")
