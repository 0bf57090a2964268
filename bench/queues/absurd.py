"""absurd, tuned: eight workers in the one process, small batches, a quick poll, a queue that is not partitioned.

A worker has one connection, on which it completes its tasks one by one, and claims again when the whole batch has
ended. Of 1 to 32 workers, those with eight and more drained fastest; of batches of 5 to 300, those of 10 to 50.
Completed tasks are kept, as by default. The SDK spawns one task at a time; many are spawned by a statement that calls
absurd's own SQL function for each, four times as fast.
"""

import asyncio
import json
import os
from typing import Any

from absurd_sdk import AsyncAbsurd
from absurdctl import BUNDLED_SCHEMA_SQL
from psycopg import AsyncConnection

from bench.queues.harness import Ran

QUEUE = "bench"
WORKERS = 8
BATCH = 20
POLL_SECONDS = 0.02


class Contender:
    _connection: AsyncConnection[Any]
    _absurd: AsyncAbsurd

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._url = database_url

    async def open(self) -> None:
        self._connection = await AsyncConnection.connect(self._url, autocommit=True)
        self._absurd = AsyncAbsurd(self._connection, QUEUE)

    async def install(self) -> None:
        await self._connection.execute(BUNDLED_SCHEMA_SQL)  # as `absurdctl init` does
        await self._absurd.create_queue()

    async def clear(self) -> None:
        await self._connection.execute("TRUNCATE absurd.t_bench, absurd.r_bench, absurd.c_bench")

    async def enqueue(self, number: int, sent_at: float) -> None:
        await self._absurd.spawn("noop", [number, sent_at], queue=QUEUE)

    async def enqueue_many(self, numbers: range, sent_at: float) -> None:
        parameters = [json.dumps([number, sent_at]) for number in numbers]
        await self._connection.execute(
            "SELECT FROM unnest(%s::jsonb[]) given, absurd.spawn_task(%s, 'noop', given)", [parameters, QUEUE]
        )

    async def unfinished(self) -> bool:
        found = await self._connection.execute(
            "SELECT EXISTS (SELECT FROM absurd.r_bench WHERE state IN ('pending', 'running'))"
        )
        (answer,) = await found.fetchone() or (None,)
        return bool(answer)

    async def add_history(self, jobs: int) -> None:
        await self._connection.execute(
            """
            WITH done AS (
                INSERT INTO absurd.t_bench (task_id, task_name, params, enqueue_at, first_started_at, state, attempts,
                    last_attempt_run, completed_payload)
                SELECT gen_random_uuid(), 'noop', '[0, 0]', ago, ago, 'completed', 1, gen_random_uuid(), 'null'
                FROM generate_series(1, %s) n, LATERAL (SELECT now() - n * interval '0.1 second' AS ago)
                RETURNING *
            )
            INSERT INTO absurd.r_bench (run_id, task_id, attempt, state, claimed_by, claim_expires_at, available_at,
                started_at, completed_at, result, created_at)
            SELECT last_attempt_run, task_id, 1, 'completed', 'bench', enqueue_at + interval '2 minutes', enqueue_at,
                enqueue_at, enqueue_at, 'null', enqueue_at
            FROM done
            """,
            [jobs],
        )

    async def add_scheduled(self, jobs: int) -> None:
        raise NotImplementedError("absurd spawns no task for later (one that runs may sleep)")

    async def work(self, ran: Ran) -> None:
        steps = int(os.environ.get("BENCH_STEPS", "0"))

        async def nothing() -> None:
            pass

        async def noop(parameters: list[Any], context: Any) -> None:
            for step in range(steps):
                await context.step(f"step {step}", nothing)
            ran(*parameters)

        async def work_alone(number: int) -> None:
            absurd = AsyncAbsurd(self._url, QUEUE)
            absurd.register_task("noop")(noop)
            await absurd.start_worker(f"bench-{number}", concurrency=BATCH, poll_interval=POLL_SECONDS)

        await asyncio.gather(*(work_alone(number) for number in range(WORKERS)))
