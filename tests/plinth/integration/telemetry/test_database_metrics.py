"""What is counted of the database, its pool, Redis and readiness."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis import exceptions
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlmodel import select

from notes.models import Note
from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.database.observed_connection import MAX_STATEMENT
from plinth.health.readiness import Readiness
from plinth.http.rate_limit import RateLimiter
from plinth.redis.client import close_redis, open_redis
from plinth.telemetry.metrics import db_operation
from plinth.testing import NO_DATABASE
from tests.support.metrics import metric, series
from tests.support.notes import settings_with

OPERATIONS = "db_client_operation_duration_seconds_count"
POOL = "test"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    settings = settings_with(DATABASE_URL=database_url, DB_POOL_SIZE=2, DB_MAX_OVERFLOW=1)
    database = Database(settings, pool_name=POOL)
    yield database
    await database.aclose()


def operations(name: str, system: str = "postgresql") -> float:
    return metric(OPERATIONS, db_system_name=system, db_operation_name=name)


def errors(kind: str, system: str = "postgresql") -> float:
    return metric("plinth_db_errors_total", db_system_name=system, kind=kind)


def pool(what: str, **labels: str) -> float:
    return metric(f"db_client_connection_{what}", db_client_connection_pool_name=POOL, **labels)


def used() -> tuple[float, float]:
    """Connections in use, and idle."""
    name = "db_client_connection_state"
    return pool("count", **{name: "used"}), pool("count", **{name: "idle"})


class TestStatements:
    async def test_each_statement_of_a_session_is_counted_once(self, database: Database) -> None:
        async with database.session() as session:
            await session.exec(select(Note))  # connected, with all that this takes
        before = {name: operations(name) for name in ("SELECT", "INSERT", "UPDATE", "BEGIN", "COMMIT")}
        async with database.session() as session:
            session.add(note := Note(owner="alice", text="a"))
            await session.flush()
            note.text = "b"
            await session.flush()
            await session.exec(select(Note))
        counted = {name: operations(name) - count for name, count in before.items()}
        assert counted == {"SELECT": 1, "INSERT": 1, "UPDATE": 1, "BEGIN": 1, "COMMIT": 1}

    async def test_each_statement_of_a_bare_connection_is_counted_once(self, database: Database) -> None:
        async with database.connection() as connection:
            before = {name: operations(name) for name in ("SELECT", "INSERT", "WITH")}
            await connection.fetch("SELECT 1")
            await connection.fetchval("select 2")
            await connection.execute("INSERT INTO job_queue (name) VALUES ($1)", "a")
            await connection.fetchrow("WITH a AS (SELECT 1) SELECT * FROM a")
        assert {name: operations(name) - count for name, count in before.items()} == {
            "SELECT": 2,
            "INSERT": 1,
            "WITH": 1,
        }

    async def test_executemany_is_counted_once(self, database: Database) -> None:
        rows = [{"owner": "alice", "text": text} for text in "abc"]
        async with database.session() as session:
            await session.exec(select(Note))
            before = operations("INSERT")
            await (await session.connection()).execute(insert(Note.__table__).inline(), rows)  # type: ignore[attr-defined]
        assert operations("INSERT") == before + 1

    async def test_failed_statement_is_counted(self, database: Database) -> None:
        async with database.connection() as connection:
            await connection.execute("SELECT 1")
        before = operations("SELECT"), errors("other")
        with pytest.raises(ProgrammingError):
            async with database.session() as session:
                await (await session.connection()).exec_driver_sql("SELECT nothing")
        assert (operations("SELECT"), errors("other")) == (before[0] + 1, before[1] + 1)

    async def test_long_statements_share_one_cache_entry(self, database: Database) -> None:
        """A bulk insert is another text for each number of rows."""
        async with database.connection() as connection:
            before = operations("SELECT"), db_operation.cache_info().misses
            for number in range(5):
                await connection.fetchval(f"SELECT 1 /* {'x' * MAX_STATEMENT} */ + {number}")
        assert operations("SELECT") == before[0] + 5
        assert db_operation.cache_info().misses == before[1] + 1

    async def test_statements_of_a_database_without_a_pool_name_are_not_counted(self, database_url: str) -> None:
        database = Database(settings_with(DATABASE_URL=database_url))
        before = operations("SELECT")
        await database.ping()
        await database.aclose()
        assert operations("SELECT") == before


class TestErrors:
    async def test_constraint_violation_is_not_counted_as_an_error(self, database: Database) -> None:
        before = [errors(kind) for kind in ("unavailable", "timeout", "other")]
        with pytest.raises(IntegrityError):
            async with database.session() as session:
                await (await session.connection()).exec_driver_sql("INSERT INTO job_queue VALUES ('a'), ('a')")
        assert [errors(kind) for kind in ("unavailable", "timeout", "other")] == before

    async def test_unreachable_server_is_counted_as_unavailable(self) -> None:
        database = Database(settings_with(DATABASE_URL=NO_DATABASE), pool_name=POOL)
        before = errors("unavailable")
        with pytest.raises(DatabaseUnavailableError):
            await database.ping()
        await database.aclose()
        assert errors("unavailable") == before + 1

    @pytest.mark.parametrize("bare", [True, False])
    async def test_statement_timeout_is_counted_as_timeout(self, database_url: str, bare: bool) -> None:
        database = Database(settings_with(DATABASE_URL=database_url, DB_STATEMENT_TIMEOUT=0.1), pool_name=POOL)

        async def sleep() -> None:
            if bare:
                async with database.connection() as connection:
                    await connection.execute("SELECT pg_sleep(20)")
            else:
                async with database.session() as session:
                    await (await session.connection()).exec_driver_sql("SELECT pg_sleep(20)")

        before = errors("timeout")
        with pytest.raises(DatabaseUnavailableError):
            await sleep()
        await database.aclose()
        assert errors("timeout") == before + 1


class TestPool:
    async def test_connections_of_the_pool_are_counted_by_state(self, database: Database) -> None:
        assert used() == (0, 0)
        assert pool("max") == 3
        async with database.connection(), database.connection():
            assert used() == (2, 0)
            async with database.connection():
                assert used() == (3, 0)
        assert used() == (0, 2)

    async def test_waits_for_a_connection_are_counted_and_timed(self, database: Database) -> None:
        async def use() -> None:
            async with database.connection():
                pass

        count, total = pool("wait_time_seconds_count"), pool("wait_time_seconds_sum")
        async with database.connection(), database.connection(), database.connection():
            waiting = asyncio.create_task(use())
            while pool("pending_requests") != 1:  # noqa: ASYNC110 - it is the pool that changes
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
        await waiting
        assert pool("pending_requests") == 0
        assert pool("wait_time_seconds_count") == count + 4
        assert pool("wait_time_seconds_sum") >= total + 0.05

    async def test_timed_out_wait_for_a_connection_is_counted(self, database_url: str) -> None:
        settings = settings_with(DATABASE_URL=database_url, DB_POOL_SIZE=1, DB_POOL_TIMEOUT=0.05)
        database = Database(settings, pool_name=POOL)
        before = pool("timeouts_total"), errors("timeout")
        async with database.connection():
            with pytest.raises(DatabaseUnavailableError):
                await database.ping()
        await database.aclose()
        assert (pool("timeouts_total"), errors("timeout")) == (before[0] + 1, before[1] + 1)

    async def test_pools_of_two_applications_are_added_up(self, database: Database, database_url: str) -> None:
        other = Database(settings_with(DATABASE_URL=database_url, DB_POOL_SIZE=4), pool_name=POOL)
        assert pool("max") == 7
        await other.aclose()
        assert pool("max") == 3

    async def test_pool_metrics_end_with_their_database(self, database: Database) -> None:
        await database.aclose()
        shown = {name for name, labels in series() if ("db_client_connection_pool_name", POOL) in labels}
        assert not shown & {f"db_client_connection_{what}" for what in ("count", "max", "pending_requests")}


class TestRedis:
    async def test_redis_commands_are_counted_by_name(self, redis_url: str) -> None:
        redis = open_redis(settings_with(REDIS_URL=redis_url))
        assert redis is not None
        before = {name: operations(name, "redis") for name in ("PING", "PUBLISH", "OTHER", "EVALSHA")}
        await redis.ping()
        await redis.publish("nowhere", "a")
        await redis.flushdb()
        limiter = RateLimiter("5/minute", redis, prefix="test")
        await limiter.hit("a")
        await close_redis(redis)
        counted = {name: operations(name, "redis") - count for name, count in before.items()}
        assert counted.pop("EVALSHA") >= 1
        assert counted == {"PING": 1, "PUBLISH": 1, "OTHER": 1}

    async def test_redis_command_given_in_bytes_is_counted(self, redis_url: str) -> None:
        redis = open_redis(settings_with(REDIS_URL=redis_url))
        assert redis is not None
        before = operations("OTHER", "redis")
        try:
            assert await redis.execute_command(b"PING")  # type: ignore[no-untyped-call]
        finally:
            await close_redis(redis)
        assert operations("OTHER", "redis") == before + 1

    async def test_reloaded_redis_script_is_not_counted_as_an_error(self, redis_url: str) -> None:
        redis = open_redis(settings_with(REDIS_URL=redis_url))
        assert redis is not None
        before = [errors(kind, "redis") for kind in ("unavailable", "timeout", "other")]
        await redis.script_flush()
        await RateLimiter("5/minute", redis, prefix="test").hit("a")
        await close_redis(redis)
        assert [errors(kind, "redis") for kind in ("unavailable", "timeout", "other")] == before

    async def test_redis_errors_are_counted_by_kind(self, redis_url: str) -> None:
        redis = open_redis(settings_with(REDIS_URL=redis_url))
        away = open_redis(settings_with(REDIS_URL="redis://127.0.0.1:1"))
        assert redis is not None
        assert away is not None
        before = errors("other", "redis"), errors("unavailable", "redis")
        with pytest.raises(exceptions.ResponseError):
            await redis.execute_command("NONSENSE")  # type: ignore[no-untyped-call]
        with pytest.raises(exceptions.ConnectionError):
            await away.ping()
        await close_redis(redis)
        await close_redis(away)
        assert (errors("other", "redis"), errors("unavailable", "redis")) == (before[0] + 1, before[1] + 1)


async def test_rate_limit_verdicts_are_counted() -> None:
    before = [metric("plinth_rate_limit_verdicts_total", verdict=verdict) for verdict in ("allowed", "limited")]
    limiter = RateLimiter("2/minute", None, prefix="test")
    for _ in range(5):
        await limiter.hit("a")
    after = [metric("plinth_rate_limit_verdicts_total", verdict=verdict) for verdict in ("allowed", "limited")]
    assert after == [before[0] + 2, before[1] + 3]


async def test_dependencies_are_exported_while_readiness_runs() -> None:
    async def away() -> None:
        raise OSError

    async def there() -> None:
        pass

    readiness = Readiness({"database": there, "redis": away}, ["database"])
    async with readiness.running():
        assert metric("plinth_dependency_up", dependency="database") == 1
        assert metric("plinth_dependency_up", dependency="redis") == 0
        assert ("plinth_dependency_up", frozenset({("dependency", "redis")})) in series()
    assert not [name for name, _ in series() if name == "plinth_dependency_up"]
