"""This service's engine, as `plinth worker` runs it: heartbeat, sweeps, reaper, metrics, liveness and a log line a job.

Of its settings only the number of jobs at once is another than the default of 20. Of 200 to 800, 400 drained fastest.

For `bench/growth/jobs.py`, BENCH_KINDS says how many kinds there are, and JOBS_QUEUES which queues; jobs are dealt out.
"""

import itertools
import os

from pydantic import BaseModel

from app.core.config import get_settings
from bench.queues.harness import Ran
from plinth.database.engine import Database
from plinth.jobs import JobContext, enqueue, enqueue_many, job
from plinth.jobs.doorbell import DOORBELL, doorbell_for
from plinth.jobs.engine.worker import run_worker
from plinth.redis.client import open_redis
from plinth.telemetry.logging import configure_logging

CONCURRENCY = 400
DAY = 86_400
BATCH = 10_000


class Noop(BaseModel):
    number: int
    sent_at: float


class Contender:
    _database: Database
    _ran: Ran

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._settings = get_settings()  # both addresses among them
        configure_logging(self._settings)

        steps = int(os.environ.get("BENCH_STEPS", "0"))

        async def nothing() -> None:
            pass

        async def noop(ctx: JobContext, payload: Noop) -> None:
            for step in range(steps):
                await ctx.step(f"step {step}", nothing)
            self._ran(payload.number, payload.sent_at)

        self._noop, *others = (job(f"bench.noop{n}")(noop) for n in range(int(os.environ.get("BENCH_KINDS", "1"))))
        self._places = list(itertools.product([self._noop, *others], self._settings.JOBS_QUEUES))

    async def open(self) -> None:
        doorbell = doorbell_for(self._settings, open_redis(self._settings))
        self._database = Database(self._settings, session_info={DOORBELL: doorbell})

    async def install(self) -> None:
        from plinth.database.migrator import Migrator  # the worker does not load it

        await Migrator(self._settings).upgrade()

    async def clear(self) -> None:
        async with self._database.connection() as connection:
            await connection.execute("TRUNCATE job, job_history, job_step, worker_session")

    async def enqueue(self, number: int, sent_at: float) -> None:
        await enqueue(self._database, self._noop, Noop(number=number, sent_at=sent_at))

    async def enqueue_many(self, numbers: range, sent_at: float, delay: float = 0) -> None:
        for first in range(0, len(numbers), BATCH):
            batch = numbers[first : first + BATCH]
            for place, (kind, queue) in enumerate(self._places):
                payloads = [Noop(number=number, sent_at=sent_at) for number in batch[place :: len(self._places)]]
                await enqueue_many(self._database, kind, payloads, queue=queue, delay=delay)

    async def unfinished(self) -> bool:
        # A finished job leaves the table.
        async with self._database.connection() as connection:
            return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM job WHERE state <> 'scheduled')"))

    async def add_history(self, jobs: int) -> None:
        async with self._database.connection() as connection:
            await connection.execute(
                f"""
                SET statement_timeout = 0;
                INSERT INTO job_history (kind, queue, priority, payload, max_attempts, attempt, run_lease, run_at,
                    started_at, state, finished_at)
                SELECT 'bench.noop0', 'default', 0, '{{"number": 0, "sent_at": 0}}', 10, 1, 1, ago, ago, 'succeeded',
                    ago
                FROM generate_series(1, {jobs}) n, LATERAL (SELECT now() - n * interval '0.01 second' AS ago);
                RESET statement_timeout;
                """,
                timeout=600,
            )

    async def add_scheduled(self, jobs: int) -> None:
        await self.enqueue_many(range(jobs), 0, delay=DAY)

    async def work(self, ran: Ran) -> None:
        self._ran = ran
        await run_worker(self._settings, queues=None, concurrency=CONCURRENCY, host="127.0.0.1")
