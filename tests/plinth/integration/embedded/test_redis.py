from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from plinth.embedded import redis as embedded
from plinth.embedded.process import EmbeddedError
from plinth.embedded.redis import Redis
from plinth.testing.servers import scratch_folder


@pytest.fixture(params=[True, False], ids=["durable", "throw-away"], scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Redis]:
    with scratch_folder() as folder:
        server = Redis(folder / "redis", log=folder / "log", durable=request.param)
        server.start()
        yield server
        server.stop()


@pytest.fixture
def client(server: Redis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url(), socket_timeout=20) as client:
        yield client


def test_only_its_owner_reaches_redis(server: Redis) -> None:
    assert server.process
    sockets = Path(server.url().removeprefix("unix://")).parent
    assert sockets.stat().st_mode & 0o777 == 0o700
    assert psutil.Process(server.process.pid).net_connections("tcp") == []


def test_redis_databases_are_separate(server: Redis, client: redis.Redis) -> None:
    with redis.Redis.from_url(server.url(15)) as other:
        other.set("number", "15")
        assert client.get("number") is None


def test_durable_redis_keeps_its_data_through_a_restart(server: Redis, client: redis.Redis) -> None:
    client.set("key", "value")
    server.stop()
    server.start()
    assert client.get("key") == (b"value" if server.durable else None)


@pytest.mark.parametrize("server", [True], indirect=True, ids=["durable"])
def test_durable_redis_keeps_its_data_in_a_crash(server: Redis, client: redis.Redis) -> None:
    client.set("key", "value")
    assert server.process
    server.process.kill()
    server.start()
    assert client.get("key") == b"value"


def test_a_paused_server_does_not_answer(server: Redis) -> None:
    with redis.Redis.from_url(server.url(), socket_timeout=0.2) as client:
        client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()


def test_failed_start_quotes_the_log(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    server.stop()
    with monkeypatch.context() as patched:
        patched.setitem(embedded.SETTINGS, "no-such-setting", "1")
        with pytest.raises(EmbeddedError, match=r"Redis ended with exit code 1[^$]*no-such-setting"):
            server.start()
    server.start()


def test_platform_without_a_redis_binary_is_an_error(
    server: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.stop()
    monkeypatch.setattr(embedded, "package_folder", lambda _: tmp_path)
    with pytest.raises(EmbeddedError, match="has no server for this platform"):
        server.start()
    monkeypatch.undo()
    server.start()
