"""DBOS Transact, tuned: blocking workflows on a pool of threads, a claim of many, a quick poll, connections unchecked.

It claims `worker_concurrency` less what runs, polls that often, and by default once a second. It writes each outcome by
itself, on the thread that ran the workflow; coroutines would go through a thread for that as well, and cost the worker
a third more. Finished workflows are kept, as by default. Many are enqueued in one transaction: there is no other call.
"""

import asyncio
import os
import threading
from typing import Any

import asyncpg
from dbos import DBOS, DBOSClient, EnqueueOptions, run_dbos_database_migrations
from sqlalchemy import create_engine

from bench.queues.harness import Ran

QUEUE = "bench"
CONCURRENCY = 1000
POLL_SECONDS = 0.01
THREADS = 10
DAY = 86_400
# Pickles of two numbers and of None, as DBOS keeps them.
INPUT, OUTPUT = "gASVJAAAAAAAAAB9lCiMBGFyZ3OUSwBHQOOWmr5SsJ6GlIwGa3dhcmdzlH2UdS4=", "gAROLg=="


class Contender:
    _client: DBOSClient
    _pool: Any

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._url = database_url
        self._engine = create_engine(database_url.replace("postgresql:", "postgresql+psycopg:"))

    async def open(self) -> None:
        self._pool = await asyncpg.create_pool(self._url, min_size=1)

    async def install(self) -> None:
        await asyncio.to_thread(run_dbos_database_migrations, self._url)
        self._client = DBOSClient(system_database_engine=self._engine)
        await self._client.register_queue_async(
            QUEUE, worker_concurrency=CONCURRENCY, polling_interval_sec=POLL_SECONDS
        )

    async def clear(self) -> None:
        await self._pool.execute("TRUNCATE dbos.workflow_status, dbos.workflow_input, dbos.workflow_output CASCADE")

    async def enqueue(self, number: int, sent_at: float) -> None:
        await self._client.enqueue_async({"workflow_name": "noop", "queue_name": QUEUE}, number, sent_at)

    async def enqueue_many(self, numbers: range, sent_at: float, delay: float | None = None) -> None:
        options: EnqueueOptions = {"workflow_name": "noop", "queue_name": QUEUE}
        if delay is not None:
            options["delay_seconds"] = delay

        def send() -> None:
            with self._engine.begin() as connection:
                for number in numbers:
                    self._client.enqueue_in_transaction(connection, options, number, sent_at)

        await asyncio.to_thread(send)

    async def unfinished(self) -> bool:
        found = "SELECT EXISTS (SELECT FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING'))"
        return bool(await self._pool.fetchval(found))

    async def add_history(self, jobs: int) -> None:
        await self._pool.execute(
            """
            WITH done AS (
                INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, priority, recovery_attempts,
                    serialization, executor_id, application_version, application_name, created_at, updated_at,
                    started_at_epoch_ms, completed_at)
                SELECT gen_random_uuid(), 'SUCCESS', 'noop', $2, 0, 1, 'py_pickle', 'local', 'bench', 'bench', ago, ago,
                    ago, ago
                FROM generate_series(1, $1::bigint) n,
                    LATERAL (SELECT (extract(epoch FROM now()) * 1000)::bigint - n * 100 AS ago)
                RETURNING workflow_uuid, completed_at
            ), given AS (
                INSERT INTO dbos.workflow_input (workflow_uuid, inputs, retention_timestamp)
                SELECT workflow_uuid, $3, completed_at FROM done
            )
            INSERT INTO dbos.workflow_output (workflow_uuid, output, retention_timestamp)
            SELECT workflow_uuid, $4, completed_at FROM done
            """,
            jobs,
            QUEUE,
            INPUT,
            OUTPUT,
            timeout=600,
        )

    async def add_scheduled(self, jobs: int) -> None:
        await self.enqueue_many(range(jobs), 0, DAY)

    async def work(self, ran: Ran) -> None:
        steps = int(os.environ.get("BENCH_STEPS", "0"))
        one_at_a_time = threading.Lock()  # of the witness, which counts

        @DBOS.step()  # type: ignore[untyped-decorator]
        def nothing() -> None:
            pass

        def noop(number: int, sent_at: float) -> None:
            for _ in range(steps):
                nothing()
            with one_at_a_time:
                ran(number, sent_at)

        DBOS.workflow(name="noop")(noop)
        DBOS(
            config={
                "name": "bench",
                "system_database_url": self._url,
                "application_version": "bench",
                "log_level": "WARNING",
                "max_executor_threads": THREADS,
                "sys_db_pool_size": THREADS,
                "db_engine_kwargs": {"pool_pre_ping": False},
                "run_migrations": False,
            }
        )
        DBOS.listen_queues([QUEUE])
        DBOS.launch()
        await asyncio.Event().wait()
