"""arq itself beside `plinth.jobs.arq`, where it is installed: its objects, its jobs in Redis, its times."""

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

arq = pytest.importorskip("arq", reason="the extra `arq` is not installed")

from arq.connections import RedisSettings  # noqa: E402
from arq.cron import next_cron  # noqa: E402

from notes.config import Settings  # noqa: E402
from plinth.database.engine import Database, bind_default_database  # noqa: E402
from plinth.jobs import hooks  # noqa: E402
from plinth.jobs.arq import ArqRedis, cron, register, registry  # noqa: E402
from plinth.jobs.arq.cron import expression, falls_on  # noqa: E402
from plinth.jobs.arq.registry import known  # noqa: E402
from plinth.jobs.arq.takeover import Report, client_of, take_over  # noqa: E402
from plinth.jobs.schedules import Schedule, schedules  # noqa: E402
from tests.plinth.integration.jobs.conftest import until, working  # noqa: E402

seen: list[Any] = []


async def retries(ctx: dict[str, Any], number: int) -> None:
    seen.append((ctx["job_id"], ctx["job_try"], number))
    if ctx["job_try"] < 3:
        raise arq.Retry(defer=0)


async def ticks(ctx: dict[str, Any]) -> None: ...


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[None]:
    monkeypatch.setattr(registry, "_functions", {})
    monkeypatch.setattr(hooks, "_lifespans", [])
    seen.clear()
    with bind_default_database(database):
        yield


async def test_module_that_imports_arq_itself_runs_as_it_is(settings: Settings) -> None:
    class WorkerSettings:
        functions = [arq.func(retries, name="retries", max_tries=3)]  # noqa: RUF012
        cron_jobs = [arq.cron(ticks, hour=3, minute=0)]  # noqa: RUF012

    register(WorkerSettings)
    assert schedules()["cron:ticks"].cron == "0 0 3 * * *"
    job = await ArqRedis().enqueue_job("retries", 7)
    assert job is not None
    with capture_logs():
        async with working(settings, *(function.kind for function in known())):
            ended = await until(job.result_info)
    assert ended.success
    assert seen == [(job.job_id, number, 7) for number in (1, 2, 3)]


async def test_jobs_that_arq_has_written_are_taken_over(redis_url: str, database: Database) -> None:
    register({"functions": [arq.func(retries, name="retries")]})
    settings = RedisSettings.from_dsn(redis_url)
    pool = await arq.create_pool(settings)
    due = datetime.now(UTC) + timedelta(hours=1)
    now = await pool.enqueue_job("retries", 1)
    await pool.enqueue_job("retries", 2, _job_id="later", _defer_until=due, _expires=timedelta(hours=2))
    async with client_of(settings) as redis:
        assert await take_over(redis, database, "arq:queue") == Report(waiting=2, taken=2)
    assert await pool.queued_jobs() == []
    async with database.connection() as connection:
        first, second = await connection.fetch("SELECT unique_key, run_at, payload FROM job ORDER BY run_at")
    assert (first["unique_key"], first["payload"]["args"], first["payload"]["expires"]) == (now.job_id, [1], None)
    assert (second["unique_key"], second["payload"]["args"]) == ("later", [2])
    assert abs(second["run_at"] - due) < timedelta(milliseconds=2)
    assert second["payload"]["expires"] is not None
    await pool.aclose()


async def test_worker_of_arq_leaves_a_job_alone_that_is_being_taken_over(redis_url: str, database: Database) -> None:
    register({"functions": [arq.func(retries, name="retries")]})
    pool = await arq.create_pool(RedisSettings.from_dsn(redis_url))
    await pool.enqueue_job("retries", 1, _job_try=3)
    await pool.set("arq:in-progress:claimed", b"plinth")
    await pool.enqueue_job("retries", 2, _job_id="claimed", _job_try=3)
    worker = arq.Worker([arq.func(retries, name="retries")], redis_pool=pool, handle_signals=False, poll_delay=0.05)
    running = asyncio.create_task(worker.async_run())
    await until(_anything)
    await asyncio.sleep(0.2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [number for _, _, number in seen] == [1]
    async with client_of(RedisSettings.from_dsn(redis_url)) as redis:
        assert await take_over(redis, database, "arq:queue") == Report(waiting=1, taken=1)
    await pool.aclose()


async def _anything() -> bool:
    return bool(seen)


def test_times_are_those_of_arq() -> None:
    ranges = {"second": range(60), "minute": range(60), "hour": range(24), "day": range(1, 29), "month": range(1, 13)}
    numbers = random.Random(7)
    for _ in range(50):
        chosen = [name for name in ranges if numbers.random() < 0.5]
        fields: dict[str, Any] = {name: set(numbers.sample(ranges[name], numbers.randint(1, 6))) for name in chosen}
        if numbers.random() < 0.5:
            fields["weekday"] = set(numbers.sample(range(7), 3))
        job = cron(ticks, **{"second": 0, **fields})
        schedule = Schedule("ticks", None, None, expression(job), "UTC", 0)  # type: ignore[arg-type]
        ours = theirs = datetime(2026, 1, 1, 12, 30, tzinfo=ZoneInfo("UTC"))
        for _ in range(20):
            theirs = next_cron(theirs, **{"second": 0, **fields}, microsecond=0)
            ours = schedule.next_slot(ours)
            while not falls_on(job, ours, "UTC"):
                ours = schedule.next_slot(ours)
            assert ours == theirs, fields
