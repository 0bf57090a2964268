"""The doorbell publishes with the request id of its caller only, and its failures fail nothing."""

import asyncio
from typing import Any

import pytest
from redis.exceptions import ReadOnlyError
from structlog.testing import capture_logs

from plinth.jobs.doorbell import Doorbell
from plinth.telemetry.log_records import request_id_var


class SlowRedis:
    """Records each message with its request id, and blocks until `go_on`."""

    def __init__(self) -> None:
        self.published: list[tuple[str | None, str]] = []
        self.go_on = asyncio.Event()

    async def publish(self, channel: str, message: str) -> None:
        self.published.append((request_id_var.get(), message))
        await self.go_on.wait()


async def ring(doorbell: Doorbell, name: str) -> None:
    request_id_var.set(name)
    doorbell.ring([name])
    await asyncio.sleep(0)


async def test_rings_during_a_publish_are_batched_without_a_request_id() -> None:
    redis: Any = SlowRedis()
    doorbell = Doorbell(redis, channel="any")
    for name in ("first", "second", "third"):
        await asyncio.create_task(ring(doorbell, name))
    redis.go_on.set()
    await doorbell.aclose()
    assert redis.published == [
        ("first", '{"queues": ["first"], "cancelled": []}'),
        (None, '{"queues": ["second", "third"], "cancelled": []}'),
    ]


async def test_rings_soon_after_a_publish_are_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plinth.jobs.doorbell._MERGE_SECONDS", 0.2)
    redis: Any = SlowRedis()
    redis.go_on.set()  # each publish ends at once
    doorbell = Doorbell(redis, channel="any")
    for name in ("first", "second", "third"):
        await asyncio.create_task(ring(doorbell, name))
        await asyncio.sleep(0.01)
    assert [message for _, message in redis.published] == ['{"queues": ["first"], "cancelled": []}']
    await doorbell.aclose()
    assert redis.published[1:] == [(None, '{"queues": ["second", "third"], "cancelled": []}')]


async def test_doorbell_closes_after_a_close_that_was_cut_off() -> None:
    redis: Any = SlowRedis()
    doorbell = Doorbell(redis, channel="any")
    doorbell.ring(["first"])
    closing = asyncio.create_task(doorbell.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    redis.go_on.set()
    await doorbell.aclose()


async def test_doorbell_waits_no_longer_than_a_moment_for_its_last_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plinth.jobs.doorbell._LAST_SECONDS", 0.01)
    redis: Any = SlowRedis()
    doorbell = Doorbell(redis, channel="any")
    doorbell.ring(["first"])
    async with asyncio.timeout(20):
        await doorbell.aclose()
    redis.go_on.set()  # as when the client is closed


class BrokenRedis:
    """Fails with errors of redis-py or of anything else, until it is mended."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error

    async def publish(self, channel: str, message: str) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [ReadOnlyError("READONLY x"), OSError(), UnicodeError(), AttributeError("x")])
async def test_ring_that_cannot_be_published_fails_nothing_and_is_told_once(error: Exception) -> None:
    redis: Any = BrokenRedis(error)
    doorbell = Doorbell(redis, channel="any")

    async def ring_twice() -> list[str]:
        with capture_logs() as logs:
            for _ in range(2):
                doorbell.ring(["default"])
                await doorbell.aclose()
        return [entry["event"] for entry in logs]

    assert await ring_twice() == ["workers are not woken"]
    assert await ring_twice() == []
    redis.error = None
    assert await ring_twice() == []
    redis.error = error
    assert await ring_twice() == ["workers are not woken"]
