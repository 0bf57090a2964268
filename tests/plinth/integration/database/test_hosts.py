"""DATABASE_URL with several hosts: one that hangs, or is a standby, is passed over."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from notes.config import Settings
from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.database.hosts import connect
from plinth.database.migrator import Migrator, wait_until_migrated
from plinth.settings.dsn import PostgresURL
from tests.support.notes import settings_with

CONNECT_TIMEOUT = 2.0


@pytest.fixture
def hanging() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        port: int = server.getsockname()[1]
        yield port


def with_hosts(url: str, *others: tuple[str, int], attributes: str = "any") -> Settings:
    """Settings with other hosts before the database's own."""
    found = PostgresURL.parse(url)
    hosts = [*others, *((host, port or 5432) for host, port in found.hosts)]
    names, ports = ",".join(host for host, _ in hosts), ",".join(str(port) for _, port in hosts)
    query = f"host={names}&port={ports}&target_session_attrs={attributes}"
    address = f"postgresql://{found.user}:{found.password or ''}@/{found.database}?{query}"
    return settings_with(DATABASE_URL=address, DB_CONNECT_TIMEOUT=CONNECT_TIMEOUT)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings)
    try:
        yield database
    finally:
        await database.aclose()


async def test_host_that_hangs_leaves_time_for_the_next(database_url: str, hanging: int) -> None:
    async with opened(with_hosts(database_url, ("127.0.0.1", hanging))) as database:
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1
        await database.ping()


async def test_commands_pass_over_a_host_that_hangs_too(database_url: str, hanging: int) -> None:
    settings = with_hosts(database_url, ("127.0.0.1", hanging))
    await wait_until_migrated(settings, timeout=4 * CONNECT_TIMEOUT)
    await Migrator(settings).upgrade()


async def test_host_that_refuses_is_passed_over(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        refusing = server.getsockname()[1]
    async with opened(with_hosts(database_url, ("127.0.0.1", refusing))) as database:
        await database.ping()


async def test_a_standby_is_preferred_and_the_primary_taken_where_there_is_none(database_url: str) -> None:
    async with opened(with_hosts(database_url, attributes="prefer-standby")) as database:
        await database.ping()
    own = PostgresURL.parse(database_url).hosts[0]
    settings = with_hosts(database_url, (own[0], own[1] or 5432), attributes="prefer-standby")
    async with opened(settings) as database:
        await database.ping()


async def test_hosts_of_another_kind_are_unavailable(database_url: str) -> None:
    own = PostgresURL.parse(database_url).hosts[0]
    for others in ((), ((own[0], own[1] or 5432),)):
        async with opened(with_hosts(database_url, *others, attributes="standby")) as database:
            with pytest.raises(DatabaseUnavailableError):
                await database.ping()


async def test_error_that_every_host_would_give_is_told_at_once(database_url: str, hanging: int) -> None:
    own = PostgresURL.parse(database_url).hosts[0]
    async with asyncio.timeout(CONNECT_TIMEOUT):
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await connect(
                host=[own[0], "127.0.0.1"], port=[own[1] or 5432, hanging],
                user=PostgresURL.parse(database_url).user, database="no-such-database", timeout=10,
            )  # fmt: skip


def options_of(connection: asyncpg.Connection) -> dict[str, int]:
    found = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
    options = {name: found.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names}
    return options | {"SO_KEEPALIVE": found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)}


async def over_tcp(server: PostgresURL, query: str) -> dict[str, int]:
    """The options of a connection's socket, by way of a port that leads to the server's own socket."""
    path = f"{server.hosts[0][0]}/.s.PGSQL.5432"
    pairs: list[asyncio.StreamWriter] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        its_reader, its_writer = await asyncio.open_unix_connection(path)
        pairs.extend((writer, its_writer))
        await asyncio.gather(pass_on(reader, its_writer), pass_on(its_reader, writer), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        url = f"postgresql://{server.user}@127.0.0.1:{port}/{server.database}?sslmode=disable{query}"
        async with opened(settings_with(DATABASE_URL=url)) as database, database.connection() as connection:
            found = options_of(connection)
        for writer in pairs:
            writer.close()
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the options have other names")
async def test_keepalives_are_set_on_the_socket_as_libpq_sets_them(database_url: str) -> None:
    server = PostgresURL.parse(database_url)
    default = await over_tcp(server, "")
    assert default["SO_KEEPALIVE"] == 1
    assert (await over_tcp(server, "&keepalives=0"))["SO_KEEPALIVE"] == 0
    given = "&keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=30000"
    assert await over_tcp(server, given) == {
        "SO_KEEPALIVE": 1,
        "TCP_KEEPIDLE": 30,
        "TCP_KEEPINTVL": 10,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 30000,
    }
    assert await over_tcp(server, given.replace("=", "=-")) == default


async def test_hosts_are_tried_in_any_order_if_the_url_says_so(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.shuffle", lambda hosts: hosts.reverse())
    with socket.create_server(("127.0.0.1", 0)) as refusing:
        port = refusing.getsockname()[1]
    settings = with_hosts(database_url, ("127.0.0.1", port))
    asked: list[int] = []
    real = asyncpg.connect

    async def connect_counting(**options: Any) -> asyncpg.Connection:
        asked.append(options["port"])
        return await real(**options)

    monkeypatch.setattr(asyncpg, "connect", connect_counting)
    for query, expected in (("", [port, 5432]), ("&load_balance_hosts=random", [5432])):
        asked.clear()
        address = settings.DATABASE_URL.get_secret_value() + query
        async with opened(settings_with(DATABASE_URL=address)) as database:
            await database.ping()
        assert asked == expected
