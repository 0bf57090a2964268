"""pgqueuer, tuned: large batches, several connections, its own settings for autovacuum, durable tables.

Its batch size is the claim's and the completion's. Of 10 to 2000, 500 drained fastest, with a pool a little faster
than with one connection. It claims on without waiting for what it has claimed, unless told how many jobs it may have
at once; it is not told.
"""

import json
from datetime import timedelta
from typing import Any

import asyncpg
from pgqueuer import PgQueuer, Queries

from bench.queues.harness import Ran

BATCH = 500
WORKER_CONNECTIONS = 4


def pack(number: int, sent_at: float) -> bytes:
    return json.dumps([number, sent_at]).encode()


class Contender:
    _pool: Any
    _queries: Any

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._url = database_url

    async def open(self) -> None:
        self._pool = await asyncpg.create_pool(self._url, min_size=1)
        self._queries = Queries.from_asyncpg_pool(self._pool)

    async def install(self) -> None:
        await self._queries.install()
        await self._queries.optimize_autovacuum()

    async def clear(self) -> None:
        await self._pool.execute("TRUNCATE pgqueuer, pgqueuer_log, pgqueuer_statistics")

    async def enqueue(self, number: int, sent_at: float) -> None:
        await self._queries.enqueue("noop", pack(number, sent_at))

    async def enqueue_many(self, numbers: range, sent_at: float, delay: timedelta | None = None) -> None:
        jobs = len(numbers)
        payloads = [pack(number, sent_at) for number in numbers]
        await self._queries.enqueue(["noop"] * jobs, payloads, [0] * jobs, [delay] * jobs if delay else None)

    async def unfinished(self) -> bool:
        # A finished job leaves the table.
        return bool(await self._pool.fetchval("SELECT EXISTS (SELECT FROM pgqueuer WHERE execute_after <= now())"))

    async def add_history(self, jobs: int) -> None:
        await self._pool.execute(
            """
            INSERT INTO pgqueuer_log (created, job_id, status, priority, entrypoint, aggregated)
            SELECT now() - interval '1 day', -n, status, 0, 'noop', true
            FROM generate_series(1, $1::bigint) n, unnest('{queued,picked,successful}'::pgqueuer_status[]) status
            """,
            jobs,
            timeout=600,
        )

    async def add_scheduled(self, jobs: int) -> None:
        await self.enqueue_many(range(jobs), 0, timedelta(days=1))

    async def work(self, ran: Ran) -> None:
        pool = await asyncpg.create_pool(self._url, min_size=WORKER_CONNECTIONS, max_size=WORKER_CONNECTIONS)
        app = PgQueuer.from_asyncpg_pool(pool)

        async def noop(job: Any) -> None:
            ran(*json.loads(job.payload))

        app.entrypoint("noop")(noop)
        await app.run(batch_size=BATCH)
