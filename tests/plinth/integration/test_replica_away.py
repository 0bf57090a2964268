"""The replica of the database goes away and comes back under load: no request fails, and few wait for it."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from structlog.testing import capture_logs

from notes.config import Settings
from notes.main import create_app
from plinth.database.replica import Replica
from plinth.embedded.postgres import Postgres
from plinth.testing import serving, until
from tests.support.api import signed_in
from tests.support.metrics import metric
from tests.support.notes import note
from tests.support.standby import Standby, primary_and_standby

CLIENTS = 8


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Postgres, Standby]]:
    with primary_and_standby() as (primary, standby):
        yield primary, standby


@pytest.fixture(scope="module")
def standby(servers: tuple[Postgres, Standby]) -> Standby:
    return servers[1]


@pytest.fixture(scope="module")
def url(servers: tuple[Postgres, Standby]) -> Iterator[str]:
    """The service on both, with the default time limits."""
    primary, standby = servers
    settings = Settings.isolated(
        ENVIRONMENT="test",
        DATABASE_URL=primary.url(),
        DATABASE_REPLICA_URL=standby.url(),
        DB_REPLICA_MAX_LAG=1,
        RATE_LIMIT="",
        MAX_REQUESTS_PER_CALLER=1000,
    )
    with capture_logs(), serving(create_app(settings)) as url:
        yield f"{url}/api/v1"


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A caller that the database does not know yet, once the replica is in use."""
    # A connection for each request: httpx gives an idle one to the task that asks first, and another may wait for ever.
    limits = httpx.Limits(max_keepalive_connections=0)
    headers = signed_in(Settings.isolated())
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20, limits=limits) as client:
        await until(lambda: ready(client, "up"))
        await until(reads_go_to_the_replica(client))
        yield client


async def ready(client: httpx.AsyncClient, replica: str) -> bool:
    """Whether readiness says so of the replica. The service is ready all the same."""
    response = await client.get("/public/health/ready")
    assert response.status_code == 200
    return bool(response.json()["components"]["replica"] == replica)


def reads_go_to_the_replica(client: httpx.AsyncClient) -> Callable[[], object]:
    """A condition: the pool of the replica is used by a read."""

    async def condition() -> bool:
        before = waits()
        assert (await client.get("/notes")).status_code == 200
        return waits() > before

    return condition


def waits() -> float:
    return metric("db_client_connection_wait_time_seconds_count", db_client_connection_pool_name="replica")


@asynccontextmanager
async def load(client: httpx.AsyncClient) -> AsyncIterator[list[int]]:
    """Lists are read all the time while the block runs, and at least once after it; yields how many, by client."""
    over = False
    answers = [0] * CLIENTS

    async def read(number: int) -> None:
        last = False
        while not last:
            last = over
            response = await client.get("/notes")
            assert response.status_code == 200, response.text
            answers[number] += 1

    tasks = [asyncio.create_task(read(number)) for number in range(CLIENTS)]
    try:
        yield answers
    finally:
        over = True
        await asyncio.gather(*tasks)


async def test_no_read_fails_while_the_replica_is_killed_and_comes_back(
    client: httpx.AsyncClient, standby: Standby
) -> None:
    async with load(client):
        await asyncio.to_thread(standby.stop, signal.SIGQUIT)
        await until(lambda: ready(client, "down"))
        await asyncio.to_thread(standby.start)
        await until(lambda: ready(client, "up"))
        await until(reads_go_to_the_replica(client))


async def test_no_read_fails_while_the_replica_is_frozen_and_few_wait_for_it(
    client: httpx.AsyncClient, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_alone, waited = Replica.leave_alone, 0

    def counted(replica: Replica, reason: str | None) -> None:
        nonlocal waited
        waited += 1
        leave_alone(replica, reason)

    monkeypatch.setattr(Replica, "leave_alone", counted)
    async with load(client) as answers:
        standby.pause()
        try:
            await until(lambda: ready(client, "down"))
            before = list(answers)
            await until(lambda: all(now >= then + 10 for now, then in zip(answers, before, strict=True)), timeout=60)
        finally:
            standby.resume()
        await until(lambda: ready(client, "up"))
        await until(reads_go_to_the_replica(client))
    # One of each client, under way until the first had failed. Without the time in which it is left alone they are 28.
    assert 1 <= waited <= 2 * CLIENTS


async def test_what_was_written_is_read_within_the_largest_lag(client: httpx.AsyncClient, standby: Standby) -> None:
    standby.pause_replay()
    try:
        assert (await client.post("/notes", json=note())).status_code == 201
        assert (await client.get("/notes")).json()["items"] == []  # the replica's

        async def is_read() -> bool:
            response = await client.get("/notes")
            assert response.status_code == 200
            return bool(response.json()["items"])

        await until(is_read, timeout=10)
        await until(lambda: ready(client, "down"))
    finally:
        standby.resume_replay()
    await until(lambda: ready(client, "up"))
