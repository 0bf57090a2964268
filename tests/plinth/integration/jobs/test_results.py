"""Results: what a handler returns is kept with its job."""

from typing import Any, NoReturn
from uuid import uuid4

import pytest
from pydantic import BaseModel

from notes.config import Settings
from plinth.database.engine import Database
from plinth.errors import ConflictError
from plinth.jobs import JobContext, JobKind, RetryPolicy, enqueue, job
from plinth.jobs.admin.jobs import get_job, list_jobs, retry_job, summaries
from plinth.jobs.results import MAX_RESULT
from tests.plinth.integration.jobs.conftest import Jobs, Number, working

AT_ONCE = RetryPolicy(max_attempts=2, base=0.01, ceiling=0.01)


class Total(BaseModel):
    total: int


async def end(settings: Settings, database: Database, jobs: Jobs, kind: JobKind[Any]) -> Any:
    """Run one job of the kind to its end; its row in the history."""
    made = await enqueue(database, kind, Number(n=20))
    async with working(settings, kind):
        return await jobs.end_of(made.id)


async def test_result_is_kept_with_the_job(settings: Settings, database: Database, jobs: Jobs) -> None:
    @job("test.results")
    async def double(ctx: JobContext, payload: Number) -> Total:
        return Total(total=payload.n * 2)

    ended = await end(settings, database, jobs, double)
    assert (ended["state"], ended["result"], ended["errors"]) == ("succeeded", {"total": 40}, [])
    async with database.session() as session:
        assert (await get_job(session, ended["id"])).result == {"total": 40}
        (listed,), (summary,) = await list_jobs(session), await summaries(session, [ended["id"]])
        assert (listed.result, summary.result) == (None, None)  # it may be large
        (listed,) = await list_jobs(session, payloads=True)
        assert listed.result == {"total": 40}
        with pytest.raises(ConflictError):
            await retry_job(session, ended["id"])


async def test_plain_function_has_a_result_too(settings: Settings, database: Database, jobs: Jobs) -> None:
    @job("test.results")
    def double(ctx: JobContext, payload: Number) -> list[int]:
        return [payload.n] * 2

    assert (await end(settings, database, jobs, double))["result"] == [20, 20]


async def test_result_of_a_run_that_failed_is_not_kept(settings: Settings, database: Database, jobs: Jobs) -> None:
    @job("test.results", retry=AT_ONCE)
    async def second(ctx: JobContext, payload: Number) -> int:
        if ctx.attempt == 1:
            raise ConnectionError
        return ctx.attempt

    assert (await end(settings, database, jobs, second))["result"] == 2


async def test_job_completes_with_its_result(settings: Settings, database: Database, jobs: Jobs) -> None:
    @job("test.results")
    async def book(ctx: JobContext, payload: Number) -> Total | None:
        async with ctx.session() as session:
            await ctx.complete(session, result=Total(total=7))
        return None

    assert (await end(settings, database, jobs, book))["result"] == {"total": 7}


async def test_result_of_another_type_does_not_complete_the_job(
    settings: Settings, database: Database, jobs: Jobs
) -> None:
    @job("test.results", retry=AT_ONCE)
    async def book(ctx: JobContext, payload: Number) -> Total | None:
        async with ctx.session() as session:
            await ctx.complete(session, result="seven")
        return None

    ended = await end(settings, database, jobs, book)
    assert (ended["state"], ended["attempt"], ended["result"]) == ("discarded", 2, None)
    assert "The result of test.results, a str, cannot be kept as JSON of its type." in ended["errors"][0]["detail"]


class Odd:
    """Nothing that JSON can hold."""


@pytest.mark.parametrize("returned", ["x" * MAX_RESULT, "a\0b", Odd(), "\ud800"], ids=["long", "nul", "odd", "lone"])
async def test_job_whose_result_cannot_be_kept_is_done_all_the_same(
    settings: Settings, database: Database, jobs: Jobs, returned: object
) -> None:
    runs: list[int] = []

    @job("test.results", retry=AT_ONCE)
    async def handler(ctx: JobContext, payload: Number) -> Any:
        runs.append(ctx.run)
        return returned

    ended = await end(settings, database, jobs, handler)
    assert (ended["state"], ended["result"], runs) == ("succeeded", None, [1])
    async with database.session() as session:
        (error,) = (await get_job(session, ended["id"])).errors
    assert (error["outcome"], error["error"]) == ("result", "The job is done, and its result could not be kept.")
    assert "The result of test.results" in error["detail"]


async def test_job_without_a_return_type_has_no_result(settings: Settings, database: Database, jobs: Jobs) -> None:
    @job("test.results")
    async def handler(ctx: JobContext, payload: Number):  # type: ignore[no-untyped-def]
        return uuid4()

    ended = await end(settings, database, jobs, handler)
    assert (ended["state"], ended["result"], ended["errors"]) == ("succeeded", None, [])


def test_return_type_is_known_when_the_kind_is_declared() -> None:
    async def nothing(ctx: JobContext, payload: Number) -> None: ...

    async def never(ctx: JobContext, payload: Number) -> NoReturn:
        raise ConnectionError

    async def odd(ctx: JobContext, payload: Number) -> Odd:
        return Odd()

    assert job("test.nothing")(nothing).result is job("test.never")(never).result is None
    with pytest.raises(TypeError, match=r"Pydantic cannot make JSON of the return type .*Odd"):
        job("test.odd")(odd)
