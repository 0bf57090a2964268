"""What the platform's tests may ask for: the service `notes`, and databases with its migrations.

The databases of `tests/conftest.py` have those of the service in `app/`; here they are replaced under their names.
"""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import asyncpg
import httpx
import pytest

from notes.config import Settings
from notes.main import create_app
from plinth.testing.servers import Servers, migrate, scratch_folder
from tests.support.api import client_of, signed_in
from tests.support.notes import settings_with


@pytest.fixture(scope="session")
def template(servers: Servers, worker_number: int) -> str:
    """The name of a database with the migrations of `notes`, to be copied."""
    name = f"notes_{worker_number}"
    servers.postgres.execute(f"CREATE DATABASE {name} OWNER plinth")
    migrate(Settings, servers.postgres.url(name))
    return name


@pytest.fixture(scope="session")
def database_url(servers: Servers, template: str) -> str:
    """A migrated database of this process. Its tables are emptied after each test that has used it."""
    return servers.clone(f"{template}_shared", template)


@pytest.fixture
def fresh_database_url(servers: Servers, template: str) -> Iterator[str]:
    """A migrated database for one test, which may change its schema."""
    name = f"fresh_{uuid4().hex}"
    yield servers.clone(name, template)
    servers.drop(name)


@pytest.fixture(scope="module")
def own_servers() -> Iterator[Servers]:
    """Migrated servers that the tests of one module may stop, freeze and start again."""
    with scratch_folder() as folder:
        servers = Servers(folder, Settings)
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()


@pytest.fixture(scope="session")
async def _cleaner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url.replace("plinth@", "postgres@"))
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(DATABASE_URL=database_url, REDIS_URL=redis_url)


@pytest.fixture(scope="module")
async def service(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, without a token."""
    async with client_of(create_app(settings)) as client:
        yield client


@pytest.fixture
def alice(settings: Settings) -> dict[str, str]:
    """The headers of a caller."""
    return signed_in(settings, "alice")


@pytest.fixture
def bob(settings: Settings) -> dict[str, str]:
    """The headers of another caller."""
    return signed_in(settings, "bob")


@pytest.fixture
async def api(service: httpx.AsyncClient, alice: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """The service as alice calls it, unless a request brings other headers."""
    service.headers.update(alice)
    yield service
    del service.headers["Authorization"]
