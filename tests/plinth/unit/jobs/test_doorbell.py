"""The doorbell publishes with the request id of its caller only."""

import asyncio
from typing import Any

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
