"""One run of one job: the handler, its limits, and what comes of it."""

import asyncio
from time import monotonic
from typing import Any

import structlog
from opentelemetry.trace import Span
from pydantic import BaseModel, ValidationError

from plinth.jobs.claimed import ClaimedJob
from plinth.jobs.codec import decode
from plinth.jobs.context import JobContext
from plinth.jobs.engine.endings import VERDICTS, Ending, Interruption, Verdict, ending_of
from plinth.jobs.hooks import hooked
from plinth.jobs.kinds import JobKind
from plinth.jobs.outcome import (
    ErrorEntry,
    Finish,
    Outcome,
    Release,
    Retry,
    Snooze,
    State,
    Suspend,
    Suspended,
    TryAgain,
    decided,
    error_entry,
    words_of,
)
from plinth.jobs.retry import RetryPolicy
from plinth.settings import SettingsError
from plinth.telemetry.log_records import attempt_var, job_id_var
from plinth.telemetry.tracing import begin_job

__all__ = ["Run"]

log = structlog.get_logger("plinth.jobs.engine.run")

# A handler that watches `ctx.cancelled` has so many seconds to end in its own way.
CANCEL_GRACE = 5.0
# While a new version is rolled out, workers of the old one meet payloads that only the new one can read. They give such
# a job back for ten minutes, about.
UNREADABLE_TRIES = 20
UNREADABLE_RETRY = RetryPolicy(base=2, ceiling=60)


class InvalidPayload(Exception):
    """The payload of a job does not fit its kind."""


class Run:
    """Runs `kind`'s function for `job`. `execute` is to be the body of a task of its own, which `task` names."""

    __slots__ = ("_interruption", "_loop", "_returned", "began", "ctx", "job", "kind", "span", "task")

    task: asyncio.Task[None]
    span: Span | None  # ended by the runner, with the outcome

    def __init__(self, job: ClaimedJob, kind: JobKind[Any], ctx: JobContext, loop: asyncio.AbstractEventLoop) -> None:
        self.job = job
        self.kind = kind
        self.ctx = ctx
        self._loop = loop
        self.began = monotonic()
        self._interruption: Interruption | None = None
        self._returned: Any = None

    def interrupt(self, why: Interruption) -> None:
        """Cancel the handler. The first reason counts, unless a later one is that the lease is lost."""
        if self._interruption is None or why is Interruption.LOST:
            self._interruption = why
        self.ctx.stopping = True
        self.task.cancel()

    def request_cancel(self) -> None:
        """Tell the handler that its job is to be cancelled; some seconds later, cancel the handler."""
        if not self.ctx.cancelled:
            self.ctx.cancelled = True
            self._loop.call_later(CANCEL_GRACE, self._cancel)

    def _cancel(self) -> None:
        if not self.task.done():
            self.interrupt(Interruption.CANCEL)

    async def execute(self) -> Outcome | None:
        """Run the handler to its end. None: nothing is left to write, it completed itself or has lost its lease."""
        job = self.job
        job_id_var.set(str(job.id))
        attempt_var.set(job.attempt)
        self.span = begin_job(
            job.kind,
            job.trace_context,
            queue=job.queue,
            job_id=job.id,
            attempt=job.attempt,
            run=job.lease,
        )
        timer = self._loop.call_later(self.kind.time_limit, self.interrupt, Interruption.TIMEOUT)
        try:
            handler = self.kind.function if self.kind.result is None else self._handle
            await hooked(handler)(self.ctx, self._payload())
        except InvalidPayload as error:
            return self._unreadable(self._entry("invalid_payload", str(error)))
        except BaseException as error:  # whatever it is, it is the job's failure, not ours
            if not self._loop.is_running():  # closed with the loop: nothing can be written
                raise
            return self._outcome(decided(error))
        else:
            return self._outcome(None)
        finally:
            timer.cancel()

    async def _handle(self, ctx: JobContext, payload: BaseModel) -> None:
        self._returned = await self.kind.function(ctx, payload)

    def _payload(self) -> BaseModel:
        try:
            self.ctx.codec = codec = self.kind.codec_for(self.ctx.settings)
            text = self.job.payload if codec is None else decode(codec, self.job.payload, self.job.kind)
        except (ValueError, SettingsError):
            raise InvalidPayload("This version cannot decrypt the payload") from None
        try:
            payload: BaseModel = self.kind.read(text)
        except ValidationError as error:
            # Its values may be secrets; where they are wrong is enough to know.
            where = ", ".join(".".join(map(str, issue["loc"])) for issue in error.errors(include_input=False))
            raise InvalidPayload(f"This version cannot read the payload: {where}") from None
        except Exception as error:  # noqa: BLE001 - a validator of its model may raise anything
            raise InvalidPayload(f"This version cannot read the payload: {type(error).__name__}") from None
        return payload

    def _unreadable(self, entry: ErrorEntry) -> Outcome:
        job = self.job
        if job.unreadable >= UNREADABLE_TRIES:
            return self._discard(entry)
        delay = UNREADABLE_RETRY.delay(job.unreadable + 1)
        log.warning("a job is left to a newer version", kind=job.kind, retry_in=round(delay, 1), error=entry["detail"])
        return TryAgain(job.id, job.lease, delay, entry, counts=False)

    def _outcome(self, error: BaseException | None) -> Outcome | None:
        job, ctx = self.job, self.ctx
        ending = ending_of(error, cancel_requested=ctx.cancelled)
        if ctx.completed:
            if ending in (Ending.RAISED, Ending.DISCARDED):
                log.error("a job failed after it had completed", kind=job.kind, exc_info=error)
            return None
        why = Interruption.LOST if ctx.lost else self._interruption
        match VERDICTS[why][ending]:
            case Verdict.LOST:
                return None
            case Verdict.SUCCEEDED:
                return self._succeed()
            case Verdict.CANCELLED:
                entry = self._entry("error", exception=error) if ending is Ending.RAISED else None
                return Finish(job.id, job.lease, State.CANCELLED, entry)
            case Verdict.RELEASED:
                if ending is Ending.RAISED:
                    log.warning("a job failed as it was stopped", kind=job.kind, exc_info=error)
                return Release(job.id, job.lease)
            case Verdict.SUSPENDED:
                assert isinstance(error, Suspended)  # it is what made it this verdict
                return Suspend(job.id, job.lease, error.wait)
            case Verdict.SNOOZED:
                assert isinstance(error, Snooze)
                return TryAgain(job.id, job.lease, error.seconds, None, counts=False)
            case Verdict.DISCARDED:
                message = words_of(error) if error is not None else ""
                return self._discard(self._entry("discard", message, error))
            case Verdict.TIMED_OUT:
                limit = f"The attempt took longer than {self.kind.time_limit:g} s."
                return self._retry(self._entry("timeout", limit, error))
            case Verdict.FAILED:
                if isinstance(error, Retry):
                    return self._retry(self._entry("error", exception=error.__cause__ or error), error.after)
                return self._retry(self._entry("error", exception=error))

    def _succeed(self) -> Outcome:
        """End the job, which has done what it had to do, also if what it returned cannot be kept."""
        job = self.job
        if self._returned is None or self.kind.result is None:
            return Finish(job.id, job.lease, State.SUCCEEDED)
        try:
            result = self.ctx.dump_result(self._returned)
        except Exception as error:
            log.exception("the result of a job cannot be kept", kind=job.kind)
            entry = self._entry("result", "The job is done, and its result could not be kept.", error)
            return Finish(job.id, job.lease, State.SUCCEEDED, entry)
        return Finish(job.id, job.lease, State.SUCCEEDED, result=result)

    def _retry(self, entry: ErrorEntry, after: float | None = None) -> Outcome:
        job = self.job
        if self.ctx.cancelled or job.attempt >= job.max_attempts:
            return self._discard(entry)
        delay = self.kind.retry.delay(job.attempt) if after is None else after
        log.warning("a job failed", kind=job.kind, attempt=job.attempt, retry_in=round(delay, 1), error=entry["detail"])
        return TryAgain(job.id, job.lease, delay, entry)

    def _discard(self, entry: ErrorEntry) -> Outcome:
        job = self.job
        if self.ctx.cancelled:
            return Finish(job.id, job.lease, State.CANCELLED, entry)
        log.error("a job was discarded", kind=job.kind, attempt=job.attempt, error=entry["detail"])
        return Finish(job.id, job.lease, State.DISCARDED, entry)

    def _entry(self, outcome: str, error: str = "", exception: BaseException | None = None) -> ErrorEntry:
        job = self.job
        return error_entry(outcome, run=job.lease, attempt=job.attempt, error=error, exception=exception)

    def result(self, outcome: Outcome | None) -> str:
        """The run's outcome in one word, for metrics, logs and traces."""
        match outcome:
            case Finish():
                return outcome.state.value
            case Release():
                return "released"
            case TryAgain(error=None):
                return "snoozed"
            case TryAgain(counts=False):
                return "released"
            case Suspend():
                return "suspended"
            case None:
                return "succeeded" if self.ctx.completed else "lost"
            case _:
                return "retryable"


def error_type(outcome: Outcome | None) -> str | None:
    """The type of a failed run's error, for its span. Messages stay out of traces: they may quote secrets."""
    entry = None if outcome is None or isinstance(outcome, Release | Suspend) else outcome.error
    if entry is None:
        return None
    return entry["outcome"] if entry["outcome"] != "error" else entry["detail"].partition(":")[0]
