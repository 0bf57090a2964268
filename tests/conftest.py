"""What every test may ask for. The servers start once for a run, in its first process."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import redis
from opentelemetry import trace
from opentelemetry.util._once import Once

from app.core.config import Settings
from tests.support import network_guard
from tests.support.collector import Collector, collecting
from tests.support.servers import REDIS_DATABASES, Servers, scratch_folder

network_guard.install()

# A developer's own settings must not reach the tests, and the tests must not reach a developer's database.
for _name in Settings.model_fields:
    os.environ.pop(_name, None)

# Commands are run in folders of their own; they find the code all the same.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])

_FOLDER = pytest.StashKey[Path]()
_SERVERS = pytest.StashKey[Servers]()

# TRUNCATE is dear and most tables are empty after most tests. A test that leaves a transaction open is told so.
_EMPTY_TABLES = """
SET lock_timeout = '5s';
DO $$
DECLARE
    name text;
    filled bool;
    names text[];
BEGIN
    FOR name IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
                WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
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
    if (given := getattr(config, "workerinput", None)) is not None:
        folder = Path(given["servers"])
    else:
        folder = Path(tempfile.mkdtemp(prefix="plinth-tests-"))
        folder.chmod(0o755)  # root's PostgreSQL runs as another user
    config.stash[_FOLDER] = folder
    config.stash[_SERVERS] = Servers(folder, Settings)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    node.workerinput["servers"] = str(node.config.stash[_FOLDER])  # type: ignore[attr-defined]


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart(session: pytest.Session) -> Generator[None]:
    yield
    # The workers collect the tests while the servers start.
    if session.config.pluginmanager.hasplugin("dsession"):
        session.config.stash[_SERVERS].start()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.stash[_SERVERS].stop()
        shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)


@pytest.fixture(autouse=True)
def _stay_on_this_machine() -> Iterator[None]:
    yield
    attempts = network_guard.attempts[:]
    network_guard.attempts.clear()
    assert not attempts, f"this test went for {', '.join(attempts)}"


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Servers:
    """The servers of this run. Tests share them: whoever stops or freezes one asks for `own_servers`."""
    servers = pytestconfig.stash[_SERVERS]
    if not hasattr(pytestconfig, "workerinput"):
        servers.start()
    servers.wait()
    return servers


@pytest.fixture(scope="session")
def worker_number(pytestconfig: pytest.Config) -> int:
    """0 for the first process that runs tests, and so on."""
    return int(getattr(pytestconfig, "workerinput", {}).get("workerid", "gw0").removeprefix("gw"))


@pytest.fixture(scope="session")
def database_url(servers: Servers, worker_number: int) -> str:
    """A migrated database of this process. Its tables are emptied after each test that has used it."""
    return servers.clone(f"worker_{worker_number}")


@pytest.fixture
def fresh_database_url(servers: Servers) -> Iterator[str]:
    """A migrated database for one test, which may do with its schema what it likes."""
    name = f"fresh_{uuid4().hex}"
    yield servers.clone(name)
    servers.drop(name)


@pytest.fixture
def empty_database_url(servers: Servers) -> Iterator[str]:
    """A database without a table, for one test."""
    name = f"empty_{uuid4().hex}"
    servers.postgres.execute(f"CREATE DATABASE {name} OWNER plinth")
    yield servers.postgres.url(name)
    servers.drop(name)


@pytest.fixture(scope="session")
def redis_url(servers: Servers, worker_number: int) -> str:
    """A Redis database of this process. It is emptied after each test that has used it."""
    return servers.redis.url(worker_number % REDIS_DATABASES)


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
async def _cleaner(servers: Servers, database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url.replace("plinth@", "postgres@"))
    yield connection
    await connection.close()


@pytest.fixture
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
    """Clean up after the test. Set up first of all its fixtures, the cleaners come last."""
    if "database_url" in request.fixturenames:
        request.getfixturevalue("_empty_tables")
    if "redis_url" in request.fixturenames:
        request.getfixturevalue("_empty_redis")


@pytest.fixture
def fresh_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing can be switched on once in a process; here in each test that asks for this."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())


@pytest.fixture
def collector(fresh_tracing: None) -> Iterator[Collector]:
    with collecting() as collector:
        yield collector
