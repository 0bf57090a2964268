"""Jobs under test: run in this process, one after the other, and looked at."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel
from pydantic_core import from_json, to_json, to_jsonable_python

from plinth.aio import cancel_all
from plinth.database.engine import Database, bind_default_database
from plinth.jobs.admin.jobs import JobView, get_job, list_jobs
from plinth.jobs.claimed import ClaimedJob
from plinth.jobs.codec import decode, result_context
from plinth.jobs.context import JobContext
from plinth.jobs.engine.recorder import Recorder
from plinth.jobs.engine.run import Run
from plinth.jobs.engine.store import Store
from plinth.jobs.enqueue import enqueue
from plinth.jobs.hooks import worker_running
from plinth.jobs.kinds import JobKind, kind_named, kinds
from plinth.jobs.outcome import DECISIONS, Finish, State, decided
from plinth.settings import PlatformSettings
from plinth.testing.tracebacks import own_frames

__all__ = ["Jobs"]

SESSION_SECONDS = 3600.0
# A job that enqueues itself again at once would go on without end.
MAX_RUNS = 1000
LIVE = tuple(state for state in State if not state.terminal)

_BRING_FORWARD = """
WITH waits AS (
    UPDATE job_step SET due_at = now()
    WHERE state = 'waiting' AND due_at > now() AND due_at <= now() + $1::interval
)
UPDATE job SET run_at = now() WHERE state IN ('scheduled', 'retryable') AND run_at <= now() + $1::interval
"""


class Jobs:
    """The jobs in the database of a test. No worker runs: nothing happens before `run_due` or `perform`."""

    def __init__(
        self,
        database: Database,
        settings: PlatformSettings,
        *,
        registered: Mapping[str, JobKind[Any]] | None = None,
    ) -> None:
        """`registered`: the kinds that `run_due` knows, instead of those of this process."""
        self._database = database
        self._settings = settings
        self._kinds = kinds() if registered is None else registered

    async def waiting(self) -> list[JobView]:
        """Return the jobs that are still to be done, the oldest first."""
        async with self._database.session() as session:
            found = await list_jobs(session, states=LIVE, limit=MAX_RUNS, payloads=True)
        return [self._decoded(job) for job in found[::-1]]

    async def enqueued(self, kind: str | JobKind[Any], **payload: Any) -> JobView:
        """Return the one job of this kind that is still to be done and whose payload has these values.

        Raises:
            AssertionError: there is no such job, or more than one; the message lists the jobs that there are.
        """
        name = kind.name if isinstance(kind, JobKind) else kind
        wanted = to_jsonable_python(payload)
        waiting = await self.waiting()
        found = [job for job in waiting if job.kind == name and {**job.payload, **wanted} == job.payload]
        listed = "".join(f"\n  {job.kind} {job.payload}" for job in waiting) or " none"
        assert len(found) == 1, f"{len(found)} jobs {name} with {wanted} are to be done. All that are:{listed}"
        return found[0]

    async def get(self, job_id: UUID) -> JobView:
        """Return a job, also one that has ended.

        Raises:
            NotFoundError: there is none of that id.
        """
        async with self._database.session() as session:
            return self._decoded(await get_job(session, job_id))

    async def run_due(self, *, within: timedelta = timedelta(0)) -> list[JobView]:
        """Run the jobs that are due and those that they enqueue, one after the other; return them as they are then.

        Jobs that become due `within` this time are due now: delayed ones, failed ones that wait for their next attempt,
        and those that sleep, or that wait for an event until then.

        Raises:
            Exception: what a handler has raised, once that is written down as a worker does it. The jobs behind it
                are not run. `Discard`, `Retry`, `Snooze`, `JobCancelled` and `LeaseLost` are not raised.
            RuntimeError: there is no end of jobs.
        """
        async with self._database.connection() as connection:
            await connection.execute(_BRING_FORWARD, within)
        done: list[UUID] = []
        async with self._running(self._kinds) as run:
            while (job_id := await run(await self._queues())) is not None:
                done.append(job_id)
                if len(done) == MAX_RUNS:
                    raise RuntimeError(f"{MAX_RUNS} jobs were run, and more are due: does one enqueue itself?")
        return [await self.get(job_id) for job_id in dict.fromkeys(done)]

    async def perform(self, kind: str | JobKind[Any], payload: BaseModel, *, owner: str | None = None) -> JobView:
        """Enqueue a job and run it, and no other; return it as it is then.

        Raises:
            Exception: what its handler has raised, as for `run_due`.
            UnknownKindError, TypeError, ValueError: as for `plinth.jobs.enqueue`.
        """
        found = kind if isinstance(kind, JobKind) else kind_named(kind)
        queue = f"perform-{uuid4()}"  # of its own, so that it is the only job in line
        async with self._database.session() as session:
            job = await enqueue(session, found, payload, owner=owner, queue=queue)
        async with self._running({found.name: found}) as run:
            await run([queue])
        return await self.get(job.id)

    def _decoded(self, job: JobView) -> JobView:
        """The job with its payload as it was enqueued and its result as it was returned, if its kind has a codec."""
        kind = self._kinds.get(job.kind)
        if kind is None or (codec := kind.codec_for(self._settings)) is None:
            return job
        payload = from_json(decode(codec, to_json(job.payload).decode(), job.kind))
        result = from_json(decode(codec, to_json(job.result).decode(), result_context(job.id)))
        return replace(job, payload=payload, result=result)

    async def _queues(self) -> list[str]:
        async with self._database.connection() as connection:
            return [row[0] for row in await connection.fetch("SELECT DISTINCT queue FROM job")]

    @asynccontextmanager
    async def _running(
        self, known: Mapping[str, JobKind[Any]]
    ) -> AsyncIterator[Callable[[Sequence[str]], Awaitable[UUID | None]]]:
        """Yield a function that runs the first job in line, if any, in the name of a worker session of its own."""
        store = await Store.open_session(
            self._database,
            name="tests",
            version=self._settings.service.version,
            queues=[],
            kinds=sorted(known),
            concurrency=1,
            expire_after=SESSION_SECONDS,
        )
        recorder = Recorder(store, on_written=lambda outcomes: None, on_lost=lambda key: None)
        recording = asyncio.create_task(recorder.run())

        async def run_first(queues: Sequence[str]) -> UUID | None:
            while (await store.sweep(queues, list(known))).more:
                pass
            claimed = await store.claim(queues, known, 1)
            if not claimed:
                return None
            await self._run(claimed[0], known[claimed[0].kind], recorder)
            return claimed[0].id

        try:
            with bind_default_database(self._database):
                async with worker_running(self._database):
                    yield run_first
        finally:
            await cancel_all([recording])
            await store.close_session()

    async def _run(self, job: ClaimedJob, kind: JobKind[Any], recorder: Recorder) -> None:
        failures: list[Exception] = []

        async def watched(ctx: JobContext, payload: BaseModel) -> Any:
            try:
                return await kind.function(ctx, payload)
            except Exception as error:
                if not isinstance(decided(error), DECISIONS):
                    failures.append(error)
                raise

        loop = asyncio.get_running_loop()
        ctx = JobContext(job, recorder, self._database, self._settings, loop, kind.result)
        run = Run(job, replace(kind, function=watched), ctx, loop)
        running = asyncio.create_task(run.execute())
        run.task = running  # type: ignore[assignment]
        outcome = await running
        if outcome is not None:
            succeeded = isinstance(outcome, Finish) and outcome.state is State.SUCCEEDED
            recorder.put(job, outcome, ctx.follow_ups if succeeded else ())
        await recorder.drained()
        for error in failures:
            raise error.with_traceback(own_frames(error.__traceback__))
