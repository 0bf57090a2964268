"""Hooks: what runs around each job, and what hears of discarded ones."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import (
    Discard,
    DiscardedJob,
    JobContext,
    RetryPolicy,
    around_jobs,
    enqueue,
    job,
    on_discard,
    worker_lifespan,
)
from plinth.jobs import hooks as hooks_module
from plinth.jobs.engine.worker import Worker
from plinth.testing import Jobs as JobsUnderTest
from tests.plinth.integration.jobs.conftest import Jobs, Number, until, working

Run = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
def _no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks_module, "_around", [])
    monkeypatch.setattr(hooks_module, "_on_discard", [])
    monkeypatch.setattr(hooks_module, "_lifespans", [])


async def test_hook_on_discard_ends_before_its_worker(settings: Settings, database: Database, jobs: Jobs) -> None:
    """A deployment came between a dead letter and its alert; in tests, the end of `perform`."""
    events: list[str] = []

    @worker_lifespan
    async def client(database: Database) -> AsyncIterator[None]:
        yield
        events.append("closed")

    @on_discard
    async def tell(found: DiscardedJob) -> None:
        await asyncio.sleep(0.2)
        events.append("told")

    @job("test.discards")
    async def discards(ctx: JobContext, payload: Number) -> None:
        raise Discard

    made = await enqueue(database, discards, Number())
    with capture_logs():
        async with working(settings, discards):
            await jobs.end_of(made.id)
        assert events == ["told", "closed"]
        await JobsUnderTest(database, settings, registered={discards.name: discards}).perform(discards, Number())
    assert events == ["told", "closed"] * 2


async def test_hooks_run_around_each_run_the_first_outermost(
    settings: Settings, database: Database, jobs: Jobs
) -> None:
    order: list[str] = []

    def hook(name: str) -> None:
        @around_jobs
        async def around(ctx: JobContext, payload: BaseModel, run: Run) -> None:
            order.append(f"{name} begins {ctx.kind}")
            try:
                await run()
            finally:
                order.append(f"{name} ends")

    hook("outer")
    hook("inner")

    @job("test.hooked")
    async def hooked(ctx: JobContext, payload: Number) -> None:
        order.append("runs")
        await ctx.sleep(0.05)

    made = await enqueue(database, hooked, Number())
    async with working(settings, hooked):
        ended = await jobs.end_of(made.id)
    assert (ended["state"], ended["attempt"]) == ("succeeded", 1)
    once = ["outer begins test.hooked", "inner begins test.hooked", "runs", "inner ends", "outer ends"]
    assert order == once * 2  # the sleep goes through


async def test_error_of_a_hook_is_the_job_s(settings: Settings, database: Database, jobs: Jobs) -> None:
    @around_jobs
    async def refuses(ctx: JobContext, payload: BaseModel, run: Run) -> None:
        raise ConnectionError("from the hook")

    @job("test.hooked", retry=RetryPolicy(max_attempts=1))
    async def hooked(ctx: JobContext, payload: Number) -> None:
        raise AssertionError

    made = await enqueue(database, hooked, Number())
    with capture_logs():
        async with working(settings, hooked):
            ended = await jobs.end_of(made.id)
    assert (ended["state"], ended["errors"][0]["detail"]) == ("discarded", "ConnectionError: from the hook")


async def test_discarded_jobs_are_told_once_they_are_written(
    settings: Settings, database: Database, jobs: Jobs
) -> None:
    told: list[DiscardedJob] = []

    @on_discard
    async def fails(found: DiscardedJob) -> None:
        raise RuntimeError

    @on_discard
    async def tell(found: DiscardedJob) -> None:
        assert await jobs.ended(found.id) is not None
        told.append(found)

    @job("test.discards")
    async def discards(ctx: JobContext, payload: Number) -> None:
        raise Discard("no such thing")

    @job("test.fails", retry=RetryPolicy(max_attempts=1))
    async def fails_too(ctx: JobContext, payload: Number) -> None:
        raise ValueError("secret")

    @job("test.works")
    async def works(ctx: JobContext, payload: Number) -> None:
        pass

    made = [(await enqueue(database, kind, Number())).id for kind in (discards, fails_too, works)]
    with capture_logs() as lines:
        async with working(settings, discards, fails_too, works):
            await until(lambda: _so_many(told, 2))
            await jobs.end_of(made[2])
    assert sorted(told) == sorted(
        [
            DiscardedJob(made[0], "test.discards", "default", "no such thing"),
            DiscardedJob(made[1], "test.fails", "default", "ValueError"),
        ]
    )
    assert sum(line["event"] == "a hook failed that hears of discarded jobs" for line in lines) == 2


async def test_lifespans_start_before_the_first_job_and_stop_after_the_last(
    settings: Settings, database: Database, jobs: Jobs
) -> None:
    order: list[str] = []

    def lifespan(name: str) -> None:
        @worker_lifespan
        async def around(opened: Database) -> AsyncIterator[None]:
            order.append(f"{name} starts")
            yield
            async with opened.connection() as connection:  # it is open still
                order.append(f"{name} stops {await connection.fetchval('SELECT 1')}")

    lifespan("first")
    lifespan("second")

    @job("test.lives")
    async def lives(ctx: JobContext, payload: Number) -> None:
        order.append("runs")
        await asyncio.sleep(0.2)
        order.append("ends")

    made = await enqueue(database, lives, Number())
    async with working(settings, lives) as worker:
        await until(lambda: _so_many(order, 3))
        worker.stop()
        await jobs.end_of(made.id)
    assert order == ["first starts", "second starts", "runs", "ends", "second stops 1", "first stops 1"]
    assert await jobs.state(made.id) == "succeeded"


async def test_lifespan_that_raises_ends_the_worker(settings: Settings, database: Database) -> None:
    stopped: list[str] = []

    @worker_lifespan
    async def first(opened: Database) -> AsyncIterator[None]:
        try:
            yield
        finally:
            stopped.append("first")

    @worker_lifespan
    async def second(opened: Database) -> AsyncIterator[None]:
        raise ConnectionError("no such service")
        yield

    with pytest.raises(ConnectionError, match="no such service"):
        await Worker(settings, registered={}).run()
    assert stopped == ["first"]


async def _so_many(things: list[Any], count: int) -> bool:
    return len(things) >= count


@pytest.mark.parametrize("declare", [around_jobs, on_discard])
def test_what_cannot_be_a_hook_is_refused(declare: Callable[[Any], Any]) -> None:
    async def none() -> None: ...

    for hook in (none, lambda ctx, payload, run: None, lambda found: None, asyncio.sleep):
        with pytest.raises(TypeError, match="no coroutine function of"):
            declare(hook)


def test_what_cannot_be_a_lifespan_is_refused() -> None:
    async def no_generator(database: Database) -> None: ...

    async def without_a_database() -> AsyncIterator[None]:
        yield

    for hook in (no_generator, without_a_database):
        with pytest.raises(TypeError, match="no async generator function of one argument"):
            worker_lifespan(hook)  # type: ignore[type-var]
