"""Why the database cannot be used is told in a sentence: by readiness, the log and every command."""

import asyncio
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from notes.config import Settings
from plinth.database.engine import Database, DatabaseUnavailableError, TransactionConflictError
from plinth.database.errors import database_reason
from plinth.database.migrator import MigrationError, Migrator, wait_until_migrated
from plinth.embedded import postgres as embedded
from plinth.embedded.postgres import Postgres
from plinth.testing.servers import scratch_folder
from tests.support.cli import command_line
from tests.support.notes import settings_with
from tests.support.ports import free_port

SECRETS = ("s3cret", "127.0.0.1", "ann", "nosuch")
PG_HBA = """
local all postgres trust
local all all trust
host all rejected 127.0.0.1/32 reject
host all all 127.0.0.1/32 scram-sha-256
"""
SETUP = """
CREATE ROLE ann LOGIN PASSWORD 's3cret';
CREATE ROLE one LOGIN PASSWORD 's3cret' CONNECTION LIMIT 0;
CREATE ROLE rejected LOGIN PASSWORD 's3cret';
CREATE ROLE nologin PASSWORD 's3cret';
CREATE DATABASE anns OWNER ann;
CREATE DATABASE closed ALLOW_CONNECTIONS false;
CREATE DATABASE private;
REVOKE CONNECT ON DATABASE private FROM PUBLIC;
CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc;
CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc;
"""


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(port: int) -> Iterator[Postgres]:
    """A server that asks for passwords."""
    with scratch_folder() as folder:
        server = Postgres(folder / "postgres", log=folder / "log", durable=False)
        server.url = lambda database="postgres", user="postgres": (  # type: ignore[method-assign]
            f"postgresql://{user}@/{database}?host={server._sockets}&port={port}"
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(embedded.SETTINGS, "listen_addresses", "127.0.0.1")
            patch.setitem(embedded.SETTINGS, "port", str(port))
            server.start()
        (folder / "postgres" / "pg_hba.conf").write_text(PG_HBA)
        server.execute("SELECT pg_reload_conf();" + SETUP)
        yield server
        server.stop()


Url = Callable[..., str]


@pytest.fixture
def url(server: Postgres, port: int) -> Url:
    return lambda database="anns", user="ann", password="s3cret", query="": (
        f"postgresql://{user}:{password}@127.0.0.1:{port}/{database}{query}"
    )


NO_ROOM = "The database has no connection left: max_connections, or the limit of the role or the pooler, is reached"
SETTINGS_REFUSED = (
    "The pooler refuses session settings: set DB_TRANSACTION_POOLER=true, or, of a pooler in session mode, "
    "PgBouncer's ignore_startup_parameters"
)
REFUSALS = [
    ({"database": "nosuch"}, "The server has no such database"),
    ({"password": "wrong"}, "The database refuses the user or the password"),
    ({"user": "nosuch"}, "The database refuses the user or the password"),
    ({"user": "nologin"}, "The database has no such role, or the role may not log in"),
    (
        {"user": "rejected"},
        "The database's pg_hba.conf has no line for this user, database, address and sslmode, or one that rejects them",
    ),
    ({"user": "one"}, NO_ROOM),
    ({"database": "closed"}, "The database accepts no connections (ALLOW_CONNECTIONS)"),
    ({"database": "private"}, "The role lacks a right in the database: GRANT it, or let the owner run this"),
    ({"query": "?sslmode=require"}, "The database offers no TLS, and sslmode asks for it"),
    ({"query": "?target_session_attrs=standby"}, "No host of the database is what target_session_attrs asks for"),
]


def unreachable(tmp_path: Path) -> list[tuple[str, str]]:
    away = "The database does not answer: "
    return [
        ("postgresql://ann:s3cret@127.0.0.1:1/anns", f"{away}nothing listens at its host and port"),
        ("postgresql://ann:s3cret@127.0.0.1:1,127.0.0.1:1/anns", f"{away}nothing listens at its host and port"),
        (f"postgresql://ann@/anns?host={tmp_path}", f"{away}its socket does not exist"),
    ]


async def by_ping(url: str) -> str | None:
    database = Database(settings_with(DATABASE_URL=url, DB_CONNECT_TIMEOUT=10, DB_STATEMENT_TIMEOUT=10))
    try:
        await database.ping()
    except DatabaseUnavailableError as error:
        return error.reason
    finally:
        await database.aclose()
    return None


async def by_wait(url: str) -> str:
    with capture_logs() as logs, pytest.raises(MigrationError) as caught:
        await wait_until_migrated(Settings.isolated(DATABASE_URL=url, DB_CONNECT_TIMEOUT=10), timeout=0)
    assert not logs
    return str(caught.value)


async def by_migrate(url: str) -> str:
    settings = Settings.isolated(DATABASE_URL=url, DB_CONNECT_TIMEOUT=10)
    with capture_logs(), pytest.raises(MigrationError) as caught:
        await Migrator(settings, wait_seconds=0).upgrade()
    return str(caught.value)


@pytest.mark.parametrize(("which", "reason"), REFUSALS)
async def test_refused_connection_is_told_everywhere(url: Url, which: dict[str, str], reason: str) -> None:
    address = url(**which)
    assert await by_ping(address) == reason
    assert await by_wait(address) == await by_migrate(address) == f"{reason}: so it has been for 0 s."


async def test_server_that_is_not_there_is_told_everywhere(tmp_path: Path) -> None:
    for address, reason in unreachable(tmp_path):
        assert await by_ping(address) == reason
        assert await by_wait(address) == await by_migrate(address) == f"{reason}: so it has been for 0 s."


@pytest.mark.parametrize(("which", "reason"), REFUSALS)
def test_commands_on_jobs_tell_it(tmp_path: Path, url: Url, which: dict[str, str], reason: str) -> None:
    with command_line(tmp_path, DATABASE_URL=url(**which)) as run:
        result = run("jobs", "list")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"{reason}. `plinth config check` shows where it is looked for.\n"
    assert not any(secret in result.stderr for secret in SECRETS)


async def test_role_without_the_right_to_create_is_told(server: Postgres, url: Url) -> None:
    said = await by_migrate(url(database="postgres"))
    assert said.endswith(
        "failed: permission denied for schema public (42501). The role may not create tables in the schema: "
        "GRANT CREATE ON SCHEMA to it, usually public."
    ) or said.startswith("The migration cannot begin: permission denied for schema public (42501). The role may not")


def test_role_without_rights_on_the_tables_is_told(tmp_path: Path, fresh_database_url: str, servers: Any) -> None:
    servers.postgres.execute("DROP ROLE IF EXISTS outsider; CREATE ROLE outsider LOGIN")
    with command_line(tmp_path, DATABASE_URL=fresh_database_url.replace("plinth@", "outsider@")) as run:
        result = run("jobs", "list")
    assert (result.exit_code, result.stderr) == (
        1,
        "The role lacks a right in the database: GRANT it, or let the owner run this.\n",
    )
    servers.postgres.execute("DROP ROLE outsider")


class TestEncoding:
    @pytest.mark.parametrize(("database", "encoding"), [("ascii", "SQL_ASCII"), ("latin", "LATIN1")])
    async def test_database_that_is_not_in_utf8_is_refused(self, url: Url, database: str, encoding: str) -> None:
        expected = (
            f"The database's encoding is {encoding}, and has to be UTF-8: make another one with "
            "CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8'"
        )
        assert await by_ping(url(database)) == expected
        assert await by_wait(url(database)) == f"{expected}: so it has been for 0 s."
        assert await by_migrate(url(database)) == f"{expected}."


class TestPoolers:
    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (
                "unsupported startup parameter: statement_timeout",
                SETTINGS_REFUSED,
            ),
            ("no such database: anns", "The server has no such database"),
            ("no such user: ann", "The database refuses the user or the password"),
            (
                "no more connections allowed (max_client_conn)",
                NO_ROOM,
            ),
            (
                "query_wait_timeout",
                "The pooler had no connection of the database to give in time (query_wait_timeout)",
            ),
            (
                "server login has been failing, try again later (server_login_retry)",
                "The pooler does not reach the database, or is refused by it",
            ),
            ("SSL required", "The pooler requires TLS: set sslmode"),
        ],
    )
    def test_answer_of_pgbouncer_is_told(self, message: str, reason: str) -> None:
        assert database_reason(asyncpg.ProtocolViolationError(message)) == reason

    @pytest.mark.parametrize(
        ("state", "message", "reason"),
        [
            ("08P01", "unsupported startup parameter: jit", SETTINGS_REFUSED),
            ("08P01", "no such user: s3cret", "The database refuses the user or the password"),
            ("XX000", "Tenant or user not found", "The pooler knows no such user or project"),
            ("XX000", "MaxClientsInSessionMode: max clients reached - s3cret", NO_ROOM),
        ],
    )
    async def test_refusal_of_a_pooler_is_told_by_every_command(self, state: str, message: str, reason: str) -> None:
        fields = f"SFATAL\0VFATAL\0C{state}\0M{message}\0\0".encode()

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            (length,) = struct.unpack("!i", await reader.readexactly(4))
            await reader.readexactly(length - 4)
            writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as pooler:
            url = f"postgresql://ann:s3cret@127.0.0.1:{pooler.sockets[0].getsockname()[1]}/anns?sslmode=disable"
            assert await by_ping(url) == reason
            assert await by_wait(url) == await by_migrate(url) == f"{reason}: so it has been for 0 s."

    def test_unknown_error_has_its_class_and_state_and_no_text(self) -> None:
        error = asyncpg.ProtocolViolationError("s3cret")
        assert database_reason(error) == "The database does not answer: it closed the connection"
        assert database_reason(asyncpg.DivisionByZeroError("s3cret")) == (
            "The database does not answer as it should (DivisionByZeroError, SQLSTATE 22012)"
        )
        assert database_reason(ZeroDivisionError("s3cret")) == (
            "The database does not answer as it should (ZeroDivisionError)"
        )


class TestConflicts:
    @pytest.mark.parametrize("by", ["connection", "session"])
    async def test_deadlock_is_a_conflict_that_may_be_tried_again(self, database_url: str, by: str) -> None:
        database = Database(settings_with(DATABASE_URL=database_url, DB_STATEMENT_TIMEOUT=30))
        held = asyncio.Barrier(2)

        async def lock(first: int, second: int) -> None:
            sql = "SELECT pg_advisory_xact_lock(%s)"
            if by == "connection":
                async with database.connection() as connection, connection.transaction():
                    await connection.execute(sql % first)
                    await held.wait()
                    await connection.execute(sql % second)
            else:
                async with database.session() as session:
                    pooled = await session.connection()
                    await pooled.exec_driver_sql(sql % first)
                    await held.wait()
                    await pooled.exec_driver_sql(sql % second)

        ended = await asyncio.gather(lock(1, 2), lock(2, 1), return_exceptions=True)
        (failed,) = (error for error in ended if error is not None)
        assert isinstance(failed, TransactionConflictError)
        assert (failed.status, failed.code, failed.headers["Retry-After"]) == (503, "transaction_conflict", "1")
        await database.ping()
        await database.aclose()

    async def test_serialization_failure_is_a_conflict(self, database_url: str) -> None:
        database = Database(settings_with(DATABASE_URL=database_url))

        async def fail(state: str) -> None:
            async with database.session() as session:
                pooled = await session.connection()
                await pooled.exec_driver_sql(f"DO $$ BEGIN RAISE 'x' USING ERRCODE = '{state}'; END $$")

        for state in ("40001", "40P01"):
            with pytest.raises(TransactionConflictError):
                await fail(state)
        await database.aclose()
