"""Sessions, connections and the pool, on PostgreSQL."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
import psutil
import pytest
from sqlalchemy import bindparam, insert, text
from sqlalchemy import select as select_columns
from sqlalchemy.pool import NullPool
from sqlmodel import col, select

from notes.models import Note
from plinth.aio import cancel_all
from plinth.database.engine import WARM_CONNECTIONS, Database, DatabaseUnavailableError
from plinth.database.pool import FairQueuePool
from plinth.database.statement import Statement
from plinth.testing.servers import Servers
from plinth.testing.until import until
from tests.support.notes import settings_with
from tests.support.transaction_pooler import transaction_pooler

_TEXT: Any = (Note.id, Note.text)
INSERT = Statement(insert(Note).values(owner=bindparam("owner"), text=bindparam("text"), tags=[]).returning(*_TEXT))
GET = Statement(select_columns(*_TEXT).where(col(Note.id) == bindparam("id")))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(settings_with(DATABASE_URL=database_url, DB_POOL_SIZE=2, DB_MAX_OVERFLOW=0))
    yield database
    await database.aclose()


async def names(database: Database) -> list[str]:
    async with database.session() as session:
        return [note.text for note in await session.exec(select(Note).order_by(Note.text))]


class TestSession:
    async def test_session_commits_at_the_end_of_its_block(self, database: Database) -> None:
        async with database.session() as session:
            session.add(Note(owner="alice", text="kept"))
        assert await names(database) == ["kept"]

    async def test_session_rolls_back_when_its_block_raises(self, database: Database) -> None:
        async def fail() -> None:
            async with database.session() as session:
                session.add(Note(owner="alice", text="lost"))
                await session.flush()
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        assert await names(database) == []

    async def test_session_reads_timestamps_in_utc(self, database: Database) -> None:
        async with database.session() as session:
            session.add(note := Note(owner="alice", text="x"))
            await session.flush()
        assert note.created_at.utcoffset() is not None
        assert not note.created_at.utcoffset()


class TestConnection:
    async def test_statement_on_a_bare_connection_commits_by_itself(self, database: Database) -> None:
        async with database.connection() as connection:
            await INSERT.fetchrow(connection, owner="alice", text="hot")
            assert await names(database) == ["hot"]

    async def test_failed_statement_raises_the_driver_s_own_error(self, database: Database) -> None:
        with pytest.raises(asyncpg.UndefinedTableError):
            async with database.connection() as connection:
                await connection.fetch("SELECT * FROM no_such_table")

    async def test_connection_is_usable_after_a_failed_statement(self, database: Database) -> None:
        for _ in range(3):
            with pytest.raises(asyncpg.DivisionByZeroError):
                async with database.connection() as connection:
                    await connection.fetchval("SELECT 1 / 0")
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1

    async def test_cancelled_task_leaves_no_connection_in_mid_statement(self, database: Database) -> None:
        async def work() -> None:
            async with database.connection() as connection:
                await connection.fetchval("SELECT pg_sleep(1)")

        for _ in range(4):
            task = asyncio.create_task(work())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with database.connection() as one, database.connection() as other:
            assert [await one.fetchval("SELECT 1"), await other.fetchval("SELECT 2")] == [1, 2]


class TestLimits:
    async def test_connection_that_the_server_is_about_to_close_is_unavailable(self, database: Database) -> None:
        """The server has said so, and its end of the connection has not come yet."""
        fields = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
        farewell = b"E" + struct.pack("!i", len(fields) + 4) + fields

        async def by_connection() -> None:
            async with database.connection() as connection:
                driver: Any = connection
                driver._protocol.data_received(farewell)
                await connection.fetchval("SELECT 1")

        async def by_session() -> None:
            async with database.session() as session:
                pooled = await session.connection()
                driver: Any = (await pooled.get_raw_connection()).driver_connection
                driver._protocol.data_received(farewell)
                await pooled.execute(text("SELECT 1"))

        for ask in (by_connection, by_session):
            with pytest.raises(DatabaseUnavailableError):
                await ask()
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1

    @pytest.mark.parametrize("by", ["connection", "session"])
    async def test_server_that_has_become_read_only_is_left_at_the_first_failure(
        self, database_url: str, by: str
    ) -> None:
        database = Database(settings_with(DATABASE_URL=database_url, DB_POOL_SIZE=3, DB_MAX_OVERFLOW=0))

        async def write() -> None:
            if by == "session":
                async with database.session() as session:
                    session.add(Note(owner="alice", text="x"))
            else:
                async with database.connection() as connection:
                    await INSERT.fetchrow(connection, owner="alice", text="x")

        async with AsyncExitStack() as opened:
            opened.push_async_callback(database.aclose)
            async with AsyncExitStack() as pooled:
                for _ in range(3):
                    connection = await pooled.enter_async_context(database.connection())
                    await connection.execute("SET default_transaction_read_only = on")
            with pytest.raises(DatabaseUnavailableError):
                await write()
            for _ in range(3):
                await write()

    @pytest.mark.parametrize("by", ["connection", "session"])
    @pytest.mark.parametrize(
        "state",
        [
            *("57P01", "57P02", "57P03", "57P04", "57P05", "25006"),
            *("08000", "08003", "08006", "08P01", "53100", "53200", "53300"),
        ],
    )
    async def test_server_that_says_it_cannot_serve_is_unavailable_and_its_connection_is_left(
        self, database_url: str, state: str, by: str
    ) -> None:
        database = Database(settings_with(DATABASE_URL=database_url, DB_POOL_SIZE=1, DB_MAX_OVERFLOW=0))
        fail = f"DO $$ BEGIN RAISE 's3cret' USING ERRCODE = '{state}'; END $$"

        async def server() -> int:
            async with database.connection() as connection:
                number: int = await connection.fetchval("SELECT pg_backend_pid()")
                return number

        async def ask() -> None:
            if by == "session":
                async with database.session() as session:
                    await (await session.connection()).exec_driver_sql(fail)
            else:
                async with database.connection() as connection:
                    await connection.execute(fail)

        before = await server()
        with pytest.raises(DatabaseUnavailableError) as caught:
            await ask()
        assert caught.value.reason
        assert "s3cret" not in caught.value.reason
        assert await server() != before
        await database.aclose()

    async def test_database_that_cannot_be_written_gives_no_answer_to_a_ping(self, database_url: str) -> None:
        database = Database(settings_with(DATABASE_URL=database_url, DB_POOL_SIZE=1, DB_MAX_OVERFLOW=0))
        await database.ping()
        async with database.connection() as connection:
            await connection.execute("SET default_transaction_read_only = on")
        with pytest.raises(DatabaseUnavailableError):
            await database.ping()
        await database.ping()  # over another connection
        await database.aclose()

    async def test_a_slow_statement_is_ended_by_the_server(self, database_url: str) -> None:
        database = Database(settings_with(DATABASE_URL=database_url, DB_STATEMENT_TIMEOUT=0.1))
        with pytest.raises(DatabaseUnavailableError):
            async with database.session() as session:
                await session.exec(text("SELECT pg_sleep(5)"))  # type: ignore[call-overload]
        with pytest.raises(DatabaseUnavailableError):
            async with database.connection() as connection:
                await connection.fetchval("SELECT pg_sleep(5)")
        await database.aclose()

    async def test_waiting_too_long_for_a_connection_is_an_error(self, database_url: str) -> None:
        settings = settings_with(DATABASE_URL=database_url, DB_POOL_SIZE=1, DB_MAX_OVERFLOW=0, DB_POOL_TIMEOUT=0.05)
        database = Database(settings)
        async with database.connection():
            with pytest.raises(DatabaseUnavailableError):
                async with database.connection():
                    pass
            with pytest.raises(DatabaseUnavailableError):
                async with database.session() as session:
                    await session.exec(text("SELECT 1"))  # type: ignore[call-overload]
        await database.aclose()

    async def test_unreachable_server_raises_unavailable(self, tmp_path: Path) -> None:
        database = Database(settings_with(DATABASE_URL=f"postgresql://plinth@/plinth?host={tmp_path}"))
        with pytest.raises(DatabaseUnavailableError):
            await database.ping()
        await database.aclose()


class TestPools:
    async def test_pool_serves_waiters_in_order(self, database: Database) -> None:
        assert isinstance(database.engine.pool, FairQueuePool)

    async def test_warmed_pool_has_connections_for_the_first_callers(self, database_url: str) -> None:
        """Those of a new pod, to which its share of the load comes all at once."""
        for size, opened in ((10, WARM_CONNECTIONS), (2, 2)):
            database = Database(settings_with(DATABASE_URL=database_url, DB_POOL_SIZE=size, DB_MAX_OVERFLOW=5))
            await database.warm()
            assert isinstance(database.engine.pool, FairQueuePool)
            assert database.engine.pool.checkedin() == opened
            await database.aclose()

    async def test_warming_the_pool_ignores_an_unreachable_database(self, tmp_path: Path) -> None:
        database = Database(settings_with(DATABASE_URL=f"postgresql://plinth@/plinth?host={tmp_path}"))
        await database.warm()
        await database.aclose()

    async def test_null_pool_keeps_no_connection(self, database_url: str) -> None:
        database = Database(settings_with(DATABASE_URL=database_url, DB_USE_NULL_POOL=True))
        assert isinstance(database.engine.pool, NullPool)
        async with database.connection() as connection:
            first = await connection.fetchval("SELECT pg_backend_pid()")
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") != first
        await database.aclose()


class TestClosing:
    async def test_frozen_server_delays_the_close_by_a_moment(self, own_servers: Servers) -> None:
        database = Database(settings_with(DATABASE_URL=own_servers.postgres.url("plinth")))
        await database.warm()
        own_servers.postgres.pause()
        try:
            async with asyncio.timeout(10):  # not DB_STATEMENT_TIMEOUT, 20 s here, for each of the four
                await database.aclose()
        finally:
            own_servers.postgres.resume()

    @pytest.mark.parametrize("seconds", [0.0, 0.05])
    async def test_connections_in_use_are_closed_when_they_come_back(
        self, database_url: str, sql: asyncpg.Connection, seconds: float
    ) -> None:
        name = f"closed-{uuid4()}"
        database = Database(
            settings_with(DATABASE_URL=database_url, DB_POOL_SIZE=4, DB_MAX_OVERFLOW=2),
            server_settings={"application_name": name},
        )

        async def use() -> None:
            while True:
                async with database.connection() as connection:
                    await connection.fetchval("SELECT pg_sleep(0.001)")
                async with database.session() as session:
                    await session.connection()

        async def are_gone() -> bool:
            left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
            return bool(await sql.fetchval(left, name) == 0)

        pool: Any = database.engine.pool
        users = [asyncio.create_task(use()) for _ in range(20)]
        await until(lambda: pool.checkedout() > 0)  # some connect still
        await database.aclose()
        await asyncio.sleep(seconds)
        await cancel_all(users)  # many of them wait for a connection, or have just been given one
        await until(are_gone)
        assert pool.checkedout() == 0

    async def test_connection_that_the_network_has_dropped_is_replaced_in_a_moment(
        self, own_servers: Servers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("plinth.database.engine.RECYCLE_SECONDS", 0)
        monkeypatch.setattr("plinth.database.pool.CLOSE_SECONDS", 0.01)
        waited: list[float | None] = []
        close = asyncpg.Connection.close

        async def counted(connection: Any, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as asyncpg's
            waited.append(timeout)
            await close(connection, timeout=timeout)

        monkeypatch.setattr(asyncpg.Connection, "close", counted)
        database = Database(settings_with(DATABASE_URL=own_servers.postgres.url("plinth")))
        async with database.connection() as connection:
            silent = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()"))
        silent.suspend()
        try:
            async with database.connection() as connection:
                assert await connection.fetchval("SELECT pg_backend_pid()") != silent.pid
            assert waited[0] == 0.01  # SQLAlchemy's own close would come first, and wait for 2 s
        finally:
            silent.resume()
            await database.aclose()


class TestTransactionPooler:
    @pytest.fixture
    async def pooled_url(self, database_url: str, tmp_path: Path) -> AsyncIterator[str]:
        parts = urlsplit(database_url)
        server = Path(parse_qs(parts.query)["host"][0]) / ".s.PGSQL.5432"
        async with transaction_pooler(server, tmp_path) as folder:
            yield f"postgresql://{parts.username}@{parts.path}?host={folder}"

    async def test_prepared_statements_fail_behind_a_transaction_pooler_without_the_setting(
        self, pooled_url: str
    ) -> None:
        connection = await asyncpg.connect(pooled_url)
        with contextlib.suppress(asyncpg.InvalidSQLStatementNameError):
            await connection.fetchval("SELECT $1::int", 1)
        with pytest.raises(asyncpg.InvalidSQLStatementNameError):
            await connection.fetchval("SELECT $1::int", 1)
        connection.terminate()

    async def test_sessions_and_connections_work_behind_a_transaction_pooler_with_the_setting(
        self, pooled_url: str
    ) -> None:
        database = Database(settings_with(DATABASE_URL=pooled_url, DB_TRANSACTION_POOLER=True))

        async def one_life(number: int) -> None:
            async with database.connection() as connection:
                made = await INSERT.fetchrow(connection, owner="alice", text=f"{number}")
            assert made
            async with database.session() as session:
                changed = await session.get_one(Note, made["id"], with_for_update=True)
                changed.text = "changed"
            async with database.connection() as connection:
                read = await GET.fetchrow(connection, id=made["id"])
                assert read
                assert read["text"] == "changed"

        await asyncio.gather(*(one_life(number) for number in range(30)))
        async with database.session() as session:
            named = await session.exec(text("SELECT name FROM pg_prepared_statements"))  # type: ignore[call-overload]
            assert named.all() == []
        await database.aclose()


class TestIds:
    async def test_ids_are_uuid_version_7_and_sort_by_time(self, database: Database) -> None:
        async with database.connection() as connection:
            made = [await connection.fetchval("SELECT uuid7()") for _ in range(100)]
            age = await connection.fetchval(
                "SELECT extract(epoch FROM clock_timestamp()) * 1000 - ('x' || left(replace($1::text, '-', ''), 12))"
                "::bit(48)::bigint",
                str(made[-1]),
            )
        assert {(i.version, i.variant) for i in made} == {(7, "specified in RFC 4122")}
        assert made == sorted(made)
        assert len(set(made)) == len(made)
        assert 0 <= age < 1000


@pytest.mark.parametrize("name", ["Orders API", "Müller API", "a\nb", "'; --", "Ω" * 63, ""])
async def test_a_service_of_any_name_is_connected(database_url: str, name: str) -> None:
    """PostgreSQL gets the name as `application_name`."""
    database = Database(settings_with(DATABASE_URL=database_url, PROJECT_NAME=name))
    await database.ping()
    await database.aclose()
