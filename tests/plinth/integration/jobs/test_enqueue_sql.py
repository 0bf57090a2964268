"""`plinth_enqueue`: jobs that triggers and programs in other languages make."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import JobContext, JobKind, RetryPolicy, enqueue, job
from tests.plinth.integration.jobs.conftest import Jobs, Number, open_store, until, working


@pytest.fixture
def task() -> JobKind[Number]:
    @job("test.sql")
    async def task(ctx: JobContext, payload: Number) -> None:
        assert payload.n == 7

    return task


async def test_job_made_in_sql_runs(settings: Settings, database: Database, jobs: Jobs, task: JobKind[Number]) -> None:
    (row,) = await jobs.all("""SELECT plinth_enqueue('test.sql', '{"n": 7}', owner => 'alice') AS id""")
    async with working(settings, task):
        ended = await jobs.end_of(row["id"])
    assert (ended["state"], ended["owner"], ended["max_attempts"]) == (
        "succeeded",
        "alice",
        RetryPolicy().max_attempts,
    )


async def test_trigger_enqueues_in_the_transaction_of_its_row(
    settings: Settings, database: Database, jobs: Jobs, task: JobKind[Number]
) -> None:
    await jobs.all("CREATE TABLE paper (n int)")
    try:
        await jobs.all(
            """
            CREATE FUNCTION on_paper() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM plinth_enqueue('test.sql', jsonb_build_object('n', NEW.n)); RETURN NULL; END $$
            """
        )
        await jobs.all("CREATE TRIGGER on_paper AFTER INSERT ON paper FOR EACH ROW EXECUTE FUNCTION on_paper()")
        async with database.session() as session:
            await (await session.connection()).exec_driver_sql("INSERT INTO paper VALUES (1)")
            await session.rollback()
        assert await jobs.all("SELECT FROM job") == []
        await jobs.all("INSERT INTO paper VALUES (7)")
        (row,) = await jobs.all("SELECT id FROM job")
        async with working(settings, task):
            assert (await jobs.end_of(row["id"]))["state"] == "succeeded"
    finally:
        await jobs.all("DROP TABLE paper")
        await jobs.all("DROP FUNCTION on_paper")


async def test_unique_key_has_one_live_job_whichever_way_it_is_made(
    database: Database, jobs: Jobs, task: JobKind[Number]
) -> None:
    first = await enqueue(database, task, Number(n=1), unique_key="k")
    call = """SELECT plinth_enqueue('test.sql', '{"n": 2}', unique_key => 'k') AS id"""
    found = await asyncio.gather(*(jobs.all(call) for _ in range(10)))
    assert {row["id"] for (row,) in found} == {first.id}
    made = await asyncio.gather(*(jobs.all(call.replace("'k'", "'other'")) for _ in range(10)))
    assert len({row["id"] for (row,) in made}) == 1


async def test_key_of_a_job_that_waits_is_free_once_its_run_starts(
    database: Database, jobs: Jobs, task: JobKind[Number]
) -> None:
    call = """SELECT plinth_enqueue('test.sql', '{"n": 7}', unique_key => 'k', unique_mode => 'waiting') AS id"""
    found = await asyncio.gather(*(jobs.all(call) for _ in range(10)))
    (first,) = {row["id"] for (row,) in found}
    store = await open_store(database)
    async with database.session() as session:
        connection = await session.connection()
        assert (await connection.exec_driver_sql(call)).scalar_one() == first
        assert await store.claim(["default"], {task.name: task}, 1) == []  # until that transaction has ended
    assert len(await store.claim(["default"], {task.name: task}, 1)) == 1
    (row,) = await jobs.all(call)
    assert row["id"] != first


async def test_time_queue_and_priority_are_taken(jobs: Jobs) -> None:
    await jobs.all(
        "SELECT plinth_enqueue('a', '{}', queue => 'q', priority => -3, max_attempts => 2, run_at => '2100-01-01 UTC')"
    )
    row = await jobs.one("SELECT state, queue, priority, max_attempts, run_at FROM job")
    assert tuple(row) == ("scheduled", "q", -3, 2, datetime(2100, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "arguments",
    [
        "'', '{}'",
        "'a b', '{}'",
        "'a', '{}', queue => ''",
        "'a', NULL",
        "'a', '{}', max_attempts => 0",
        "'a', '{}', run_at => 'infinity'",
        "'a', '{}', priority => 40000",
        "'a', '{}', unique_key => 'k', unique_mode => 'success'",
    ],
)
async def test_what_no_worker_could_run_is_refused(jobs: Jobs, arguments: str) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await jobs.all(f"SELECT plinth_enqueue({arguments})")
    rows: list[Any] = await jobs.all("SELECT FROM job")
    assert rows == []


async def test_job_with_an_empty_owner_has_follow_ups(settings: Settings, database: Database, jobs: Jobs) -> None:
    owners: list[str | None] = []

    @job("test.sql.last")
    async def last(ctx: JobContext, payload: Number) -> None:
        owners.append(ctx.owner)

    @job("test.sql.first")
    async def first(ctx: JobContext, payload: Number) -> None:
        ctx.enqueue(last, Number())

    (row,) = await jobs.all("SELECT plinth_enqueue('test.sql.first', '{}', owner => '') AS id")
    async with working(settings, first, last):
        assert (await jobs.end_of(row["id"]))["state"] == "succeeded"
        await jobs.end_of(
            (await until(lambda: jobs.all("SELECT id FROM job_history WHERE kind = 'test.sql.last'")))[0][0]
        )
    assert owners == [None]
