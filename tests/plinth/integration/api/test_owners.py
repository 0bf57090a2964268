"""Two issuers that give the same subject name two callers, in every row, key and limit."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import httpx
import pytest
from structlog.testing import capture_logs

from notes.config import Settings
from notes.main import create_app
from plinth.database.engine import Database
from plinth.database.migrator import Migrator
from plinth.embedded.postgres import Postgres
from plinth.testing import problem
from plinth.testing.servers import migrate, scratch_folder
from tests.support.api import client_of, signed_in
from tests.support.identity_provider import IdentityProvider
from tests.support.notes import note, settings_with

KEY = {"Idempotency-Key": "order-4711"}


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        yield provider


def trusting(provider: IdentityProvider, url: str, **values: Any) -> Settings:
    identity = {"AUTH_PROVIDER": "custom", "OIDC_ISSUER": provider.issuer, "OIDC_AUDIENCE": "plinth"}
    return settings_with(DATABASE_URL=url, **identity, **values)


@pytest.fixture
def values(fresh_database_url: str, redis_url: str) -> dict[str, Any]:
    """The settings of the service before and after its provider is changed."""
    return {"REDIS_URL": redis_url, "RATE_LIMIT": "1000/hour"}


@pytest.fixture
async def here(fresh_database_url: str, values: dict[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    """The service of the issuer that the migrations knew, as its alice calls it."""
    settings = settings_with(DATABASE_URL=fresh_database_url, **values)
    async with client_of(create_app(settings), headers=signed_in(settings, "alice")) as client:
        yield client


@pytest.fixture
async def there(
    fresh_database_url: str, values: dict[str, Any], provider: IdentityProvider
) -> AsyncIterator[httpx.AsyncClient]:
    """The same service with another issuer, as that one's alice calls it."""
    settings = trusting(provider, fresh_database_url, **values)
    headers = {"Authorization": f"Bearer {provider.token()}"}
    async with client_of(create_app(settings), headers=headers) as client:
        yield client


@pytest.fixture
async def database(fresh_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(fresh_database_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize("turned", [False, True])
class TestSameSubject:
    """In both directions: what one has made does not exist for the other."""

    @pytest.fixture
    def one(self, here: httpx.AsyncClient, there: httpx.AsyncClient, turned: bool) -> httpx.AsyncClient:
        return there if turned else here

    @pytest.fixture
    def other(self, here: httpx.AsyncClient, there: httpx.AsyncClient, turned: bool) -> httpx.AsyncClient:
        return here if turned else there

    async def test_rows_of_one_do_not_exist_for_the_other(
        self, one: httpx.AsyncClient, other: httpx.AsyncClient
    ) -> None:
        made = (await one.post("/notes", json=note())).json()
        path = f"/notes/{made['id']}"

        assert [row["id"] for row in (await one.get("/notes")).json()["items"]] == [made["id"]]
        assert (await other.get("/notes")).json()["items"] == []
        problem(await other.get(path), 404)
        problem(await other.patch(path, json={"text": "mine"}, headers={"If-Match": "*"}), 404)
        problem(await other.delete(path), 404)
        assert (await one.get(path)).json() == made

    async def test_jobs_of_one_do_not_exist_for_the_other(
        self, one: httpx.AsyncClient, other: httpx.AsyncClient
    ) -> None:
        path = f"/jobs/{(await one.post('/digests')).json()['job_id']}"

        assert (await one.get(path)).status_code == 200
        for query in ("", "?owner=alice"):
            assert len((await one.get(f"/jobs{query}")).json()["items"]) == 1
            assert (await other.get(f"/jobs{query}")).json()["items"] == []
        for method, rest in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry"), ("GET", "/events")):
            problem(await other.request(method, path + rest), 404)
        assert (await one.post(f"{path}/cancel")).json()["state"] == "cancelled"
        for method, rest in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry"), ("GET", "/events")):
            problem(await other.request(method, path + rest), 404)

    async def test_idempotency_key_of_one_replays_nothing_to_the_other(
        self, one: httpx.AsyncClient, other: httpx.AsyncClient
    ) -> None:
        first, second, again = [await caller.post("/notes", json=note(), headers=KEY) for caller in (one, other, one)]

        assert (first.status_code, second.status_code) == (201, 201)
        assert second.json()["id"] != first.json()["id"]
        assert again.content == first.content

    async def test_cursor_of_one_is_refused_to_the_other(
        self, one: httpx.AsyncClient, other: httpx.AsyncClient
    ) -> None:
        for _ in range(2):
            await one.post("/digests")
        cursor = (await one.get("/jobs?limit=1")).json()["next_cursor"]

        assert (await one.get(f"/jobs?limit=1&cursor={cursor}")).status_code == 200
        problem(await other.get(f"/jobs?limit=1&cursor={cursor}"), 422)

    async def test_each_has_a_limit_of_its_own(self, one: httpx.AsyncClient, other: httpx.AsyncClient) -> None:
        for _ in range(3):
            await one.get("/me")

        assert (await other.get("/me")).headers["ratelimit"].startswith('"default";r=999;')

    async def test_access_lines_of_the_two_differ(self, one: httpx.AsyncClient, other: httpx.AsyncClient) -> None:
        with capture_logs() as logs:
            await one.get("/me")
            await other.get("/me")

        hashes = [line["principal"] for line in logs if line["event"] == "request"]
        assert len(set(hashes)) == 2


class TestFirstIssuer:
    """Pods of release 0.1.0 read and write by `owner = sub`, and each release finds the other's rows."""

    async def test_rows_of_release_0_1_0_keep_their_owner(
        self, here: httpx.AsyncClient, there: httpx.AsyncClient, database: asyncpg.Connection
    ) -> None:
        made = await database.fetchval("INSERT INTO note (owner, text) VALUES ('alice', 'old') RETURNING id")
        job = await database.fetchval(
            "INSERT INTO job_history (kind, queue, priority, owner, payload, max_attempts, run_at, state, finished_at) "
            "VALUES ('old', 'default', 0, 'alice', '{}', 1, now(), 'cancelled', now()) RETURNING id"
        )

        for path in (f"/notes/{made}", f"/jobs/{job}"):
            assert (await here.get(path)).status_code == 200
            problem(await there.get(path), 404)

    async def test_new_rows_are_found_by_release_0_1_0(
        self, here: httpx.AsyncClient, there: httpx.AsyncClient, database: asyncpg.Connection
    ) -> None:
        for caller in (here, there):
            await caller.post("/notes", json=note(), headers=KEY)
            await caller.post("/digests")

        for table, column in (("note", "owner"), ("job", "owner"), ("idempotency_record", "principal")):
            found = await database.fetchval(f"SELECT count(*) FROM {table} WHERE {column} = 'alice'")
            assert (table, found) == (table, 1)
            assert await database.fetchval(f"SELECT count(*) FROM {table}") == 2

    async def test_migration_records_the_issuer_of_its_settings(
        self, empty_database_url: str, provider: IdentityProvider
    ) -> None:
        with capture_logs():
            await Migrator(trusting(provider, empty_database_url)).upgrade()

        connection = await asyncpg.connect(empty_database_url)
        assert await connection.fetchval("SELECT string_agg(issuer, ' ') FROM first_issuer") == provider.issuer
        await connection.close()

    async def test_without_a_record_every_owner_carries_its_issuer(
        self, here: httpx.AsyncClient, database: asyncpg.Connection
    ) -> None:
        await database.execute("DELETE FROM first_issuer")
        await here.post("/notes", json=note())

        assert await database.fetchval("SELECT owner FROM note") == "alice\tplinth-local"


async def test_callers_are_named_once_the_database_is_there() -> None:
    with scratch_folder() as folder:
        server = Postgres(folder / "postgres", log=folder / "log", durable=False)
        async with AsyncExitStack() as closing:
            server.start()
            closing.callback(server.stop)
            await asyncio.to_thread(migrate, Settings, server.url())
            server.stop()
            settings = settings_with(DATABASE_URL=server.url(), DB_CONNECT_TIMEOUT=1)
            with capture_logs():
                client = await closing.enter_async_context(
                    client_of(create_app(settings), headers=signed_in(settings, "alice"))
                )
                problem(await client.post("/notes", json=note()), 503, "database_unavailable")
                assert (await client.get("/me")).status_code == 200  # asks for no row
            server.start()
            assert (await client.post("/notes", json=note())).status_code == 201
            database = Database(settings)
            async with database.connection() as connection:
                assert await connection.fetchval("SELECT owner FROM note") == "alice"
            await database.aclose()
