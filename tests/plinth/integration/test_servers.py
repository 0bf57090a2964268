"""What the fixtures promise to every other test."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import redis

from plinth.testing.servers import Servers


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize("attempt", [1, 2])
async def test_each_test_finds_empty_tables(connection: asyncpg.Connection, attempt: int) -> None:
    assert await connection.fetchval("SELECT count(*) FROM note") == 0, f"before attempt {attempt}"
    await connection.execute("INSERT INTO note (text, owner) VALUES ('a', 'b')")


async def test_database_of_a_test_is_migrated_and_owned_by_the_service(connection: asyncpg.Connection) -> None:
    assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 2
    owners = await connection.fetch("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert [owner for (owner,) in owners] == ["plinth"]


@pytest.mark.parametrize("attempt", [1, 2])
def test_each_test_finds_an_empty_redis(redis_url: str, attempt: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0, f"before attempt {attempt}"
        client.set("key", "value")


@pytest.mark.parametrize("attempt", [1, 2])
async def test_fresh_database_may_be_changed_at_will(fresh_database_url: str, database_url: str, attempt: int) -> None:
    assert fresh_database_url != database_url
    connection = await asyncpg.connect(fresh_database_url)
    await connection.execute("DROP TABLE note")
    await connection.close()


async def test_an_empty_database_has_no_table(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    await connection.close()


async def test_own_servers_may_be_stopped_and_started(own_servers: Servers, database_url: str) -> None:
    own_servers.postgres.stop()
    with pytest.raises(OSError, match="No such file"):
        await asyncpg.connect(own_servers.postgres.url())
    own_servers.postgres.start()
    for url in (own_servers.postgres.url(), database_url):
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT count(*) FROM note") == 0
        await connection.close()
