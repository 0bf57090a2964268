"""The pytest plugin: servers, databases, settings, the client and the jobs of the service under test, as fixtures.

`pytest_plugins = ["plinth.testing.plugin"]` in `tests/conftest.py` switches it on. It tests the service of the
`[tool.plinth]` table in pytest's root folder, or above it. The servers start once for a run, in its first process;
with pytest-xdist each process has a database and a Redis database of its own. They are emptied after each test that
has used them.

| Fixture | What it is |
| --- | --- |
| `client` | `Client` of the application, not signed in; one application for each module |
| `jobs` | `Jobs`, to run and to look at |
| `settings` | settings on `database_url` and `redis_url`; a module overrides it to have others |
| `make_settings` | a function that makes such settings with other values |
| `application` | the FastAPI application of `settings` |
| `database` | `plinth.database.engine.Database` of `settings` |
| `sql` | an asyncpg connection to that database |
| `database_url`, `redis_url` | the addresses |
| `fresh_database_url`, `empty_database_url` | of a database for one test: migrated, or without tables |
| `servers` | `Servers` of the run |
| `own_servers` | `Servers` for one module, which may stop and freeze them |
"""

import os
import shutil
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
import redis
from fastapi import FastAPI

from plinth.cli.service import ServiceError, declared_settings, load
from plinth.database.engine import Database
from plinth.settings import PlatformSettings, secret_files
from plinth.testing.client import Client, open_client
from plinth.testing.jobs import Jobs
from plinth.testing.servers import REDIS_DATABASES, Servers, make_folder, scratch_folder, superuser_url
from plinth.testing.settings import settings_for_tests
from plinth.testing.tracebacks import configure_log

_FOLDER = pytest.StashKey[Path]()
_SERVERS = pytest.StashKey[Servers]()
_SETTINGS = pytest.StashKey[type[PlatformSettings]]()

# TRUNCATE takes long and most tables are empty after most tests. The lock fails a test that leaves a transaction open.
# What migrations have written stays.
_EMPTY_TABLES = """
SET lock_timeout = '5s';
DO $$
DECLARE
    name text;
    filled bool;
    names text[];
BEGIN
    FOR name IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
                WHERE schemaname = 'public' AND tablename NOT LIKE '%alembic_version%'
                AND tablename <> 'first_issuer' LOOP
        EXECUTE 'SELECT EXISTS (SELECT FROM ' || name || ')' INTO filled;
        IF filled THEN
            names := names || name;
        END IF;
    END LOOP;
    IF names IS NOT NULL THEN
        EXECUTE 'TRUNCATE ' || array_to_string(names, ', ') || ' CASCADE';
    END IF;
END $$
"""


def pytest_configure(config: pytest.Config) -> None:
    try:
        settings = declared_settings(config.rootpath)
    except ServiceError as error:
        raise pytest.UsageError(str(error)) from None
    # A developer's own settings must not reach the tests, and the tests must not reach a developer's database.
    for name in (*settings.model_fields, *secret_files.variables(settings.model_fields)):
        os.environ.pop(name, None)
    configure_log()
    given = getattr(config, "workerinput", None)
    folder = make_folder() if given is None else Path(given["servers"])
    config.stash[_SETTINGS] = settings
    config.stash[_FOLDER] = folder
    config.stash[_SERVERS] = Servers(folder, settings)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    node.workerinput["servers"] = str(node.config.stash[_FOLDER])  # type: ignore[attr-defined]


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart(session: pytest.Session) -> Generator[None]:
    yield
    # The processes of pytest-xdist collect the tests while the servers start.
    if session.config.pluginmanager.hasplugin("dsession"):
        session.config.stash[_SERVERS].start()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and _SERVERS in config.stash:
        config.stash[_SERVERS].stop()
        shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)


# --- servers ---


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Servers:
    """The servers of this run, which all its tests share: a test that stops or freezes one takes `own_servers`."""
    servers = pytestconfig.stash[_SERVERS]
    if not hasattr(pytestconfig, "workerinput"):
        servers.start()
    servers.wait()
    return servers


@pytest.fixture(scope="session")
def worker_number(pytestconfig: pytest.Config) -> int:
    """The number of this process among those that run tests, from 0."""
    return int(getattr(pytestconfig, "workerinput", {}).get("workerid", "gw0").removeprefix("gw"))


@pytest.fixture(scope="session")
def database_url(servers: Servers, worker_number: int) -> str:
    """The address of a migrated database. Its tables are emptied after each test that has used it."""
    return servers.clone(f"worker_{worker_number}")


@pytest.fixture
def fresh_database_url(servers: Servers) -> Iterator[str]:
    """The address of a migrated database for one test, which may change its schema."""
    name = f"fresh_{uuid4().hex}"
    yield servers.clone(name)
    servers.drop(name)


@pytest.fixture
def empty_database_url(servers: Servers) -> Iterator[str]:
    """The address of a database without tables, for one test."""
    name = f"empty_{uuid4().hex}"
    yield servers.create(name)
    servers.drop(name)


@pytest.fixture(scope="session")
def redis_url(servers: Servers, worker_number: int) -> str:
    """The address of a Redis database. It is emptied after each test that has used it."""
    return servers.redis.url(worker_number % REDIS_DATABASES)


@pytest.fixture(scope="module")
def own_servers(settings_class: type[PlatformSettings]) -> Iterator[Servers]:
    """Migrated servers that the tests of one module may stop, freeze and start again."""
    with scratch_folder() as folder:
        servers = Servers(folder, settings_class)
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()


# --- cleaning ---


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _cleaner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(superuser_url(database_url))
    yield connection
    await connection.close()


@pytest_asyncio.fixture(loop_scope="session")
async def _empty_tables(_cleaner: asyncpg.Connection) -> AsyncIterator[None]:
    yield
    await _cleaner.execute(_EMPTY_TABLES)


@pytest.fixture
def _empty_redis(redis_url: str) -> Iterator[None]:
    yield
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()


@pytest.fixture(autouse=True)
def _leave_nothing_behind(request: pytest.FixtureRequest) -> None:
    """Empty what the test has used. Set up before the test's own fixtures, the cleaners run after them."""
    if "database_url" in request.fixturenames:
        request.getfixturevalue("_empty_tables")
    if "redis_url" in request.fixturenames:
        request.getfixturevalue("_empty_redis")


# --- the service ---


@pytest.fixture(scope="session")
def settings_class(pytestconfig: pytest.Config) -> type[PlatformSettings]:
    """The service's settings class."""
    return pytestconfig.stash[_SETTINGS]


@pytest.fixture(scope="module")
def make_settings(settings_class: type[PlatformSettings], database_url: str, redis_url: str) -> Callable[..., Any]:
    """A function that makes settings on `database_url` and `redis_url`, with the values that it is given.

    It raises SettingsError as `settings_for_tests` does.
    """

    def make(**values: Any) -> PlatformSettings:
        return settings_for_tests(settings_class, **{"DATABASE_URL": database_url, "REDIS_URL": redis_url, **values})

    return make


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Any]) -> Any:
    """The settings of `application`, `database` and `jobs`."""
    return make_settings()


@pytest.fixture(scope="module")
def application(settings: PlatformSettings) -> FastAPI:
    """The application of `settings`; its lifespan runs with `client`."""
    app: FastAPI = load(settings.service.application)(settings)
    return app


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(application: FastAPI) -> AsyncIterator[Client]:
    """A client that is not signed in. It raises what a handler raises: see `open_client`."""
    async with open_client(application) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database(settings: PlatformSettings) -> AsyncIterator[Database]:
    """The database of `settings`, to arrange rows and to look at them."""
    database = Database(settings)
    yield database
    await database.aclose()


@pytest_asyncio.fixture(loop_scope="session")
async def sql(settings: PlatformSettings) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection to the same database. Each statement commits by itself."""
    connection = await asyncpg.connect(settings.DATABASE_URL.get_secret_value())
    yield connection
    await connection.close()


@pytest.fixture
def jobs(database: Database, settings: PlatformSettings) -> Jobs:
    """The jobs in `database`, every kind of the service known. No worker runs."""
    load(settings.service.jobs)
    return Jobs(database, settings)
