"""`@job`: makes a function a kind of job."""

import asyncio
import inspect
import typing
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import wraps
from typing import Any, TypeVar

from pydantic import BaseModel

from plinth.jobs.codec import CodecOf
from plinth.jobs.context import JobContext
from plinth.jobs.kinds import JobKind, check_name, register
from plinth.jobs.limits import Limit
from plinth.jobs.results import job_adapter
from plinth.jobs.retry import RetryPolicy

__all__ = ["job"]

DEFAULT_QUEUE = "default"
DEFAULT_TIME_LIMIT = 300.0  # seconds
DEFAULT_RETRY = RetryPolicy()
MAX_TIME_LIMIT = 30 * 86_400.0  # seconds
MAX_KEEP = 100 * 365 * 86_400.0  # seconds

P = TypeVar("P", bound=BaseModel)


def job(
    name: str,
    *,
    queue: str = DEFAULT_QUEUE,
    priority: int = 0,
    time_limit: float = DEFAULT_TIME_LIMIT,
    retry: RetryPolicy = DEFAULT_RETRY,
    max_running: int | None = None,
    max_per_owner: int | None = None,
    limit: Limit[Any] | None = None,
    keep: timedelta | float | None = None,
    codec: CodecOf | None = None,
) -> Callable[[Callable[[JobContext, P], Any]], JobKind[P]]:
    """Make a function `(ctx: JobContext, payload: Model)` a kind of job.

    A coroutine function runs in the worker's event loop, a plain one in a thread. A thread cannot be stopped: a plain
    function that takes long looks at `ctx.stopping`, and holds its slot until it ends. What it returns is kept with the
    job, as JSON of the return type, if it is annotated with one.

    Args:
        name: stands in the database: a job outlives the code that made it, so keep it when you rename the function.
        queue: where jobs of this kind wait, unless `enqueue` says otherwise.
        priority: smaller numbers go first, within a queue and among the queues of a worker.
        time_limit: seconds after which an attempt is cancelled, and counted as failed.
        retry: how often and when it is tried again.
        max_running: at most so many at once in the whole fleet.
        max_per_owner: at most so many of one owner waiting or running; see `plinth.jobs.owner_limit`.
        limit: for the jobs that share a key of their payload; see `plinth.jobs.Limit`.
        keep: for how long (seconds) its jobs are remembered that succeeded or were cancelled, instead of
            JOBS_KEEP_SUCCEEDED_DAYS. Dead letters are kept as those of any kind.
        codec: a function that makes a codec of the settings: what it makes of payloads and of the results of steps is
            stored instead of them. `aes_gcm` encrypts.

    Raises:
        ValueError: the name is taken or is none, or an option is out of range.
        TypeError: the function does not have that form, its results cannot be made JSON, or `retry` is no RetryPolicy.
    """

    def decorate(function: Callable[[JobContext, P], Any]) -> JobKind[P]:
        check_name(name)
        check_name(queue)
        if not isinstance(retry, RetryPolicy):  # a number, as other systems take it
            raise TypeError(f"{name!r}: retry is a RetryPolicy, such as RetryPolicy(max_attempts=5)")
        kept = keep.total_seconds() if isinstance(keep, timedelta) else keep
        bounds = {
            "max_running is 1 or more": max_running is None or max_running >= 1,
            "max_per_owner is 1 or more": max_per_owner is None or max_per_owner >= 1,
            f"time_limit is above 0 seconds and {MAX_TIME_LIMIT:.0f} at most": 0 < time_limit <= MAX_TIME_LIMIT,
            "priority is -32768 to 32767": -32768 <= priority <= 32767,
            "keep is 0 seconds to a hundred years": kept is None or 0 <= kept <= MAX_KEEP,
        }
        if broken := [bound for bound, holds in bounds.items() if not holds]:
            raise ValueError(f"{name!r}: {', '.join(broken)}")
        kind = JobKind(
            name=name,
            function=function if inspect.iscoroutinefunction(function) else _in_thread(function),
            payload=_payload_model(function),
            queue=queue,
            priority=priority,
            time_limit=time_limit,
            retry=retry,
            max_running=max_running,
            max_per_owner=max_per_owner,
            limit=limit,
            keep=kept,
            result=job_adapter(function),
            codec=codec,
        )
        register(kind)
        return kind

    return decorate


def _in_thread(function: Callable[[JobContext, P], object]) -> Callable[[JobContext, P], Awaitable[object]]:
    # What it raises is returned: a future hands on no StopIteration, and a SystemExit in a task ends the event loop.
    def call(ctx: JobContext, payload: P) -> tuple[object, BaseException | None]:
        try:
            if not ctx.stopping:  # it may have waited for a thread until its time limit
                return function(ctx, payload), None
        except BaseException as error:  # noqa: BLE001 - raised below, where it concerns its job alone
            return None, error
        return None, None

    @wraps(function)
    async def run(ctx: JobContext, payload: P) -> object:
        work = asyncio.ensure_future(asyncio.to_thread(call, ctx, payload))
        cancelled: asyncio.CancelledError | None = None
        while not work.done():  # a cancelled thread goes on, so the run does
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as error:
                cancelled = error
        returned, failure = work.result()
        if (raised := failure or cancelled) is not None:
            raise raised
        return returned

    return run


def _payload_model(function: Callable[..., Any]) -> type[Any]:
    parameters = list(inspect.signature(function).parameters)
    if len(parameters) != 2 or inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"{function!r} is not a function of a context and a payload")
    model = typing.get_type_hints(function).get(parameters[1])
    if not (inspect.isclass(model) and issubclass(model, BaseModel)):
        raise TypeError(f"{function!r}: the payload's annotation is not a Pydantic model")
    return model
