"""Reads that may lag: on a standby that streams, and on the primary when there is none that can be used."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlmodel import select
from structlog.testing import capture_logs

from notes.models import Note
from plinth.database import replica as module
from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.database.reads import ReadOnlyError, Reads, open_reads
from plinth.embedded.postgres import Postgres
from plinth.testing import until
from tests.support.metrics import metric, series
from tests.support.notes import settings_with
from tests.support.standby import Standby, primary_and_standby
from tests.support.transaction_pooler import transaction_pooler

IN_RECOVERY = "SELECT pg_is_in_recovery()"
WRITE = "INSERT INTO note (owner, text) VALUES ('alice', 'x')"


async def standby_answers(reads: Reads) -> bool:
    """Whether a read by connection and one by session are the standby's; both have to be on the same server."""
    async with reads.session() as session:
        by_session = await session.scalar(text(IN_RECOVERY))
    by_connection = await reads.run(lambda connection: connection.fetchval(IN_RECOVERY))
    assert by_session is by_connection
    return bool(by_connection)


async def write_by_connection(reads: Reads) -> None:
    await reads.run(lambda connection: connection.execute(WRITE))


async def write_by_session(reads: Reads) -> None:
    async with reads.session() as session:
        await (await session.connection()).execute(text(WRITE))


async def write_at_the_end_of_a_session(reads: Reads) -> None:
    async with reads.session() as session:
        session.add(Note(owner="alice", text="x"))


WRITES = [write_by_connection, write_by_session, write_at_the_end_of_a_session]
Write = Callable[[Reads], Awaitable[None]]


async def backends(database: Database, count: int) -> set[int]:
    """The server's processes behind so many connections of the pool."""
    async with AsyncExitStack() as opened:
        connections = [await opened.enter_async_context(database.connection()) for _ in range(count)]
        return {await connection.fetchval("SELECT pg_backend_pid()") for connection in connections}


class TestWithoutReplica:
    @pytest.fixture
    async def primary(self, database_url: str) -> AsyncIterator[Database]:
        database = Database(settings_with(DATABASE_URL=database_url, DB_POOL_SIZE=2))
        yield database
        await database.aclose()

    async def test_reads_are_of_the_primary(self, primary: Database) -> None:
        async with primary.session() as session:
            session.add(Note(owner="alice", text="there"))
        reads = Reads(primary)
        assert reads.checks == {}
        assert not await standby_answers(reads)
        async with reads.session() as session:
            assert [note.text for note in await session.exec(select(Note))] == ["there"]

    @pytest.mark.parametrize("write", WRITES)
    async def test_a_write_is_an_error_that_says_what_to_use(self, primary: Database, write: Write) -> None:
        pooled = await backends(primary, 2)
        reads = Reads(primary)
        reads.strict = True
        with pytest.raises(ReadOnlyError, match="use SessionDep"):
            await write(reads)
        assert await backends(primary, 2) == pooled  # the server is no standby: its connections stay
        async with primary.session() as session:
            session.add(Note(owner="alice", text="y"))

    async def test_a_read_by_connection_costs_no_transaction(self, primary: Database) -> None:
        async def work(connection: asyncpg.Connection) -> bool:
            return connection.is_in_transaction()

        assert await Reads(primary).run(work) is False

    @pytest.mark.parametrize("write", WRITES)
    async def test_a_write_is_an_error_behind_a_transaction_pooler(
        self, database_url: str, tmp_path: Path, write: Write
    ) -> None:
        socket = Path(database_url.partition("host=")[2].replace("%2F", "/")) / ".s.PGSQL.5432"
        async with transaction_pooler(socket, tmp_path) as folder:
            base = database_url.partition("?")[0]
            primary = Database(settings_with(DATABASE_URL=f"{base}?host={folder}&pgbouncer=true"))
            reads = Reads(primary)
            reads.strict = True
            assert not await standby_answers(reads)
            with pytest.raises(ReadOnlyError):
                await write(reads)
            await primary.aclose()


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Postgres, Standby]]:
    with primary_and_standby() as (primary, standby):
        yield primary, standby


@pytest.fixture(scope="module")
def primary(pair: tuple[Postgres, Standby]) -> Postgres:
    return pair[0]


@pytest.fixture(scope="module")
def standby(pair: tuple[Postgres, Standby]) -> Standby:
    return pair[1]


@asynccontextmanager
async def reading(primary: Postgres, replica_url: str, **values: Any) -> AsyncIterator[Reads]:
    """Reads of an application whose readiness has not looked at its replica yet."""
    settings = settings_with(DATABASE_URL=primary.url(), DATABASE_REPLICA_URL=replica_url, DB_POOL_SIZE=2, **values)
    database = Database(settings)
    async with open_reads(settings, database) as reads:
        yield reads
    await database.aclose()


@pytest.fixture
async def reads(primary: Postgres, standby: Standby) -> AsyncIterator[Reads]:
    """Reads that use the standby."""
    async with reading(primary, standby.url()) as reads:
        await until(lambda: caught_up(reads))
        yield reads


async def caught_up(reads: Reads) -> bool:
    """Look at the replica; whether it can be used and lags by nothing."""
    try:
        await look(reads)
    except DatabaseUnavailableError:
        return False
    return metric("plinth_replica_lag_seconds") == 0


async def look(reads: Reads) -> None:
    await reads.checks["replica"]()


async def refused(reads: Reads) -> str:
    """The reason why a look finds that the replica cannot be used."""
    with pytest.raises(DatabaseUnavailableError) as caught:
        await look(reads)
    assert caught.value.reason
    return caught.value.reason


class TestReplica:
    async def test_reads_are_of_the_standby_once_it_has_been_looked_at(
        self, primary: Postgres, standby: Standby
    ) -> None:
        async with reading(primary, standby.url()) as reads:
            assert not await standby_answers(reads)
            await until(lambda: caught_up(reads))
            assert await standby_answers(reads)
            assert metric("db_client_connection_max", db_client_connection_pool_name="replica") == 2
            assert metric("db_client_connection_count", db_client_connection_pool_name="replica") > 0
        assert ("plinth_replica_lag_seconds", frozenset()) not in series()

    @pytest.mark.parametrize("write", WRITES)
    async def test_a_write_is_an_error_and_the_standby_is_used_on(self, reads: Reads, write: Write) -> None:
        with pytest.raises(ReadOnlyError):
            await write(reads)
        assert await standby_answers(reads)

    @pytest.mark.parametrize("write", WRITES)
    async def test_a_write_is_an_error_while_reads_go_to_the_primary(
        self, primary: Postgres, standby: Standby, write: Write
    ) -> None:
        async with reading(primary, standby.url()) as reads:
            assert not await standby_answers(reads)
            with pytest.raises(ReadOnlyError):
                await write(reads)

    async def test_an_error_of_the_code_is_raised_as_it_is(self, reads: Reads) -> None:
        with pytest.raises(asyncpg.UndefinedTableError):
            await reads.run(lambda connection: connection.fetch("SELECT * FROM no_such_table"))
        assert await standby_answers(reads)


class TestLag:
    async def test_standby_that_is_too_far_behind_is_not_read(self, primary: Postgres, standby: Standby) -> None:
        async with reading(primary, standby.url(), DB_REPLICA_MAX_LAG=0.2) as reads:
            await until(lambda: caught_up(reads))
            standby.pause_replay()
            try:
                await look(reads)
                primary.execute(WRITE, "plinth")
                assert await standby_answers(reads)

                reasons = []

                async def behind() -> bool:
                    try:
                        await look(reads)
                    except DatabaseUnavailableError as error:
                        reasons.append(error.reason)
                    return bool(reasons)

                await until(behind)
                assert re.fullmatch(
                    r"The replica is [0-9.]+ s behind, and DB_REPLICA_MAX_LAG is 0.2 s", str(reasons[0])
                )
                assert metric("plinth_replica_lag_seconds") > 0.2
                assert not await standby_answers(reads)
            finally:
                standby.resume_replay()
            await until(lambda: caught_up(reads))
            assert await standby_answers(reads)

    async def test_lag_of_the_first_transaction_after_idle_time_is_no_longer_than_the_time_since_the_last_look(
        self, primary: Postgres, standby: Standby, reads: Reads
    ) -> None:
        await asyncio.sleep(0.5)  # nothing is written
        await look(reads)
        looked = monotonic()
        standby.pause_replay()
        try:
            primary.execute(WRITE, "plinth")
            await until(lambda: standby.execute("SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()") == "t")
            await look(reads)
            assert 0 < metric("plinth_replica_lag_seconds") <= monotonic() - looked
        finally:
            standby.resume_replay()

    async def test_standby_whose_stream_is_broken_falls_behind(
        self, primary: Postgres, standby: Standby, reads: Reads
    ) -> None:
        standby.execute("ALTER SYSTEM SET wal_retrieve_retry_interval = '100ms'")
        standby.execute("SELECT pg_reload_conf()")
        primary.stop()
        try:

            async def behind() -> bool:
                await look(reads)
                return metric("plinth_replica_lag_seconds") > 0

            await until(behind)
            assert await standby_answers(reads)  # which goes on while the primary is away
        finally:
            primary.start()
        await until(lambda: caught_up(reads))


class TestFailures:
    async def test_standby_that_stops_fails_no_read_and_is_used_again(
        self, standby: Standby, reads: Reads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        standby.stop(signal.SIGQUIT)
        try:
            with capture_logs() as logs:
                assert not await standby_answers(reads)
            assert [entry["event"] for entry in logs] == ["reads go to the primary"]
            for _ in range(2):
                assert await refused(reads) == "The database does not answer: its socket does not exist"
            assert ("plinth_replica_lag_seconds", frozenset()) not in series()
        finally:
            standby.start()
        await until(lambda: caught_up(reads))
        assert not await standby_answers(reads)  # it is left alone for a while
        replica = reads._replica
        assert replica is not None
        monkeypatch.setattr(replica, "_left_alone_until", 0.0)
        assert await standby_answers(reads)

    async def test_one_slow_look_is_no_outage(
        self, standby: Standby, reads: Reads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_STATE", "SELECT true, 0 FROM pg_sleep(5)")
        await refused(reads)
        assert await standby_answers(reads)
        await refused(reads)
        assert not await standby_answers(reads)
        monkeypatch.undo()
        await look(reads)
        assert await standby_answers(reads)

    async def test_frozen_standby_delays_reads_until_one_has_found_out(
        self, primary: Postgres, standby: Standby
    ) -> None:
        async with reading(primary, standby.url(), DB_STATEMENT_TIMEOUT=0.3, DB_CONNECT_TIMEOUT=0.3) as reads:
            await until(lambda: caught_up(reads))
            assert await standby_answers(reads)
            standby.pause()
            try:
                answers = await asyncio.gather(
                    *(reads.run(lambda connection: connection.fetchval(IN_RECOVERY)) for _ in range(5))
                )
                assert answers == [False] * 5
                assert reads._usable is None
                assert not await standby_answers(reads)
                assert await refused(reads)
            finally:
                standby.resume()
            await until(lambda: caught_up(reads))

    async def test_session_begins_on_the_primary_while_the_standby_is_frozen(
        self, primary: Postgres, standby: Standby
    ) -> None:
        async with reading(primary, standby.url(), DB_STATEMENT_TIMEOUT=0.3, DB_CONNECT_TIMEOUT=0.3) as reads:
            await until(lambda: caught_up(reads))
            assert await standby_answers(reads)
            standby.pause()
            try:
                async with reads.session() as session:
                    assert await session.scalar(text(IN_RECOVERY)) is False
            finally:
                standby.resume()
            await until(lambda: caught_up(reads))

    @pytest.mark.parametrize(
        ("statement", "usable"),
        [
            ("SELECT pg_terminate_backend(pg_backend_pid())", False),
            # What a standby says when a row is needed that it is to remove.
            ("DO $$ BEGIN RAISE 'conflict with recovery' USING ERRCODE = '40001'; END $$", True),
        ],
    )
    async def test_read_that_the_standby_breaks_off_is_done_on_the_primary(
        self, reads: Reads, statement: str, usable: bool
    ) -> None:
        asked = []

        async def work(connection: asyncpg.Connection) -> bool:
            asked.append(in_recovery := await connection.fetchval(IN_RECOVERY))
            if in_recovery:
                await connection.execute(statement)
            return bool(in_recovery)

        assert await reads.run(work) is False
        assert asked == [True, False]
        assert (reads._usable is not None) is usable

    async def test_statement_that_takes_too_long_is_not_run_again(self, primary: Postgres, standby: Standby) -> None:
        async with reading(primary, standby.url(), DB_STATEMENT_TIMEOUT=0.2) as reads:
            await until(lambda: caught_up(reads))
            asked = []

            async def work(connection: asyncpg.Connection) -> None:
                asked.append(await connection.fetchval(IN_RECOVERY))
                await connection.execute("SELECT pg_sleep(5)")

            with pytest.raises(DatabaseUnavailableError):
                await reads.run(work)
            assert asked == [True]
            assert await standby_answers(reads)

    async def test_read_that_finds_the_pool_busy_is_the_primary_s(self, primary: Postgres, standby: Standby) -> None:
        async with reading(primary, standby.url(), DB_POOL_TIMEOUT=0.05) as reads:
            await until(lambda: caught_up(reads))

            async def work(connection: asyncpg.Connection) -> bool:
                replica = reads._replica
                assert replica is not None
                async with replica.database.connection():  # the other one
                    return await standby_answers(reads)

            assert await reads.run(work) is False
            assert await standby_answers(reads)

    async def test_standby_that_refuses_the_password_is_not_read(self, primary: Postgres, standby: Standby) -> None:
        primary.execute("CREATE ROLE ann LOGIN PASSWORD 's3cret'")
        await until(lambda: standby.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'ann'") == "1")
        rules = standby.folder.resolve() / "pg_hba.conf"
        rules.write_text(f"local all ann scram-sha-256\n{rules.read_text()}")
        standby.execute("SELECT pg_reload_conf()")

        async def refuses() -> bool:
            async with reading(primary, standby.url().replace("plinth@", "ann:wr0ng@", 1)) as reads:
                assert not await standby_answers(reads)
                return await refused(reads) == "The database refuses the user or the password"

        await until(refuses)


@pytest.fixture
def another_pair() -> Iterator[tuple[Postgres, Standby]]:
    with primary_and_standby() as (primary, standby):
        yield primary, standby


async def test_promoted_standby_is_not_read(another_pair: tuple[Postgres, Standby]) -> None:
    primary, standby = another_pair
    async with reading(primary, standby.url()) as reads:
        await until(lambda: caught_up(reads))
        assert await standby_answers(reads)
        replica = reads._replica
        assert replica is not None
        pooled = await backends(replica.database, 1)
        standby.promote()
        assert await refused(reads) == (
            "The replica takes writes: it has been promoted, or DATABASE_REPLICA_URL is the primary's address"
        )
        assert reads._usable is None
        # The name may lead to another standby by now.
        assert not pooled & await backends(replica.database, 1)


async def test_primary_is_no_replica(primary: Postgres) -> None:
    async with reading(primary, primary.url()) as reads:
        assert "DATABASE_REPLICA_URL is the primary's address" in await refused(reads)
        assert not await standby_answers(reads)
