"""Hooks: code around each run of a job, around each worker, and code that hears of discarded jobs."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import structlog

from plinth.database.engine import Database

__all__ = ["DiscardedJob", "around_jobs", "hooked", "on_discard", "tell_discarded", "worker_lifespan", "worker_running"]

log = structlog.get_logger("plinth.jobs.hooks")

HOOK_SECONDS = 30.0  # for what hears of a discarded job
LAST_SECONDS = 2.0  # of these, when the worker ends

F = TypeVar("F", bound=Callable[..., Awaitable[None]])
Lifespan = Callable[[Database], AsyncIterator[None]]
L = TypeVar("L", bound=Lifespan)
Handler = Callable[[Any, Any], Awaitable[None]]

_around: list[Callable[..., Awaitable[None]]] = []
_on_discard: list[Callable[..., Awaitable[None]]] = []
_lifespans: list[Lifespan] = []
_telling: set[asyncio.Task[None]] = set()


class DiscardedJob(NamedTuple):
    """A job that was discarded. `error`: of its last run, as its owner may read it."""

    id: UUID
    kind: str
    queue: str
    error: str


def around_jobs(hook: F) -> F:
    """Have `hook(ctx, payload, run)` run each job of this process's workers: it awaits `run()`.

    The first that is declared is the outermost. What it raises counts as the job's; so it lets pass what it does not
    know, a cancellation and a suspension among it.

    Raises:
        TypeError: it is no coroutine function of three arguments.
    """
    _check(hook, 3)
    _around.append(hook)
    return hook


def on_discard(hook: F) -> F:
    """Have `hook(job: DiscardedJob)` called when this process's worker has discarded a job, once that is written.

    It may be lost with its worker: what must not be lost is read from `plinth jobs list --state discarded`. What it
    raises is logged.

    Raises:
        TypeError: it is no coroutine function of one argument.
    """
    _check(hook, 1)
    _on_discard.append(hook)
    return hook


def worker_lifespan(hook: L) -> L:
    """Have `hook(database)`, an async generator, run to its `yield` as a worker starts, and on as it stops.

    It starts before the first job is claimed, and goes on when the last one has ended, the database still open. The
    first that is declared starts first and stops last. What it raises ends the worker.

    Raises:
        TypeError: it is no async generator function of one argument.
    """
    is_generator: bool = inspect.isasyncgenfunction(hook)  # apart, as it would narrow the type that is returned
    if not is_generator or len(inspect.signature(hook).parameters) != 1:
        raise TypeError(f"{hook!r} is no async generator function of one argument")
    _lifespans.append(hook)
    return hook


@asynccontextmanager
async def worker_running(database: Database) -> AsyncIterator[None]:
    """Start what hooks start with a worker, and stop it at the end of the block.

    Before that, those that hear of discarded jobs have a moment to end: jobs are discarded up to the last.
    """
    async with AsyncExitStack() as stopping:
        for hook in _lifespans:
            await stopping.enter_async_context(asynccontextmanager(hook)(database))
        try:
            yield
        finally:
            loop = asyncio.get_running_loop()
            if telling := [task for task in _telling if task.get_loop() is loop]:
                await asyncio.wait(telling, timeout=LAST_SECONDS)


def _check(hook: Callable[..., object], arguments: int) -> None:
    if not inspect.iscoroutinefunction(hook) or len(inspect.signature(hook).parameters) != arguments:
        raise TypeError(f"{hook!r} is no coroutine function of {arguments} arguments")


def hooked(handler: Handler) -> Handler:
    """Return the handler within the hooks around it."""
    for hook in reversed(_around):
        handler = partial(_within, hook, handler)
    return handler


async def _within(hook: Callable[..., Awaitable[None]], handler: Handler, ctx: Any, payload: Any) -> None:
    await hook(ctx, payload, partial(handler, ctx, payload))


def tell_discarded(jobs: Iterable[DiscardedJob]) -> None:
    """Call the hooks for discarded jobs, in the background."""
    for job in jobs:
        for hook in _on_discard:
            task = asyncio.get_running_loop().create_task(_tell(hook, job))
            _telling.add(task)
            task.add_done_callback(_telling.discard)


async def _tell(hook: Callable[..., Awaitable[None]], job: DiscardedJob) -> None:
    try:
        async with asyncio.timeout(HOOK_SECONDS):
            await hook(job)
    except Exception:
        log.exception("a hook failed that hears of discarded jobs", job_id=str(job.id), kind=job.kind)
