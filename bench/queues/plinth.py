"""This service's engine, as `plinth worker` runs it: heartbeat, sweeps, reaper, metrics, liveness and a log line a job.

Of its settings only the number of jobs at once is another than the default of 20. Of 200 to 800, 400 drained fastest.
"""

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

        async def noop(ctx: JobContext, payload: Noop) -> None:
            self._ran(payload.number, payload.sent_at)

        self._noop = job("bench.noop")(noop)

    async def open(self) -> None:
        doorbell = doorbell_for(self._settings, open_redis(self._settings))
        self._database = Database(self._settings, session_info={DOORBELL: doorbell})

    async def install(self) -> None:
        from plinth.database.migrator import Migrator  # the worker does not load it

        await Migrator(self._settings).upgrade()

    async def clear(self) -> None:
        async with self._database.connection() as connection:
            await connection.execute("TRUNCATE job, job_history, worker_session")

    async def enqueue(self, number: int, sent_at: float) -> None:
        await enqueue(self._database, self._noop, Noop(number=number, sent_at=sent_at))

    async def enqueue_many(self, numbers: range, sent_at: float, delay: float = 0) -> None:
        payloads = [Noop(number=number, sent_at=sent_at) for number in numbers]
        await enqueue_many(self._database, self._noop, payloads, delay=delay)

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
                SELECT 'bench.noop', 'default', 0, '{{"number": 0, "sent_at": 0}}', 10, 1, 1, ago, ago, 'succeeded', ago
                FROM generate_series(1, {jobs}) n, LATERAL (SELECT now() - n * interval '0.1 second' AS ago);
                RESET statement_timeout;
                """,
                timeout=600,
            )

    async def add_scheduled(self, jobs: int) -> None:
        for first in range(0, jobs, BATCH):
            await self.enqueue_many(range(first, min(first + BATCH, jobs)), 0, delay=DAY)

    async def work(self, ran: Ran) -> None:
        self._ran = ran
        await run_worker(self._settings, queues=None, concurrency=CONCURRENCY, host="127.0.0.1")
