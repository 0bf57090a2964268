"""Health needs nothing: the process says that it is alive, and readiness says what it is waiting for, at once."""

import socket
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from structlog.testing import capture_logs

from app import __version__
from app.main import create_app
from plinth.health.readiness import Readiness
from tests.support.api import NOBODY_SERVES, client_of
from tests.support.service import settings_with

ALIVE = "/public/health"
READY = "/public/health/ready"


@pytest.fixture
async def service() -> AsyncIterator[httpx.AsyncClient]:
    """A service whose database and Redis nobody serves."""
    settings = settings_with(DATABASE_URL=NOBODY_SERVES, REDIS_URL="redis://127.0.0.1:1/0", RATE_LIMIT="1/minute")
    with capture_logs():
        async with client_of(create_app(settings)) as client:
            yield client


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


class TestAlive:
    async def test_needs_no_database_no_redis_and_no_token(self, service: httpx.AsyncClient) -> None:
        response = await service.get(ALIVE)

        assert response.status_code == 200
        assert response.json() == {"status": "alive", "version": __version__}

    async def test_is_never_answered_out_of_a_cache(self, service: httpx.AsyncClient) -> None:
        assert (await service.get(ALIVE)).headers["cache-control"] == "no-store"

    async def test_may_be_asked_as_often_as_one_likes(self, service: httpx.AsyncClient) -> None:
        assert {(await service.get(ALIVE)).status_code for _ in range(20)} == {200}


class TestReady:
    async def test_is_503_with_the_state_of_each_component(self, service: httpx.AsyncClient) -> None:
        response = await service.get(READY)

        assert response.status_code == 503
        assert response.json() == {
            "status": "unavailable",
            "components": {
                "database": {"status": "down", "required": True, "latency_ms": None},
                "redis": {"status": "down", "required": False, "latency_ms": None},
            },
        }

    async def test_asks_nobody_when_it_is_asked(
        self, service: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def ask(self: Readiness, name: str) -> None:
            raise AssertionError("a probe asked")

        monkeypatch.setattr(Readiness, "_check", ask)

        assert (await service.get(READY)).status_code == 503

    async def test_says_nothing_of_where_things_are(self, service: httpx.AsyncClient) -> None:
        text = (await service.get(READY)).text

        assert not any(word in text for word in ("127.0.0.1", "s3cret", "plinth", "refused"))

    async def test_holds_when_servers_take_connections_and_say_nothing(self, silent_server: int) -> None:
        settings = settings_with(
            DATABASE_URL=f"postgresql://plinth@127.0.0.1:{silent_server}/plinth",
            DB_CONNECT_TIMEOUT=0.2,  # for the first connections; readiness has a limit of its own
            REDIS_URL=f"redis://127.0.0.1:{silent_server}/0",
        )
        with capture_logs():
            async with client_of(create_app(settings)) as client:
                ready, alive = await client.get(READY), await client.get(ALIVE)

        assert (ready.status_code, alive.status_code) == (503, 200)
