"""arq, tuned: JSON instead of pickle, no results, no log lines.

`poll_delay` is what decides: a worker looks for jobs so often, and not before even if it has nothing to do. With the
default of half a second and ten jobs at a time, arq drains 200 jobs a second. Raising `max_jobs` pays until about 50,
and `queue_read_limit` has to be well above it, since ids of running jobs are read again.
"""

import asyncio
import json
from datetime import timedelta
from typing import Any

from arq import ArqRedis, create_pool, func
from arq.connections import RedisSettings
from arq.constants import default_queue_name
from arq.utils import timestamp_ms
from arq.worker import Worker

from bench.queues.harness import Ran

SENDERS = 100


def to_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


class Contender:
    _redis: ArqRedis

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._settings = RedisSettings.from_dsn(redis_url)

    async def open(self) -> None:
        self._redis = await create_pool(self._settings, job_serializer=to_json, job_deserializer=json.loads)

    async def install(self) -> None:
        pass

    async def clear(self) -> None:
        await self._redis.flushdb()

    async def enqueue(self, number: int, sent_at: float, delay: timedelta | None = None) -> None:
        await self._redis.enqueue_job("noop", number, sent_at, _defer_by=delay)

    async def enqueue_many(self, numbers: range, sent_at: float, delay: timedelta | None = None) -> None:
        """Several at a time: arq has no call for many."""
        waiting = iter(numbers)

        async def send() -> None:
            for number in waiting:
                await self.enqueue(number, sent_at, delay)

        await asyncio.gather(*(send() for _ in range(SENDERS)))

    async def unfinished(self) -> bool:
        return bool(await self._redis.zcount(default_queue_name, "-inf", timestamp_ms()))

    async def add_history(self, jobs: int) -> None:
        """Without results nothing is kept of a finished job."""

    async def add_scheduled(self, jobs: int) -> None:
        await self.enqueue_many(range(jobs), 0, timedelta(days=1))

    async def work(self, ran: Ran) -> None:
        async def noop(ctx: dict[str, Any], number: int, sent_at: float) -> None:
            ran(number, sent_at)

        worker = Worker(
            [func(noop, name="noop")],
            redis_settings=self._settings,
            handle_signals=False,
            poll_delay=0.005,
            max_jobs=100,
            queue_read_limit=1000,
            keep_result=0,
            log_results=False,
            job_serializer=to_json,
            job_deserializer=json.loads,
        )
        await worker.async_run()
