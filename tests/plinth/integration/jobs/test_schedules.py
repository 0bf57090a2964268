"""Slots of schedules become jobs: each once, by the database's clock, whatever the workers do."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from plinth.database.engine import Database
from plinth.jobs import JobContext, Schedule, job, schedule
from plinth.jobs.engine.scheduler import Scheduler
from tests.plinth.integration.jobs.conftest import Jobs, Number


@pytest.fixture
def minutely() -> Schedule:
    @job("test.tick")
    async def tick(ctx: JobContext, payload: Number) -> None: ...

    return schedule(tick, Number(n=1), cron="* * * * *", catch_up=3)


@pytest.fixture
async def scheduler(database: Database, minutely: Schedule) -> Scheduler:
    scheduler = Scheduler(database)
    await scheduler.declare()
    return scheduler


async def rewind(jobs: Jobs, **by: float) -> None:
    await jobs.all("UPDATE job_schedule SET last_slot = date_trunc('minute', now()) - $1::interval", timedelta(**by))


class TestSlots:
    async def test_new_schedule_takes_no_past_slot(self, jobs: Jobs, scheduler: Scheduler) -> None:
        with capture_logs():
            wait = await scheduler.take_due()
        assert len(await jobs.all("SELECT FROM job")) <= 1  # the minute may have turned
        assert 0 < wait <= 30

    async def test_concurrent_schedulers_take_each_slot_once(
        self, database: Database, jobs: Jobs, scheduler: Scheduler
    ) -> None:
        await rewind(jobs, minutes=1)
        others = [Scheduler(database) for _ in range(8)]
        with capture_logs():
            await asyncio.gather(*(other.take_due() for other in others))
        rows = await jobs.all("SELECT kind, payload FROM job")
        assert [(row["kind"], row["payload"]) for row in rows] in (
            [("test.tick", {"n": 1})],
            [("test.tick", {"n": 1})] * 2,
        )
        slots = await jobs.one("SELECT extract(epoch FROM last_slot)::bigint % 60 AS second FROM job_schedule")
        assert slots["second"] == 0

    async def test_long_pause_without_workers_makes_up_only_catch_up_slots(
        self, jobs: Jobs, scheduler: Scheduler
    ) -> None:
        await rewind(jobs, days=400)
        with capture_logs():
            await scheduler.take_due()
            await scheduler.take_due()
        assert len(await jobs.all("SELECT FROM job")) in (3, 4)

    async def test_paused_schedule_takes_no_slot(self, jobs: Jobs, scheduler: Scheduler) -> None:
        await rewind(jobs, minutes=5)
        await jobs.all("UPDATE job_schedule SET paused_at = now()")
        await scheduler.take_due()
        assert await jobs.all("SELECT FROM job") == []

    async def test_schedule_paused_just_before_the_insert_takes_no_slot(
        self, jobs: Jobs, scheduler: Scheduler, minutely: Schedule
    ) -> None:
        await rewind(jobs, minutes=1)
        row = await jobs.one("SELECT last_slot, now() AS now FROM job_schedule")
        await jobs.all("UPDATE job_schedule SET paused_at = now()")
        await scheduler._take(minutely, row["last_slot"], minutely.due_slots(row["last_slot"], row["now"]))
        assert await jobs.all("SELECT FROM job") == []

    async def test_declaring_a_schedule_again_keeps_its_last_slot_and_pause(
        self, jobs: Jobs, scheduler: Scheduler
    ) -> None:
        await rewind(jobs, minutes=7)
        await jobs.all("UPDATE job_schedule SET paused_at = now(), cron = 'old'")
        before = await jobs.one("SELECT last_slot, paused_at FROM job_schedule")
        await scheduler.declare()
        after = await jobs.one("SELECT last_slot, paused_at, cron FROM job_schedule")
        assert (after["last_slot"], after["paused_at"]) == (before["last_slot"], before["paused_at"])
        assert after["cron"] == "* * * * *"
