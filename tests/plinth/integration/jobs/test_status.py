"""The view `job_status`, by which a service's own SQL shows how far a job is and fences what a run writes."""

from typing import Any

import pytest

from plinth.database.engine import Database
from plinth.jobs import State, job
from plinth.jobs.context import JobContext
from plinth.jobs.engine.store import Store
from plinth.jobs.kinds import JobKind
from tests.plinth.integration.jobs.admin.test_jobs import add, claim, end
from tests.plinth.integration.jobs.conftest import Number, open_store


@pytest.fixture
def task() -> JobKind[Number]:
    @job("test.task")
    async def task(ctx: JobContext, payload: Number) -> None:
        pass

    return task


@pytest.fixture
async def store(database: Database) -> Store:
    return await open_store(database)


async def status(database: Database) -> dict[str, Any]:
    async with database.connection() as connection:
        (row,) = await connection.fetch("SELECT id, state, live, run, finished_at IS NOT NULL AS ended FROM job_status")
    return dict(row)


async def test_job_status_has_one_row_for_a_job_from_enqueue_to_end(
    database: Database, store: Store, task: JobKind[Number]
) -> None:
    job_id = await add(database, task)
    waiting = {"id": job_id, "state": "available", "live": True, "run": 0, "ended": False}
    assert await status(database) == waiting
    claimed = await claim(store, task)
    running = {"id": job_id, "state": "running", "live": True, "run": claimed.lease, "ended": False}
    assert await status(database) == running
    await end(store, claimed, State.SUCCEEDED)
    assert await status(database) == running | {"state": "succeeded", "live": False, "ended": True}


@pytest.fixture
async def long_tables(database: Database) -> None:
    common = "SELECT 'test.task', 'default', 0, '{}', 1, now(), "
    async with database.connection() as connection:
        await connection.execute(
            f"""
            INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state)
                {common} 'available' FROM generate_series(1, 3000);
            INSERT INTO job_history (kind, queue, priority, payload, max_attempts, run_at, state, finished_at)
                {common} 'succeeded', now() FROM generate_series(1, 10000);
            ANALYZE job, job_history;
            """
        )


async def plan(database: Database, sql: str) -> str:
    async with database.connection() as connection, connection.transaction():
        some = "SELECT row_number() OVER () AS thing_id, id AS job_id FROM job_status LIMIT 10"
        await connection.execute(f"CREATE TEMP TABLE thing ON COMMIT DROP AS {some}; ANALYZE thing")
        return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN (COSTS OFF) {sql}"))


@pytest.mark.usefixtures("long_tables")
class TestCost:
    @pytest.mark.parametrize("join", ["JOIN", "LEFT JOIN"])
    async def test_join_with_job_status_is_two_index_lookups(self, database: Database, join: str) -> None:
        found = await plan(database, f"SELECT state FROM thing {join} job_status ON job_status.id = thing.job_id")
        assert "Scan using pk_job on job" in found
        assert "Scan using pk_job_history on job_history" in found
        assert "Seq Scan on job" not in found

    async def test_live_condition_on_job_status_is_one_index_lookup(self, database: Database) -> None:
        live = "EXISTS (SELECT FROM job_status WHERE id = thing.job_id AND live)"
        found = await plan(database, f"SELECT count(*) FILTER (WHERE {live}) FROM thing")
        assert "using pk_job on job" in found
        assert "job_history" not in found

    async def test_fence_on_job_status_is_one_index_lookup(self, database: Database) -> None:
        fenced = "thing JOIN job_status ON id = job_id WHERE thing_id = 1 AND live AND run = 1"
        found = await plan(database, f"SELECT FROM {fenced} FOR KEY SHARE OF thing")
        assert "Scan using pk_job on job" in found
        assert "job_history" not in found
