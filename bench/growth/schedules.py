"""What a look at the schedules costs a worker, as they grow: while none is due, and when all are due at once."""

import asyncio
import contextlib
import statistics
import time
from dataclasses import dataclass
from datetime import timedelta

from pydantic import BaseModel

from bench.growth.service import Service
from plinth.database.engine import Database
from plinth.jobs import JobContext, job
from plinth.jobs.engine.scheduler import Scheduler
from plinth.jobs.schedules import Schedule
from plinth.settings import PlatformSettings
from plinth.telemetry.logging import configure_logging

__all__ = ["measure_schedules"]

COUNTS = (100, 1_000, 10_000)
TICK = 0.001


class Nothing(BaseModel):
    """An empty payload."""


@job("bench.scheduled")
async def scheduled(ctx: JobContext, payload: Nothing) -> None:
    """Do nothing."""


@dataclass
class Look:
    """Milliseconds that a look takes, and of them the most for which nothing else ran in the process."""

    took: float
    stood: float


def measure_schedules(service: Service, rounds: int, most: int) -> None:
    settings = PlatformSettings.isolated(DATABASE_URL=service.env["DATABASE_URL"], LOG_LEVEL="WARNING")
    configure_logging(settings)
    print("\n| Schedules | none due | all due at once |\n| ---: | ---: | ---: |")
    for count in (count for count in COUNTS if count <= most):
        idle, due = zip(*(asyncio.run(look(settings, count)) for _ in range(rounds)), strict=True)
        cells = []
        for looks in (idle, due):
            took, stood = (statistics.median(getattr(each, name) for each in looks) for name in ("took", "stood"))
            cells.append(f"{took:,.1f} ms, the loop stands {stood:,.1f}")
        print(f"| {count:,} | {' | '.join(cells)} |")


async def look(settings: PlatformSettings, count: int) -> tuple[Look, Look]:
    declared = {
        name: Schedule(name, scheduled, Nothing(), cron="*/5 * * * *", timezone="Europe/Berlin", catch_up=1)
        for name in (f"bench.schedule{number}" for number in range(count))
    }
    async with contextlib.aclosing(Database(settings)) as database:
        scheduler = Scheduler(database, declared)
        await scheduler.step()
        idle = await timed(scheduler)
        async with database.connection() as connection:
            await connection.execute("UPDATE job_schedule SET last_slot = now() - $1::interval", timedelta(hours=1))
        due = await timed(scheduler)
        async with database.connection() as connection:
            await connection.execute("TRUNCATE job_schedule, job")
    return idle, due


async def timed(scheduler: Scheduler) -> Look:
    stood = 0.0

    async def tick() -> None:
        nonlocal stood
        while True:
            before = time.perf_counter()
            await asyncio.sleep(TICK)
            stood = max(stood, time.perf_counter() - before - TICK)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(TICK * 10)
    stood, began = 0.0, time.perf_counter()
    await scheduler.step()
    took = time.perf_counter() - began
    await asyncio.sleep(TICK * 2)
    ticking.cancel()
    return Look(took * 1e3, stood * 1e3)
