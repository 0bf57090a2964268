"""procrastinate, tuned: ten jobs at once, a pool without a check at each use, each statement its own transaction.

It fetches and finishes jobs one by one, and of 1 to 50 at once ten drained fastest. A notification that comes while it
fetches is lost, so a short polling interval stands behind it. Finished jobs are kept, as by default.
"""

from typing import Any

from procrastinate import App, PsycopgConnector
from psycopg_pool import AsyncConnectionPool

from bench.queues.harness import Ran

CONCURRENCY = 10
POLL_SECONDS = 0.1


async def commit_each(connection: Any) -> None:
    await connection.set_autocommit(True)


class Contender:
    def __init__(self, database_url: str, redis_url: str) -> None:
        self._pool = AsyncConnectionPool(
            database_url, min_size=CONCURRENCY, max_size=CONCURRENCY, configure=commit_each, open=False
        )
        self._app = App(connector=PsycopgConnector())

        async def noop(number: int, sent_at: float) -> None:
            self._ran(number, sent_at)

        self._noop = self._app.task(noop, name="noop")
        self._ran: Ran

    async def open(self) -> None:
        await self._pool.open(wait=True)
        await self._app.open_async(self._pool)

    async def install(self) -> None:
        await self._app.schema_manager.apply_schema_async()

    async def clear(self) -> None:
        await self._execute("TRUNCATE procrastinate_jobs, procrastinate_workers CASCADE")

    async def _execute(self, statement: str, *arguments: Any) -> Any:
        async with self._pool.connection() as connection:
            return await connection.execute(statement, arguments)

    async def enqueue(self, number: int, sent_at: float) -> None:
        await self._noop.defer_async(number=number, sent_at=sent_at)

    async def enqueue_many(self, numbers: range, sent_at: float) -> None:
        await self._noop.batch_defer_async(*({"number": number, "sent_at": sent_at} for number in numbers))

    async def unfinished(self) -> bool:
        found = await self._execute(
            "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
            " AND (scheduled_at IS NULL OR scheduled_at <= now()))"
        )
        return bool((await found.fetchone())[0])

    async def add_history(self, jobs: int) -> None:
        await self._execute(
            """
            WITH done AS (
                INSERT INTO procrastinate_jobs (queue_name, task_name, args, status, attempts)
                SELECT 'default', 'noop', '{"number": 0, "sent_at": 0}', 'succeeded', 1 FROM generate_series(1, %s)
                RETURNING id
            )
            INSERT INTO procrastinate_events (job_id, type, at)
            SELECT id, type, now() - interval '1 day'
            FROM done, unnest('{deferred,started,succeeded}'::procrastinate_job_event_type[]) type
            """,
            jobs,
        )

    async def add_scheduled(self, jobs: int) -> None:
        later = self._noop.configure(schedule_in={"days": 1})
        await later.batch_defer_async(*({"number": number, "sent_at": 0} for number in range(jobs)))

    async def work(self, ran: Ran) -> None:
        self._ran = ran
        await self.open()
        await self._app.run_worker_async(
            concurrency=CONCURRENCY, fetch_job_polling_interval=POLL_SECONDS, install_signal_handlers=False
        )
