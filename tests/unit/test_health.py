"""Liveness needs no server; readiness shows at once which servers it waits for."""

import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from app import __version__
from app.core.config import Settings
from app.main import create_app
from plinth.health.readiness import Readiness
from plinth.testing import NO_DATABASE, Client, open_client, settings_for_tests

ALIVE = "/public/health"
READY = "/public/health/ready"


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """The service while its database and its Redis are down."""
    settings = settings_for_tests(
        Settings, DATABASE_URL=NO_DATABASE, REDIS_URL="redis://127.0.0.1:1/0", RATE_LIMIT="1/minute"
    )
    async with open_client(create_app(settings)) as client:
        yield client


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


class TestLiveness:
    async def test_liveness_needs_no_database_no_redis_and_no_token(self, client: Client) -> None:
        response = await client.get(ALIVE)

        assert response.status_code == 200
        assert response.json() == {"status": "alive", "version": __version__}

    async def test_liveness_is_never_cached(self, client: Client) -> None:
        assert (await client.get(ALIVE)).headers["cache-control"] == "no-store"

    async def test_liveness_is_not_rate_limited(self, client: Client) -> None:
        assert {(await client.get(ALIVE)).status_code for _ in range(20)} == {200}


class TestReadiness:
    async def test_readiness_is_503_with_the_state_of_each_component(self, client: Client) -> None:
        response = await client.get(READY)

        assert response.status_code == 503
        assert response.json() == {
            "status": "unavailable",
            "components": {
                "database": {
                    "status": "down",
                    "required": True,
                    "latency_ms": None,
                    "reason": "The database does not answer: nothing listens at its host and port",
                },
                "redis": {
                    "status": "down",
                    "required": False,
                    "latency_ms": None,
                    "reason": "Redis does not answer: nothing listens at its host and port",
                },
            },
        }

    async def test_readiness_probe_runs_no_check_itself(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        async def ask(self: Readiness, name: str) -> None:
            raise AssertionError("a probe asked")

        monkeypatch.setattr(Readiness, "_check", ask)

        assert (await client.get(READY)).status_code == 503

    async def test_readiness_shows_no_addresses(self, client: Client) -> None:
        text = (await client.get(READY)).text

        assert not any(word in text for word in ("127.0.0.1", "s3cret", "plinth", "refused"))

    async def test_readiness_is_503_when_servers_accept_connections_and_stay_silent(self, silent_server: int) -> None:
        settings = settings_for_tests(
            Settings,
            DATABASE_URL=f"postgresql://plinth@127.0.0.1:{silent_server}/plinth",
            DB_CONNECT_TIMEOUT=0.2,  # for the first connections; readiness has a limit of its own
            REDIS_URL=f"redis://127.0.0.1:{silent_server}/0",
        )
        async with open_client(create_app(settings)) as client:
            ready, alive = await client.get(READY), await client.get(ALIVE)

        assert (ready.status_code, alive.status_code) == (503, 200)
