"""A worker behind PgBouncer or Supavisor in transaction mode: no session settings, no prepared statements, and each
transaction on another server connection."""

import asyncio
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import JobContext, enqueue_many, job
from tests.plinth.integration.jobs.conftest import Jobs, Number, until, working
from tests.support.transaction_pooler import transaction_pooler


async def test_worker_works_through_a_transaction_pooler(
    settings: Settings, database: Database, jobs: Jobs, database_url: str, tmp_path: Path
) -> None:
    @job("test.plain")
    async def plain(ctx: JobContext, payload: Number) -> None:
        ctx.progress(1, 1)
        await asyncio.sleep(0.005)

    @job("test.limited", max_running=1)
    async def limited(ctx: JobContext, payload: Number) -> None:
        async with ctx.session() as session:
            await ctx.complete(session)

    parts = urlsplit(database_url)
    server = Path(parse_qs(parts.query)["host"][0]) / ".s.PGSQL.5432"
    async with transaction_pooler(server, tmp_path) as folder:
        url = f"postgresql://{parts.username}@{parts.path}?host={folder}"
        pooled = settings.model_copy(
            update={
                "DATABASE_URL": type(settings.DATABASE_URL)(url),
                "DB_TRANSACTION_POOLER": True,
                "JOBS_SESSION_TIMEOUT": 2.0,
            }
        )
        async with database.session() as session:
            await enqueue_many(session, plain, [Number(n=n) for n in range(60)])
            await enqueue_many(session, limited, [Number(n=n) for n in range(20)])
        async with working(pooled, plain, limited):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 79"))
    rows = await jobs.all("SELECT state, run_lease, count(*) FROM job_history GROUP BY 1, 2")
    assert [tuple(row) for row in rows] == [("succeeded", 1, 80)]
