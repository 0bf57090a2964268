"""The database and Redis go away and come back, under a real server. Limits are those of docs/outages.md.

To them comes ten times what the same requests take while nothing is away: a second on an idle machine, and more on one
that runs other tests beside.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from uuid import uuid4

import httpx
import pytest

from notes.config import Settings
from plinth.testing import problem
from plinth.testing.servers import Servers
from tests.support.api import signed_in
from tests.support.notes import FOLDER, PACKAGES, note
from tests.support.ports import free_port

READY_WITHIN = 5.0  # seconds until readiness tells the truth, either way
ANSWER_WITHIN = 2.0  # seconds for any request while the database is away; 1.6 on an idle machine
PACE = 10


class Client(httpx.AsyncClient):
    slack = 20.0
    """Seconds that limits are given besides, for the pace of this machine."""


@pytest.fixture(scope="module")
def service(own_servers: Servers) -> Iterator[tuple[str, dict[str, str]]]:
    """The service as `plinth api` runs it, in a process of its own and with the default time limits."""
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": PACKAGES,
        "METRICS_PORT": "0",
        "DATABASE_URL": own_servers.postgres.url(),
        "REDIS_URL": own_servers.redis.url(),
        "RATE_LIMIT": "100000/minute",
        "MAX_REQUESTS_PER_CALLER": "1000",
        "LOG_LEVEL": "CRITICAL",
    }
    command = [sys.executable, "-m", "plinth.cli", "api", "--port", str(port)]
    with subprocess.Popen(command, cwd=FOLDER, env=environment) as process:
        url = f"http://127.0.0.1:{port}/api/v1"
        try:
            wait_for(url, process)
            yield url, signed_in(Settings.isolated(), "alice")
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    with httpx.Client() as client:
        while process.poll() is None:
            try:
                if client.get(f"{url}/public/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
    raise AssertionError("the service did not start")


@pytest.fixture
async def client(service: tuple[str, dict[str, str]]) -> AsyncIterator[Client]:
    url, headers = service
    async with Client(base_url=url, headers=headers, timeout=30) as client:
        yield client


async def becomes(client: Client, expected: Callable[[httpx.Response], bool]) -> None:
    """Wait until readiness answers as expected, with health alive all the while."""
    deadline = time.monotonic() + READY_WITHIN + client.slack
    while not expected(response := await client.get("/public/health/ready")):
        assert time.monotonic() < deadline, response.text
        assert (await client.get("/public/health")).status_code == 200
        await asyncio.sleep(0.05)


def is_(status: str) -> Callable[[httpx.Response], bool]:
    code = 503 if status == "unavailable" else 200
    return lambda response: response.status_code == code and response.json()["status"] == status


async def burst(client: Client, of_each: int = 10) -> list[httpx.Response]:
    """More requests than there are connections: reads, and writes with a key and without; each is answered in time."""
    async with asyncio.timeout(ANSWER_WITHIN + client.slack):
        return await asyncio.gather(
            *(client.get("/notes") for _ in range(of_each)),
            *(client.post("/notes", json=note()) for _ in range(of_each)),
            *(client.post("/notes", json=note(), headers={"Idempotency-Key": uuid4().hex}) for _ in range(of_each)),
        )


async def works(client: Client) -> None:
    assert {response.status_code for response in await burst(client, of_each=5)} == {200, 201}


@pytest.fixture(autouse=True)
async def _healthy_before(client: Client, own_servers: Servers) -> None:
    for server in (own_servers.postgres, own_servers.redis):
        if server.process is None or not server.process.running:  # a test before this one broke off
            server.start()
    await becomes(client, is_("ready"))
    await works(client)
    began = time.monotonic()
    await burst(client)
    client.slack = PACE * (time.monotonic() - began)


class TestDatabase:
    async def test_service_recovers_from_a_stopped_database(self, client: Client, own_servers: Servers) -> None:
        own_servers.postgres.stop(signal.SIGQUIT)
        for response in await burst(client):
            assert "retry-after" in response.headers
            problem(response, 503, "database_unavailable")
        await becomes(client, is_("unavailable"))
        own_servers.postgres.start()
        await becomes(client, is_("ready"))
        await works(client)

    async def test_database_restart_between_two_requests_fails_none(self, client: Client, own_servers: Servers) -> None:
        own_servers.postgres.stop()
        own_servers.postgres.start()
        # Every pooled connection is dead by now; no request fails on one.
        await works(client)

    async def test_service_recovers_from_a_frozen_database(self, client: Client, own_servers: Servers) -> None:
        own_servers.postgres.pause()
        try:
            for response in await burst(client):
                problem(response, 503, "database_unavailable")
            await becomes(client, is_("unavailable"))
        finally:
            own_servers.postgres.resume()
        await becomes(client, is_("ready"))
        await works(client)


class TestRedis:
    async def test_requests_work_while_redis_is_stopped(self, client: Client, own_servers: Servers) -> None:
        own_servers.redis.stop()
        await works(client)
        await becomes(client, is_("degraded"))
        await works(client)
        own_servers.redis.start()
        await becomes(client, is_("ready"))
        await works(client)

    async def test_frozen_redis_delays_one_request_not_all(self, client: Client, own_servers: Servers) -> None:
        own_servers.redis.pause()
        try:
            await works(client)
            await becomes(client, is_("degraded"))
        finally:
            own_servers.redis.resume()
        await becomes(client, is_("ready"))
