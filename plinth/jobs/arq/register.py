"""`register(WorkerSettings)`: makes arq's functions kinds of jobs, its cron jobs schedules, its hooks a lifespan."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast
from weakref import WeakKeyDictionary

import structlog

from plinth.aio import cancel_all
from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.jobs.arq.calls import Call, Codec, SerializationError, milliseconds
from plinth.jobs.arq.connections import ArqRedis
from plinth.jobs.arq.cron import CronJob, expression, falls_on, zone_name
from plinth.jobs.arq.registry import ARQ_QUEUE, Registered, Source, add, kind_name, queue_named
from plinth.jobs.arq.worker import Function, func, seconds
from plinth.jobs.context import JobContext
from plinth.jobs.decorator import MAX_TIME_LIMIT, job
from plinth.jobs.enqueue import enqueue
from plinth.jobs.hooks import worker_lifespan
from plinth.jobs.kinds import JobKind
from plinth.jobs.outcome import DECISIONS, Discard, decided, words_of
from plinth.jobs.outcome import Retry as JobRetry
from plinth.jobs.retry import RetryPolicy
from plinth.jobs.schedules import schedule

__all__ = ["register"]

log = structlog.get_logger("plinth.jobs.arq")

HOOK_SECONDS = 60.0  # that on_job_start, on_job_end and after_job_end may take beside a function's timeout
MAX_TRIES = 1000
RETRY_SECONDS = 1.0  # until a job at startup is tried to be enqueued again
Hook = Callable[[dict[Any, Any]], Awaitable[Any]]


def register(settings: Any) -> None:
    """Run the functions and cron jobs of an arq `WorkerSettings`, a class or a dictionary, in this service's workers.

    Call it once for each, in a module of the service's jobs.

    Raises:
        ValueError: a function has the name of another kind of job, a limit or a time makes no sense, or a cron job is
            not unique.
        RuntimeError: a function is no coroutine function.
    """
    worker = _Worker(settings)
    functions = [*map(func, worker.get("functions", ())), *(worker.get("cron_jobs") or ())]
    if not functions:
        raise ValueError("WorkerSettings has neither functions nor cron_jobs")
    for function in functions:
        worker.add(function)
    worker_lifespan(worker.lifespan)


class _Worker:
    """What a WorkerSettings says, and what its hooks keep in each worker: the dictionary that functions are given."""

    def __init__(self, settings: Any) -> None:
        self._settings = settings
        self._states: WeakKeyDictionary[Database, dict[Any, Any]] = WeakKeyDictionary()
        self._at_startup: list[JobKind[Call]] = []
        codec = Codec(self.get("job_serializer"), self.get("job_deserializer"))
        if (codec.serializer is None) != (codec.deserializer is None):
            raise ValueError("WorkerSettings has a job_serializer and a job_deserializer, or neither")
        self._source = Source(self.get("queue_name") or ARQ_QUEUE, codec, self.get("redis_settings"))
        self._zone = zone_name(self.get("timezone"))
        self._hooks: dict[str, Hook | None] = {
            name: self.get(name)
            for name in ("on_startup", "on_shutdown", "on_job_start", "on_job_end", "after_job_end")
        }

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting of arq's."""
        if isinstance(self._settings, Mapping):
            return self._settings.get(name, default)
        return getattr(self._settings, name, default)

    def add(self, function: Function | CronJob) -> None:
        """Register a function's kind and, of a cron job, its schedule."""
        timeout = function.timeout_s if function.timeout_s is not None else seconds(self.get("job_timeout", 300))
        tries = function.max_tries if function.max_tries is not None else self.get("max_tries", 5)
        if not self.get("retry_jobs", True):
            tries = 1
        times = cast("CronJob", function) if hasattr(function, "run_at_startup") else None  # arq's own has it too
        if times is not None and not times.unique:
            raise ValueError(f"{times.name}: unique=False has no meaning here: each time is taken once in the fleet")
        declare = job(
            kind_name(function.name),
            queue=queue_named(self._source.queue_name),
            time_limit=MAX_TIME_LIMIT if timeout is None else min(timeout + HOOK_SECONDS, MAX_TIME_LIMIT),
            retry=RetryPolicy(max_attempts=min(tries, MAX_TRIES)),
        )
        kind = declare(self._handler(function, times, timeout, tries))
        add(Registered(function.name, kind, self._source, self._keep_result(function)))
        if times is None:
            return
        schedule(
            kind,
            Call(),
            cron=expression(times),
            timezone=self._zone,
            catch_up=0,
            overlap="queue" if times.job_id is None else "skip",
        )
        if times.run_at_startup:
            self._at_startup.append(kind)

    def _keep_result(self, function: Function | CronJob) -> float | None:
        forever = function.keep_result_forever
        if self.get("keep_result_forever", False) if forever is None else forever:
            return None
        kept = seconds(self.get("keep_result", 3600)) if function.keep_result_s is None else function.keep_result_s
        return kept or 0

    async def lifespan(self, database: Database) -> AsyncIterator[None]:
        """Run the hooks for the start and the end of a worker, and enqueue what runs at startup."""
        state = {**(self.get("ctx") or {}), "redis": ArqRedis(database)}
        self._states[database] = state
        await self._call("on_startup", state)
        starting = [asyncio.create_task(_enqueue_at_startup(database, kind)) for kind in self._at_startup]
        try:
            yield
        finally:
            await cancel_all(starting)
            await self._call("on_shutdown", state)
            del self._states[database]

    async def _call(self, name: str, ctx: dict[Any, Any]) -> None:
        if (hook := self._hooks[name]) is not None:
            await hook(ctx)

    def _handler(
        self, function: Function | CronJob, times: CronJob | None, timeout: float | None, tries: int
    ) -> Callable[[JobContext, Call], Awaitable[Any]]:
        codec = self._source.codec

        async def run(ctx: JobContext, payload: Call) -> Any:
            if times is not None and ctx.slot is not None and not falls_on(times, ctx.slot, self._zone):
                return None
            if payload.expires is not None and datetime.now(UTC) > payload.expires:
                raise Discard("The job expired before it was started.")
            job_try = ctx.attempt + max((payload.job_try or 1) - 1, 0)
            if job_try > tries:
                raise Discard(f"The job has been tried {tries} times.")
            arq_ctx = self._states[ctx.database] | _details(function.name, ctx, payload, job_try)
            try:
                args, kwargs = codec.arguments(payload)
                await self._call("on_job_start", arq_ctx)
                try:
                    async with asyncio.timeout(timeout):
                        result = await function.coroutine(arq_ctx, *args, **kwargs)
                finally:
                    await self._call("on_job_end", arq_ctx)
                    await self._call("after_job_end", arq_ctx)
            except Exception as error:
                if isinstance(decided(error), DECISIONS):
                    raise  # by a function that knows this engine
                raise _ending(error, job_try, tries) from error
            try:
                return codec.result(result)
            except SerializationError as error:
                log.warning("a result is not kept", kind=ctx.kind, job_id=str(ctx.id), exc_info=error)
                return None

        return run


def _details(name: str, ctx: JobContext, call: Call, job_try: int) -> dict[str, Any]:
    """What arq tells a function of its job, and the context of this engine."""
    enqueued = ctx.slot or call.enqueue_time or datetime.now(UTC)
    slot_id = None if ctx.slot is None else f"{name}:{milliseconds(ctx.slot)}"
    return {
        "job_id": call.job_id or slot_id or ctx.id.hex,
        "job_try": job_try,
        "enqueue_time": enqueued,
        "score": milliseconds(call.due or enqueued),
        "plinth": ctx,
    }


def _ending(error: Exception, job_try: int, tries: int) -> Exception:
    """What arq makes of an exception: only `Retry` is tried again."""
    if not hasattr(error, "defer_score"):
        return Discard(f"{type(error).__name__}: {words_of(error)}".removesuffix(": "))
    if job_try >= tries:
        return Discard(f"The job has been tried {tries} times.")
    try:
        return JobRetry(after=max(0, error.defer_score or 0) / 1000)  # arq takes a time that has passed for now
    except ValueError as too_far:
        return Discard(f"Retry: {too_far}")


async def _enqueue_at_startup(database: Database, kind: JobKind[Call]) -> None:
    """Enqueue a job, when the database is there. Several workers that start together make one."""
    while True:
        with suppress(DatabaseUnavailableError):
            await enqueue(database, kind, Call(enqueue_time=datetime.now(UTC)), unique_key="run_at_startup")
            return
        await asyncio.sleep(RETRY_SECONDS)
