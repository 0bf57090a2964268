"""A Redis that answers and cannot do what limits need: a replica, a node of a cluster, one that is full or refuses."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
import redis
from structlog.testing import capture_logs

from notes.config import Settings
from notes.main import create_app
from plinth.embedded import redis as embedded
from plinth.embedded.redis import Redis
from plinth.errors import ServiceUnavailableError
from plinth.health import readiness
from plinth.http.rate_limit import RateLimiter
from plinth.jobs.doorbell import Doorbell
from plinth.redis.client import close_redis, open_redis
from plinth.redis.window import WriteCheck
from plinth.testing.servers import scratch_folder
from tests.support.api import client_of, signed_in
from tests.support.metrics import metric
from tests.support.notes import settings_with
from tests.support.ports import free_port

CLUSTER = "Redis is a node of a cluster, which has other nodes for other keys: Redis Cluster is not supported"


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch_folder() as folder:
        yield folder


@pytest.fixture
def server(folder: Path) -> Iterator[Redis]:
    server = Redis(folder / "redis", log=folder / "redis.log", durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def admin(server: Redis) -> Iterator[Any]:
    """A connection that no change of the server's settings shuts out."""
    with redis.Redis.from_url(server.url(), single_connection_client=True) as admin:
        admin.ping()
        yield admin


@asynccontextmanager
async def opened(url: str, seconds: float = 10) -> AsyncIterator[Any]:
    client = open_redis(Settings.isolated(REDIS_URL=url, REDIS_TIMEOUT=seconds))
    try:
        yield client
    finally:
        await close_redis(client)


async def told(check: WriteCheck, times: int = 4) -> list[str | None]:
    """The reason of each check in a row; None for one that found nothing wrong."""
    reasons: list[str | None] = []
    for _ in range(times):
        try:
            await check()
            reasons.append(None)
        except ServiceUnavailableError as error:
            reasons.append(error.reason)
    return reasons


class TestCheck:
    @pytest.mark.parametrize(
        ("break_it", "mend", "reason"),
        [
            (["REPLICAOF 127.0.0.1 1"], ["REPLICAOF NO ONE"], "Redis is a read-only replica"),
            (
                ["REPLICAOF 127.0.0.1 1", "CONFIG SET replica-serve-stale-data no"],
                ["REPLICAOF NO ONE"],
                "Redis is a replica without its primary",
            ),
            (
                ["CONFIG SET min-replicas-to-write 1"],
                ["CONFIG SET min-replicas-to-write 0"],
                "Redis refuses writes: it has too few replicas",
            ),
            (
                ["CONFIG SET maxmemory 1"],
                ["CONFIG SET maxmemory 0"],
                "Redis refuses writes: its memory is full (maxmemory)",
            ),
            (
                ["ACL SETUSER default -incrby"],
                ["ACL SETUSER default +@all"],
                "Redis does not permit its user the commands or the keys of this service (ACL)",
            ),
            (
                ["ACL SETUSER default resetkeys ~other:*"],
                ["ACL SETUSER default ~*"],
                "Redis does not permit its user the commands or the keys of this service (ACL)",
            ),
        ],
    )
    async def test_server_that_cannot_be_written_is_down_with_the_reason(
        self, server: Redis, admin: Any, break_it: list[str], mend: list[str], reason: str
    ) -> None:
        async with opened(server.url()) as client:
            check = WriteCheck(client, "test:limit")
            assert await told(check) == [None] * 4
            for command in break_it:
                admin.execute_command(command)
            assert await told(check) == [reason] * 4
            for command in mend:
                admin.execute_command(command)
            assert await told(check) == [None] * 4

    @pytest.mark.parametrize(
        ("query", "reason"),
        [("", "Redis asks for a password"), ("&password=wrong", "Redis refuses the user name or the password")],
    )
    async def test_wrong_password_is_told(self, server: Redis, admin: Any, query: str, reason: str) -> None:
        admin.config_set("requirepass", "s3cret")
        async with opened(server.url() + query) as client:
            assert await told(WriteCheck(client, "test")) == [reason] * 4

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("redis://127.0.0.1:1", "Redis does not answer: nothing listens at its host and port"),
            ("unix:///no/such/socket", "Redis does not answer: its socket does not exist"),
        ],
    )
    async def test_server_that_is_not_there_is_told(self, url: str, reason: str) -> None:
        async with opened(url) as client:
            assert await told(WriteCheck(client, "test")) == [reason] * 4

    async def test_database_that_redis_does_not_have_is_told(self, server: Redis) -> None:
        async with opened(server.url(99)) as client:
            assert await told(WriteCheck(client, "test")) == ["Redis has no database of this number"] * 4

    async def test_frozen_server_is_told(self, server: Redis) -> None:
        async with opened(server.url(), seconds=0.5) as client:
            check = WriteCheck(client, "test")
            assert await told(check) == [None] * 4
            server.pause()
            try:
                assert await told(check, 1) == ["Redis does not answer: there was no answer in time"]
            finally:
                server.resume()


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Any]]:
    """Two nodes of a cluster. One that has just started takes no commands for two seconds."""
    with ExitStack() as closing:
        folder = closing.enter_context(scratch_folder())
        clients = []
        for number in range(2):
            options = {"cluster-enabled": "yes", "port": str(free_port()), "cluster-port": str(free_port())}
            node = Redis(folder / f"node{number}", log=folder / f"node{number}.log", durable=False)
            with patch.dict(embedded.SETTINGS, options | {"cluster-require-full-coverage": "no"}):
                node.start()
            closing.callback(node.stop)
            clients.append(closing.enter_context(redis.Redis.from_url(node.url())))
        yield clients


@pytest.fixture
def cluster(nodes: list[Any]) -> Iterator[list[Any]]:
    """They have no slots, no keys, and do not know each other."""
    for node in nodes:
        # A node that was alone for a moment serves again after this time, and after 500 ms at the earliest.
        node.config_set("cluster-node-timeout", 500)
    yield nodes
    for node in nodes:
        node.flushall()
        node.execute_command("CLUSTER RESET HARD")


async def join(nodes: list[Any], slots: int) -> None:
    """Give the first node so many slots and the other the rest, and let them meet."""
    one, other = nodes
    port, bus = (other.config_get(name)[name] for name in ("port", "cluster-port"))
    one.execute_command(f"CLUSTER ADDSLOTSRANGE 0 {slots - 1}")
    other.execute_command(f"CLUSTER ADDSLOTSRANGE {slots} 16383")
    one.execute_command(f"CLUSTER MEET 127.0.0.1 {port} {bus}")
    await serves(one, 16384)
    other.config_set("cluster-node-timeout", 60_000)


async def serves(node: Any, slots: int) -> None:
    """Wait until so many slots are known to the node, and it takes commands for them."""
    async with asyncio.timeout(60):
        info: dict[str, str] = {}
        while (info.get("cluster_slots_ok"), info.get("cluster_state")) != (f"{slots}", "ok"):
            await asyncio.sleep(0.05)
            info = node.execute_command("CLUSTER INFO")
    node.config_set("cluster-node-timeout", 60_000)  # no pause of this machine divides the cluster


def url_of(client: Any) -> str:
    return f"unix://{client.connection_pool.connection_kwargs['path']}"


class TestCluster:
    async def test_node_without_slots_is_down(self, cluster: list[Any]) -> None:
        async with opened(url_of(cluster[0])) as client:
            reason = "Redis is a node of a cluster that is down: Redis Cluster is not supported"
            assert await told(WriteCheck(client, "test")) == [reason] * 4

    @pytest.mark.parametrize("slots", [4096, 8192, 12288])
    async def test_node_that_has_some_of_the_keys_is_down(self, cluster: list[Any], slots: int) -> None:
        await join(cluster, slots)
        async with opened(url_of(cluster[0])) as client:
            check = WriteCheck(client, "test")
            reasons = await told(check, 6)
            first = reasons.index(CLUSTER)
            assert first < 4
            # From then on each check fails, though other keys would be taken.
            assert reasons == [None] * first + [CLUSTER] * (6 - first)

    async def test_only_node_of_a_cluster_serves(self, cluster: list[Any]) -> None:
        cluster[0].execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
        await serves(cluster[0], 16384)
        async with opened(url_of(cluster[0])) as client:
            assert await told(WriteCheck(client, "test")) == [None] * 4

    async def test_limiter_on_a_node_of_a_cluster_says_so_once(self, cluster: list[Any]) -> None:
        await join(cluster, 8192)
        now = 0.0
        async with opened(url_of(cluster[0])) as client:
            limiter = RateLimiter("5/minute", client, prefix="test", clock=lambda: now)
            with capture_logs() as logs:
                for number in range(20):
                    now += 3
                    assert (await limiter.hit(f"caller-{number}")).allowed
        assert [(entry["event"], entry["reason"]) for entry in logs] == [
            ("each process counts this limit for itself", CLUSTER)
        ]


class TestFailover:
    @pytest.fixture
    def link(self, server: Redis, folder: Path) -> Path:
        """The address of Redis: a link, as a name in DNS is one."""
        link = folder / "service.sock"
        link.symlink_to(server.url().removeprefix("unix://").partition("?")[0])
        return link

    @pytest.fixture
    def successor(self, folder: Path, link: Path) -> Iterator[Callable[[], None]]:
        """Makes the address that of another server."""
        server = Redis(folder / "successor", log=folder / "successor.log", durable=False)
        server.start()

        def take_over() -> None:
            link.unlink()
            link.symlink_to(server.url().removeprefix("unix://").partition("?")[0])

        yield take_over
        server.stop()

    async def test_client_leaves_a_server_that_has_become_a_replica(
        self, admin: Any, link: Path, successor: Callable[[], None]
    ) -> None:
        async with opened(f"unix://{link}") as client:
            await asyncio.gather(*(client.set(f"key-{number}", 1) for number in range(20)))
            admin.execute_command("REPLICAOF 127.0.0.1 1")
            successor()
            errors = 0
            for number in range(20):
                try:
                    await client.set(f"key-{number}", 2)
                except redis.ReadOnlyError:
                    errors += 1
            assert errors == 1  # of twenty connections to the old server

    async def test_commands_in_flight_do_not_keep_their_connections(
        self, admin: Any, link: Path, successor: Callable[[], None]
    ) -> None:
        async with opened(f"unix://{link}") as client:
            reading = [asyncio.create_task(client.blpop([f"list-{number}"], timeout=0.2)) for number in range(5)]
            await client.set("key", 1)
            admin.execute_command("REPLICAOF 127.0.0.1 1")
            successor()
            with pytest.raises(redis.RedisError):
                await client.set("key", 2)
            await asyncio.gather(*reading, return_exceptions=True)
            await asyncio.gather(*(client.set(f"key-{number}", 2) for number in range(6)))

    async def test_listener_leaves_a_server_that_has_become_a_replica(
        self, admin: Any, link: Path, successor: Callable[[], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("plinth.jobs.doorbell._READ_SECONDS", 0.05)
        monkeypatch.setattr("plinth.jobs.doorbell._RETRY_SECONDS", 0.05)
        async with asyncio.timeout(60), opened(f"unix://{link}") as client:
            doorbell = Doorbell(client, channel="test:jobs")
            heard: Any = doorbell.listen()
            with capture_logs() as logs:
                assert await anext(heard) == (set(), set())
                assert doorbell.heard
                admin.execute_command("REPLICAOF 127.0.0.1 1")
                connecting = asyncio.create_task(anext(heard))
                while doorbell.heard:  # noqa: ASYNC110 - the listener's own state
                    await asyncio.sleep(0.01)
                successor()
                assert await connecting == (set(), set())
                assert doorbell.heard
                doorbell.ring(["default"])
                assert await anext(heard) == ({"default"}, set())
            await heard.aclose()
        assert [(entry["event"], entry["reason"]) for entry in logs] == [
            ("the doorbell is not heard", "Redis is a read-only replica")
        ]

    async def test_listener_leaves_a_server_that_is_frozen(
        self, server: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("_READ_SECONDS", "_ANSWER_SECONDS", "_RETRY_SECONDS"):
            monkeypatch.setattr(f"plinth.jobs.doorbell.{name}", 0.1)
        async with asyncio.timeout(60), opened(server.url(), seconds=0.5) as client:
            doorbell = Doorbell(client, channel="test:jobs")
            heard: Any = doorbell.listen()
            assert await anext(heard) == (set(), set())
            server.pause()
            try:
                again = asyncio.create_task(anext(heard))
                while doorbell.heard:  # noqa: ASYNC110 - the listener's own state
                    await asyncio.sleep(0.01)
            finally:
                server.resume()
            assert await again == (set(), set())
            await heard.aclose()

    async def test_listener_stays_with_a_server_that_is_only_full(
        self, server: Redis, admin: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("plinth.jobs.doorbell._READ_SECONDS", 0.05)
        async with asyncio.timeout(60), opened(server.url()) as client:
            admin.config_set("maxmemory", 1)
            doorbell = Doorbell(client, channel="test:jobs")
            heard: Any = doorbell.listen()
            assert await anext(heard) == (set(), set())
            ringing = asyncio.create_task(anext(heard))
            await asyncio.sleep(0.2)
            doorbell.ring(["default"])
            assert await ringing == ({"default"}, set())
            await heard.aclose()


@pytest.fixture
async def service(
    server: Redis, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[httpx.AsyncClient, Settings]]:
    monkeypatch.setattr(readiness, "INTERVAL_SECONDS", 0.02)
    settings = settings_with(DATABASE_URL=database_url, REDIS_URL=server.url(), RATE_LIMIT="20/minute")
    async with AsyncExitStack() as closing:
        yield await closing.enter_async_context(client_of(create_app(settings))), settings


async def becomes(client: httpx.AsyncClient, status: str) -> None:
    async with asyncio.timeout(20):
        while (await client.get("/public/health/ready")).json()["status"] != status:  # noqa: ASYNC110 - its answer
            await asyncio.sleep(0.02)


async def test_readiness_health_metric_and_log_tell_of_a_replica_and_requests_are_served(
    service: tuple[httpx.AsyncClient, Settings], admin: Any
) -> None:
    client, settings = service
    assert (await client.get("/public/health/ready")).json()["status"] == "ready"
    with capture_logs() as logs:
        admin.execute_command("REPLICAOF 127.0.0.1 1")
        caller = signed_in(settings)
        responses = [await client.get("/me", headers=caller) for _ in range(25)]
        assert [response.status_code for response in responses] == [200] * 20 + [429] * 5
        await becomes(client, "degraded")
    assert metric("plinth_dependency_up", dependency="redis") == 0
    assert metric("plinth_db_errors_total", db_system_name="redis", kind="unavailable") > 0
    told = [(entry["event"], entry["reason"]) for entry in logs if entry["log_level"] == "warning"]
    assert sorted(told) == [
        ("component down", "Redis is a read-only replica"),
        ("each process counts this limit for itself", "Redis is a read-only replica"),
    ]
    admin.execute_command("REPLICAOF NO ONE")
    await becomes(client, "ready")
