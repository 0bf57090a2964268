"""Two services on one Redis do not hear each other's doorbell."""

import asyncio
from contextlib import suppress

from plinth.jobs.doorbell import Doorbell, doorbell_for
from plinth.redis.client import close_redis, open_redis
from tests.support.notes import settings_with


async def first_ring(doorbell: Doorbell, connected: asyncio.Event) -> set[str]:
    async for queues, _ in doorbell.listen():
        connected.set()
        if queues:
            return queues
    raise AssertionError("it stopped listening")


async def test_doorbell_reaches_only_workers_of_its_own_service(redis_url: str) -> None:
    one = settings_with(REDIS_URL=redis_url, DATABASE_URL="postgresql://u:p@db/orders")
    pooled = settings_with(REDIS_URL=redis_url, DATABASE_URL="postgresql://v:q@pooler:6543/orders")
    other = settings_with(REDIS_URL=redis_url, DATABASE_URL="postgresql://u:p@db/invoices")
    redis = open_redis(one)
    listening = [asyncio.Event() for _ in range(2)]
    async with asyncio.TaskGroup() as tasks:
        own = tasks.create_task(first_ring(doorbell_for(pooled, redis), listening[0]))
        foreign = tasks.create_task(first_ring(doorbell_for(other, redis), listening[1]))
        for connected in listening:
            await connected.wait()

        doorbell = doorbell_for(one, redis)
        doorbell.ring(["default"])
        await doorbell.aclose()

        async with asyncio.timeout(20):
            assert await own == {"default"}
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.shield(foreign)
        assert not foreign.done()
        foreign.cancel()
    await close_redis(redis)
