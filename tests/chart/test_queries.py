"""KEDA's queries, asked of a real database."""

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.chart.tools import Object, objects_of, template

_INSERT = """
INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state, crash_count)
SELECT $1, $2, 0, '{}', 5, now() + $3 * interval '1 second', $4, $6 FROM generate_series(1, $5)
"""


def queries(values: Object) -> dict[str, str]:
    (scaled,) = [item for item in objects_of(template(values)) if item["kind"] == "ScaledObject"]
    return {trigger["name"]: trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]}


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def add(
    connection: asyncpg.Connection,
    state: str,
    *,
    queue: str = "default",
    kind: str = "a",
    after: float = 0,
    count: int = 1,
    crashes: int = 0,
) -> None:
    await connection.execute(_INSERT, kind, queue, after, state, count, crashes)


QUERIES = queries({"worker": {"keda": {"enabled": True}}, "config": {"JOBS_QUEUES": ["default", "o'mail"]}})
ENOUGH = 40  # maxReplicas x jobsPerReplica


class TestDueAndRunning:
    async def figure(self, connection: asyncpg.Connection) -> int:
        return int(await connection.fetchval(QUERIES["due-and-running"]))

    async def test_nothing_is_nothing(self, connection: asyncpg.Connection) -> None:
        assert await self.figure(connection) == 0

    async def test_due_and_running_jobs_count_and_later_ones_do_not(self, connection: asyncpg.Connection) -> None:
        await add(connection, "available", count=2)
        await add(connection, "available", crashes=2)
        await add(connection, "running", count=2)
        await add(connection, "scheduled", after=-1)
        await add(connection, "retryable", after=-1)
        await add(connection, "scheduled", after=3600, count=7)
        assert await self.figure(connection) == 7

    async def test_only_the_queues_of_the_workers_count(self, connection: asyncpg.Connection) -> None:
        for state in ("available", "running", "retryable"):
            await add(connection, state, queue="elsewhere", after=-1)
            await add(connection, state, queue="o'mail", after=-1)
        assert await self.figure(connection) == 3

    async def test_a_paused_queue_calls_for_nobody(self, connection: asyncpg.Connection) -> None:
        await add(connection, "available", count=5)
        await connection.execute("INSERT INTO job_queue (name) VALUES ('default')")
        assert await self.figure(connection) == 0

    async def test_a_long_line_is_not_counted_to_its_end(self, connection: asyncpg.Connection) -> None:
        await add(connection, "available", count=20_000)
        await add(connection, "scheduled", after=-1, count=20_000)
        await connection.execute("ANALYZE job")
        assert await self.figure(connection) == 2 * ENOUGH
        assert await rows_read(connection, QUERIES["due-and-running"]) < 10 * ENOUGH

    async def test_a_long_line_of_others_is_not_walked_along(self, connection: asyncpg.Connection) -> None:
        await add(connection, "available", queue="elsewhere", count=20_000)
        await add(connection, "available", count=3)
        await connection.execute("ANALYZE job")
        assert await self.figure(connection) == 3
        assert await rows_read(connection, QUERIES["due-and-running"]) < 10 * ENOUGH


class TestOldestDueAge:
    async def figure(self, connection: asyncpg.Connection) -> float:
        return float(await connection.fetchval(QUERIES["oldest-due-age"]))

    async def test_nothing_waits_for_no_time(self, connection: asyncpg.Connection) -> None:
        await add(connection, "running", after=-500)
        await add(connection, "scheduled", after=500)
        assert await self.figure(connection) == 0

    @pytest.mark.parametrize("state", ["available", "scheduled", "retryable"])
    async def test_the_oldest_of_all_kinds_counts(self, connection: asyncpg.Connection, state: str) -> None:
        for kind, after in (("a", -10), ("b", -200), ("c", -30)):
            await add(connection, state, kind=kind, after=after)
        assert 200 <= await self.figure(connection) < 230

    async def test_a_suspect_counts_too(self, connection: asyncpg.Connection) -> None:
        await add(connection, "available", after=-200, crashes=3)
        await add(connection, "available", after=-10)
        assert 200 <= await self.figure(connection) < 230

    async def test_other_and_paused_queues_do_not_count(self, connection: asyncpg.Connection) -> None:
        await add(connection, "available", queue="elsewhere", after=-500)
        await add(connection, "available", queue="o'mail", after=-300)
        await add(connection, "available", after=-100)
        await connection.execute("INSERT INTO job_queue (name) VALUES ('o''mail')")
        assert 100 <= await self.figure(connection) < 130

    async def test_a_long_line_is_not_walked_along(self, connection: asyncpg.Connection) -> None:
        await add(connection, "available", after=-50, count=20_000)
        await add(connection, "available", after=-50, count=20_000, kind="b")
        await add(connection, "scheduled", after=-50, count=20_000)
        await connection.execute("ANALYZE job")
        assert await rows_read(connection, QUERIES["oldest-due-age"]) < 100


async def rows_read(connection: asyncpg.Connection, query: str) -> int:
    """How many rows of the table `job` the query looked at."""
    (plan,) = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT json) {query}"))
    return sum(
        int(node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)))
        for node in _plan_nodes(plan["Plan"])
        if node.get("Relation Name") == "job"
    )


def _plan_nodes(node: Object) -> list[Object]:
    return [node, *(below for child in node.get("Plans", []) for below in _plan_nodes(child))]
