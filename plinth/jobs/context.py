"""The context of a running job: what its handler is given."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from hashlib import blake2b
from typing import Any, Protocol, TypeVar, Unpack, overload

import structlog
from opentelemetry.context import get_current
from pydantic import BaseModel, TypeAdapter
from sqlalchemy.orm import SessionTransaction
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.engine import Database
from plinth.jobs.after_commit import after_commit
from plinth.jobs.claimed import ClaimedJob, Progress
from plinth.jobs.codec import PayloadCodec, encode, result_context
from plinth.jobs.enqueue import EnqueueOptions, Insertion, prepare
from plinth.jobs.events import check_event
from plinth.jobs.follow_ups import merged
from plinth.jobs.kinds import JobKind
from plinth.jobs.outcome import MAX_MESSAGE, JobCancelled, LeaseLost, storable
from plinth.jobs.results import adapter_of, dump
from plinth.jobs.retry import RetryPolicy
from plinth.jobs.steps import SessionBlock, StepRecorder, Steps
from plinth.settings import PlatformSettings

__all__ = ["JobContext", "RunRecorder"]

T = TypeVar("T")

MAX_WAIT = 10 * 366 * 86_400.0  # seconds

# The `ctx.session()` that this task was begun in.
_block: ContextVar[SessionBlock | None] = ContextVar("job_session", default=None)


class RunRecorder(Protocol):
    """Writes what a run reports: `plinth.jobs.engine.recorder.Recorder`."""

    def progress(self, ctx: "JobContext", progress: Progress) -> None:
        """Queue a report for writing."""

    async def complete(self, ctx: "JobContext", session: AsyncSession, result: str | None) -> bool:
        """Move the job to the history in the session's transaction; False if another run has taken over."""

    @property
    def steps(self) -> StepRecorder:
        """Reads and writes the steps."""


class JobContext:
    """One run of one job.

    `id`, `kind`, `owner` and `attempt` (1 for the first) identify it. `run` is the number of this run, which no
    other run of the job has, so that rows written under it cannot be mistaken for those of another run. `slot`: the
    time of the schedule's slot that it was made for, if any; `batch`: the id of the batch that it is a member of.

    `cancelled`: cancellation of this job was requested. A handler that goes on is stopped some seconds later.
    `stopping`: the handler is to end, whatever the reason. A coroutine is cancelled as a task; a plain function has to
    look. `completing`: `complete` was called; `completed`: it has committed. `lost`: another run has taken over.
    """

    def __init__(
        self,
        job: ClaimedJob,
        recorder: RunRecorder,
        database: Database,
        settings: PlatformSettings,
        loop: asyncio.AbstractEventLoop,
        result: TypeAdapter[Any] | None = None,
    ) -> None:
        self.id = job.id
        self.kind = job.kind
        self.owner = job.owner or None  # SQL may have enqueued it with an empty one, which no follow-up can have
        self.attempt = job.attempt
        self.run = job.lease
        self.slot = job.slot_at
        self.batch = job.batch_id
        self._recorder = recorder
        self._result = result
        self.cancelled = False
        self.stopping = False
        self._loop, self._thread = loop, threading.get_ident()
        self.completing = False
        self.completed = False
        self._completion: SessionTransaction | None = None
        self.lost = False
        self.database = database
        self.settings = settings
        self.follow_ups: list[Insertion] = []
        self._earlier = job.lease > 1
        self.codec: PayloadCodec | None = None

    @cached_property
    def steps(self) -> Steps:
        """The steps of this run."""
        return Steps(self.id, self.run, self._recorder.steps, earlier=self._earlier, codec=self.codec)

    @cached_property
    def log(self) -> Any:
        """A logger whose lines carry the job's id, kind and attempt."""
        return structlog.get_logger("plinth.jobs").bind(job_id=str(self.id), kind=self.kind, attempt=self.attempt)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session on the worker's database that commits at the end of the block. Do not hold it while waiting.

        A step within the block is kept in the same transaction.
        """
        outer = _block.get()
        async with self.database.session() as session:
            block = SessionBlock(session)
            _block.set(block)
            try:
                yield session
            finally:
                _block.set(outer)
                await block.end()

    # --- steps ---

    @overload
    async def step(
        self, name: str, function: Callable[..., Awaitable[T]], *arguments: Any, retry: RetryPolicy | None = None
    ) -> T: ...

    @overload
    async def step(
        self, name: str, function: Callable[..., T], *arguments: Any, retry: RetryPolicy | None = None
    ) -> T: ...

    async def step(
        self, name: str, function: Callable[..., Any], *arguments: Any, retry: RetryPolicy | None = None
    ) -> Any:
        """Run `function(*arguments)` once, keep its result with the job, and return it.

        In a later run of the same job it does not run again: it gives what it gave before. Within `ctx.session()` the
        effect and the result commit together; else the function runs again if the worker dies before the result is
        kept, and `effect_key(name)` is for the other side. A plain function runs in a thread.

        Args:
            name: of 1 to 200 characters, known in this job. The second step of a name is `name#2`, and so on.
            retry: attempts within the step. When they are spent, the step has failed in every run of this job.

        Raises:
            Exception: what the function raised; the next attempt of the job runs it again.
            StepFailed: its attempts are spent, in this run or in an earlier one.
            StepChanged: what an earlier run kept does not fit the function's return type, or was no step.
            TypeError, ValueError: the result is no JSON of the function's return type, or more than 64 KiB of it.
            JobCancelled: cancellation of the job was requested.
            LeaseLost: another run has taken over.
        """
        self.check_steps()
        return await self.steps.run(name, function, arguments, retry=retry, block=_block.get())

    async def sleep(self, seconds: float | None = None, *, until: datetime | None = None, name: str = "sleep") -> None:
        """Give the slot back for so many seconds, or `until` a time, and go on then, whatever is restarted meanwhile.

        The handler runs from the top again; steps that are done give their results. No attempt is spent.

        Raises:
            ValueError: neither or both are given, the seconds are not 0 to 10 years, or the time has no time zone or is
                not of the years 1901 to 9998.
            RuntimeError: within `ctx.session()`, or after `complete`.
        """
        self.check_steps(suspends=True)
        if (seconds is None) == (until is None):
            raise ValueError("a sleep has seconds or a time until which it lasts")
        _check_wait(seconds)
        # The database refuses what lies too far away, and does so when the run is over.
        if until is not None and (until.tzinfo is None or not 1900 < until.year < 9999):
            raise ValueError("a time until which a job sleeps needs a time zone, and a year from 1901 to 9998")
        await self.steps.sleep(name, seconds=seconds, until=until)

    async def wait_for(
        self,
        event: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it outlives this call, and the process
        name: str | None = None,
        returns: Any = Any,
    ) -> Any:
        """Give the slot back until `event` has been emitted (`plinth.jobs.emit`), and return its payload.

        It may have been emitted before. The handler runs from the top again, as after `sleep`.

        Args:
            timeout: seconds after which EventTimeout is raised; None waits for ever.
            name: the step's; the event's if there is none.
            returns: the type of the payload.

        Raises:
            EventTimeout: it did not come in time.
            StepChanged: the payload is not of that type.
            ValueError: the event's name is empty or too long, or the time is not 0 to 10 years.
            RuntimeError: within `ctx.session()`, or after `complete`.
        """
        self.check_steps(suspends=True)
        check_event(event)
        _check_wait(timeout)
        return await self.steps.wait_for(name or event, event, seconds=timeout, returns=returns)

    def check_steps(self, *, suspends: bool = False) -> None:
        """Raises JobCancelled or RuntimeError if no step may begin here, or none that gives the slot back."""
        self.raise_if_cancelled()
        block = _block.get()
        if suspends and block is not None and block.session is not None:
            raise RuntimeError("a job does not wait within `ctx.session()`, whose transaction would stay open")
        if self.completing:
            raise RuntimeError("steps come before the job completes")

    def progress(self, done: int, total: int | None = None, message: str | None = None) -> None:
        """Report progress. Cheap: the last report is written every half second, for all jobs together.

        Raises:
            ValueError: a number is not an int from 0 to 2⁶³ - 1.
        """
        for number in (done, 0 if total is None else total):
            if not isinstance(number, int) or not 0 <= number < 2**63:
                raise ValueError("progress takes whole numbers from 0 to 2⁶³ - 1")
        if message is not None:
            message = storable(message)[:MAX_MESSAGE]
        report = Progress(done, total, message)
        if threading.get_ident() == self._thread:
            self._recorder.progress(self, report)
        else:
            self._loop.call_soon_threadsafe(self._recorder.progress, self, report)

    def from_thread(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the worker's event loop and return its result. For plain functions, in their thread.

        Raises:
            RuntimeError: called in the event loop, which would wait for itself.
        """
        if threading.get_ident() == self._thread:
            coroutine.close()
            raise RuntimeError("ctx.from_thread is for plain functions: a coroutine function awaits the coroutine")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def raise_if_cancelled(self) -> None:
        """Raise JobCancelled if cancellation of this job was requested. Let it propagate."""
        if self.cancelled:
            raise JobCancelled

    def effect_key(self, *parts: object) -> str:
        """An idempotency key for a call to another service: the same in every run of this job, unique to it.

        `parts` distinguish several calls of one job. 40 hexadecimal digits.
        """
        digest = blake2b(self.id.bytes, digest_size=20)
        for part in parts:
            text = str(part).encode()
            digest.update(len(text).to_bytes(8) + text)
        return digest.hexdigest()

    def enqueue(
        self,
        kind: str | JobKind[Any],
        payload: BaseModel,
        *,
        unique_key: str | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> None:
        """Enqueue a follow-up job if and when this one completes, in the same transaction; options as for `enqueue`.

        Raises:
            UnknownKindError, TypeError, ValueError: as for `enqueue`.
            RuntimeError: `complete` was called before.
        """
        self.enqueue_many(kind, [payload], unique_keys=None if unique_key is None else [unique_key], **options)

    def enqueue_many(
        self,
        kind: str | JobKind[Any],
        payloads: Sequence[BaseModel],
        *,
        unique_keys: Sequence[str] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> None:
        """Enqueue a follow-up job for each payload, as `enqueue` does for one."""
        if self.completed or (self._completion is not None and self._completion.is_active):
            raise RuntimeError("follow-up jobs are enqueued before the job completes")
        if options.get("batch") not in (None, self.batch):  # it might end before the follow-up jobs are there
            raise ValueError("follow-up jobs join the batch of their own job, or none")
        options.setdefault("owner", self.owner)
        prepared = prepare(kind, payloads, unique_keys=unique_keys, **options)
        # The recorder inserts them, outside of this trace.
        self.follow_ups.append(replace(prepared, context=get_current()))

    async def complete(self, session: AsyncSession, *, result: Any = None) -> None:
        """Complete this job in the session's transaction: its effect and its completion commit together.

        Call it last in the transaction: it locks the job's row until the end. After a rollback it may be called again.
        `result` is kept instead of what the handler returns.

        Raises:
            TypeError, ValueError: the result is no JSON of the handler's return type, or more than 64 KiB of it.
            LeaseLost: another run has taken over. Let it propagate, so that the transaction rolls back.
            RuntimeError: called within a savepoint, which could roll back alone, or for the second time.
        """
        if session.in_nested_transaction():
            raise RuntimeError("a job completes with a transaction, not with a savepoint")
        kept = None if result is None else self.dump_result(result)
        await session.connection()  # begins the transaction
        transaction = session.sync_session.get_transaction()
        if self.completed or transaction is self._completion:
            raise RuntimeError("a job completes once")
        self.completing, self._completion = True, transaction
        if not await self._recorder.complete(self, session, kept):
            self.lost = True
            raise LeaseLost
        for insertion in merged(self.follow_ups):
            await insertion.execute(session)
        after_commit(session, self._complete)

    def _complete(self) -> None:
        self.completed = True

    def dump_result(self, result: Any) -> str:
        """Return the JSON that is stored of a result. Raises TypeError and ValueError as `complete`."""
        text = dump(f"The result of {self.kind}", self._result or adapter_of(Any), result)
        return text if self.codec is None else encode(self.codec, text, result_context(self.id))


def _check_wait(seconds: float | None) -> None:
    if seconds is not None and not 0 <= seconds <= MAX_WAIT:
        raise ValueError("a job waits for 0 seconds to 10 years")
