"""Redis that Sentinels watch: its primary is killed or frozen under load, and another one takes over."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
import redis

from notes.config import Settings
from notes.main import create_app
from plinth.errors import ServiceUnavailableError
from plinth.health import readiness
from plinth.http import rate_limit
from plinth.http.rate_limit import RateLimiter
from plinth.jobs import doorbell as bell
from plinth.jobs.doorbell import Doorbell
from plinth.redis.client import close_redis, open_redis
from plinth.redis.window import WriteCheck
from plinth.testing import until
from tests.support.api import client_of, signed_in
from tests.support.notes import settings_with
from tests.support.ports import free_port
from tests.support.sentinels import Node, Sentinels, watched_redis

LIMIT = 40


@pytest.fixture(scope="module")
def _watched() -> Iterator[Sentinels]:
    with watched_redis() as watched:
        yield watched


@pytest.fixture
async def watched(_watched: Sentinels) -> Sentinels:
    """The servers, all of which run: a primary and its replica."""
    for node in (*_watched.servers, *_watched.sentinels):
        if node.process.poll() is not None:
            await asyncio.to_thread(node.start)
    await until(lambda: asyncio.to_thread(_watched.settled), timeout=60)
    return _watched


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Any]:
    client = open_redis(Settings.isolated(REDIS_URL=url))
    try:
        yield client
    finally:
        await close_redis(client)


async def port_of(client: Any) -> int:
    """The port of the server that answers a client."""
    return int((await client.info("server"))["tcp_port"])


async def another_than(watched: Sentinels, old: Node) -> Node:
    """Wait until the Sentinels name another primary."""

    async def named() -> bool:
        try:
            return watched.primary() is not old
        except ValueError:  # they do not agree yet
            return False

    await until(named, timeout=60)
    return watched.primary()


def connected(client: Any) -> list[Any]:
    """The connections that a client holds open, those to the Sentinels too."""
    own = client.connection_pool
    pools = [own, *(sentinel.connection_pool for sentinel in own._sentinel.sentinels)]
    held = [connection for pool in pools for connection in (*pool._available_connections, *pool._in_use_connections)]
    return [connection for connection in held if connection.is_connected]


async def reason_of(url: str) -> str | None:
    async with opened(url) as client:
        with pytest.raises(ServiceUnavailableError) as caught:
            await WriteCheck(client, "test")()
    return caught.value.reason


class TestClient:
    async def test_commands_go_to_the_primary(self, watched: Sentinels) -> None:
        async with opened(watched.url) as client:
            await asyncio.gather(*(client.incr("test:count") for _ in range(20)))
            assert await client.get("test:count") == b"20"
            assert await port_of(client) == watched.primary().port
            await client.delete("test:count")

    async def test_number_of_the_database_and_credentials_of_the_sentinels_are_the_url_s(
        self, watched: Sentinels
    ) -> None:
        async with opened(watched.url.replace("/main/0", "/main/3")) as client:
            await client.set("test:key", 1)
        with watched.primary().client() as direct:
            assert direct.get("test:key") is None
            direct.select(3)
            assert direct.delete("test:key") == 1
        async with opened(f"{watched.url}?sentinel_username=s&sentinel_password=s3cret") as client:
            asked = client.connection_pool._sentinel.sentinels[0].connection_pool.connection_kwargs
            assert (asked["username"], asked["password"]) == ("s", "s3cret")

    async def test_sentinel_that_is_away_is_passed_over(self, watched: Sentinels) -> None:
        for gone in watched.sentinels[:2]:
            gone.kill()
        async with opened(watched.url) as client:
            assert await client.ping()

    async def test_no_sentinel_is_forgotten_while_many_ask(self, watched: Sentinels) -> None:
        watched.sentinels[0].kill()
        async with opened(watched.url) as client:
            await asyncio.gather(*(client.incr("test:count") for _ in range(20)))
            known = client.connection_pool._sentinel.sentinels
            ports = [sentinel.connection_pool.connection_kwargs["port"] for sentinel in known]
            assert sorted(ports) == sorted(node.port for node in watched.sentinels)
            assert ports[0] != watched.sentinels[0].port  # the one that answered is asked first

    async def test_reason_is_told(self, watched: Sentinels) -> None:
        expected = "The Sentinels are away, or name no primary: they know no service of this name, or it is down"
        assert await reason_of(watched.url.replace("/main/", "/other/")) == expected
        assert await reason_of(f"redis+sentinel://127.0.0.1:{free_port()}/main") == expected

    async def test_client_leaves_a_server_that_has_become_a_replica(self, watched: Sentinels) -> None:
        old = watched.primary()
        async with opened(watched.url) as client:
            await asyncio.gather(*(client.set(f"test:{number}", 1) for number in range(20)))
            with watched.sentinels[0].client() as sentinel:
                sentinel.execute_command("SENTINEL FAILOVER", "main")
            new = await another_than(watched, old)

            await until(lambda: are_on(new, [client]))

    @pytest.mark.parametrize("frozen", ["server", "Sentinel"])
    async def test_client_that_is_closed_while_it_connects_leaves_nothing_open(
        self, watched: Sentinels, frozen: str
    ) -> None:
        process = (watched.primary() if frozen == "server" else watched.sentinels[0]).process
        async with opened(watched.url) as client:
            process.send_signal(signal.SIGSTOP)
            commands = [asyncio.create_task(client.incr("test:count")) for _ in range(5)]
            await until(lambda: bool(connected(client)))
            await close_redis(client)
            process.send_signal(signal.SIGCONT)
            await asyncio.gather(*commands, return_exceptions=True)
            assert connected(client) == []


@pytest.fixture
async def service(
    watched: Sentinels, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, str]]]:
    monkeypatch.setattr(readiness, "INTERVAL_SECONDS", 0.1)
    settings = settings_with(
        DATABASE_URL=database_url, REDIS_URL=watched.url, RATE_LIMIT="100000/minute", REDIS_TIMEOUT=0.25
    )
    async with client_of(create_app(settings)) as client:
        yield client, signed_in(settings)


@asynccontextmanager
async def load(client: httpx.AsyncClient, caller: dict[str, str]) -> AsyncIterator[None]:
    """Requests all the time while the block runs; every one succeeds."""
    over = False

    async def ask() -> None:
        while not over:
            assert (await client.get("/notes", headers=caller)).status_code == 200
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(ask()) for _ in range(4)]
    try:
        yield
    finally:
        over = True
        await asyncio.gather(*tasks)


async def becomes(client: httpx.AsyncClient, status: str) -> None:
    async def found() -> bool:
        return bool((await client.get("/public/health/ready")).json()["status"] == status)

    await until(found, timeout=60)


class TestFailover:
    @pytest.mark.parametrize("by", ["kill", "freeze"])
    async def test_no_request_fails_and_limits_and_doorbell_come_back(
        self,
        watched: Sentinels,
        service: tuple[httpx.AsyncClient, dict[str, str]],
        monkeypatch: pytest.MonkeyPatch,
        by: str,
    ) -> None:
        monkeypatch.setattr(bell, "_RETRY_SECONDS", 0.1)
        monkeypatch.setattr(bell, "_READ_SECONDS", 0.5)
        monkeypatch.setattr(bell, "_ANSWER_SECONDS", 0.5)
        monkeypatch.setattr(rate_limit, "REDIS_COOLDOWN_SECONDS", 0.1)
        client, caller = service
        async with AsyncExitStack() as closing:
            one, other = [await closing.enter_async_context(opened(watched.url)) for _ in range(2)]
            listener, ringer = (Doorbell(client_of_redis, channel="test:jobs") for client_of_redis in (one, other))
            rings: asyncio.Queue[tuple[set[str], set[Any]]] = asyncio.Queue()

            async def listen() -> None:
                async for ring in listener.listen():
                    rings.put_nowait(ring)

            listening = asyncio.create_task(listen())

            async def stop() -> None:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
                await ringer.aclose()

            closing.push_async_callback(stop)
            assert await rings.get() == (set(), set())
            assert LIMIT * 0.9 <= await admitted([one, other], f"before-{by}") <= LIMIT

            await becomes(client, "ready")
            old = watched.primary()
            async with load(client, caller):
                old.process.send_signal(signal.SIGKILL if by == "kill" else signal.SIGSTOP)
                await becomes(client, "degraded")
                await another_than(watched, old)
                await becomes(client, "ready")
                await until(lambda: listener.heard and not rings.empty())
            if by == "freeze":
                old.process.send_signal(signal.SIGCONT)

            # Together no more than the limit: they count in Redis, and for themselves no longer.
            new = watched.primary()
            await until(lambda: are_on(new, [one, other]))
            assert LIMIT * 0.9 <= await admitted([one, other], f"after-{by}") <= LIMIT
            while not rings.empty():
                assert rings.get_nowait() == (set(), set())

            async def rung() -> bool:
                ringer.ring(["default"])
                await asyncio.sleep(0.1)
                return not rings.empty()

            await until(rung)
            assert {"default"} in [ring[0] for ring in iter_all(rings)]


async def are_on(server: Node, clients: list[Any]) -> bool:
    """Whether the clients write to this server."""
    try:
        for client in clients:
            await client.set("test:are_on", 1)
            if await port_of(client) != server.port:
                return False
    except redis.RedisError:  # of a connection that the old one has closed, or on which it is a replica now
        return False
    return True


def iter_all(rings: "asyncio.Queue[tuple[set[str], set[Any]]]") -> Iterator[tuple[set[str], set[Any]]]:
    while not rings.empty():
        yield rings.get_nowait()


async def admitted(clients: list[Any], key: str) -> int:
    """How many hits of a new key processes admit in turns, each with a client of its own."""
    limiters = [RateLimiter(f"{LIMIT}/hour", client, prefix="test") for client in clients]
    verdicts = [await limiter.hit(key) for _ in range(LIMIT) for limiter in limiters]
    return sum(verdict.allowed for verdict in verdicts)
