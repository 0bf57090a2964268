"""Slots of schedules become jobs: each once, by the database's clock, whatever the workers do."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import JobContext, RetryPolicy, Schedule, enqueue, job, schedule
from plinth.jobs.engine.scheduler import TAKE, TAKE_FREE, TOGETHER, Due, Scheduler
from plinth.jobs.schedules import Overlap
from tests.plinth.integration.jobs.conftest import Jobs, Number, until, working


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
        due = Due(minutely, row["last_slot"], minutely.due_slots(row["last_slot"], row["now"]))
        for take in (TAKE, TAKE_FREE):
            await scheduler._take([due], take)
        assert await jobs.all("SELECT FROM job") == []

    async def test_declaring_a_schedule_again_keeps_its_last_slot_and_pause(
        self, jobs: Jobs, scheduler: Scheduler
    ) -> None:
        await rewind(jobs, minutes=7)
        await jobs.all("UPDATE job_schedule SET paused_at = now()")
        before = await jobs.one("SELECT last_slot, paused_at FROM job_schedule")
        await scheduler.declare()
        after = await jobs.one("SELECT last_slot, paused_at FROM job_schedule")
        assert after[:] == before[:]

    @pytest.mark.parametrize("change", ["cron = '0 5 * * *'", "timezone = 'Asia/Tokyo'", "retired_at = now()"])
    async def test_changed_or_returning_schedule_takes_no_slot_of_the_past(
        self, jobs: Jobs, scheduler: Scheduler, change: str
    ) -> None:
        """It fired at once when the version was deployed."""
        await rewind(jobs, days=2)
        await jobs.all(f"UPDATE job_schedule SET paused_at = now(), {change}")
        await scheduler.declare()
        row = await jobs.one("SELECT now() - last_slot AS age, cron, paused_at, retired_at FROM job_schedule")
        assert row["age"] < timedelta(minutes=1)
        assert (row["cron"], row["paused_at"] is None, row["retired_at"]) == ("* * * * *", False, None)

    async def test_schedule_that_is_not_declared_any_more_is_retired(
        self, database: Database, jobs: Jobs, scheduler: Scheduler, minutely: Schedule
    ) -> None:
        other = replace(minutely, name="other")
        await Scheduler(database, {"other": other}).declare()
        retired = await jobs.all("SELECT name FROM job_schedule WHERE retired_at IS NOT NULL")
        assert [row["name"] for row in retired] == ["test.tick"]


class TestMany:
    """Ten thousand schedules stood a worker for a second at each look, and were taken one by one."""

    @pytest.fixture
    async def many(self, database: Database, minutely: Schedule) -> Scheduler:
        named = (replace(minutely, name=f"many{number}", payload=Number(n=number)) for number in range(TOGETHER * 2))
        scheduler = Scheduler(database, {each.name: each for each in named})
        await scheduler.declare()
        return scheduler

    async def test_slots_of_many_schedules_are_taken_in_a_few_transactions(
        self, jobs: Jobs, many: Scheduler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        groups = []
        take = Scheduler._take

        async def counted(self: Scheduler, group: Sequence[Due], statement: str) -> None:
            groups.append(len(group))
            await take(self, group, statement)

        monkeypatch.setattr(Scheduler, "_take", counted)
        await rewind(jobs, minutes=1)
        with capture_logs() as entries:
            await many.take_due()
        assert groups[:2] == [TOGETHER, TOGETHER]
        assert len(groups) <= 4  # the minute may have turned
        rows = await jobs.all("SELECT DISTINCT unique_key, payload ->> 'n' AS n FROM job")
        assert {(row["unique_key"].split()[1], row["n"]) for row in rows} == {
            (f"many{number}", str(number)) for number in range(TOGETHER * 2)
        }
        assert {entry["schedule"] for entry in entries if entry["event"] == "slots taken"} == set(many._schedules)
        slots = await jobs.all("SELECT count(*) FROM job WHERE slot_at = date_trunc('minute', slot_at)")
        assert slots[0]["count"] >= TOGETHER * 2

    async def test_next_slot_is_looked_for_once(
        self, jobs: Jobs, many: Scheduler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """CronSim takes 45 µs: for each look and schedule, that held up the whole process."""
        asked = []
        next_slot = Schedule.next_slot

        def counted(self: Schedule, after: datetime) -> datetime:
            asked.append(after)
            return next_slot(self, after)

        monkeypatch.setattr(Schedule, "next_slot", counted)
        await jobs.all("UPDATE job_schedule SET last_slot = now() + interval '1 hour'")
        for _ in range(3):
            await many.take_due()
        assert len(asked) == TOGETHER * 2

    async def test_look_at_many_schedules_lets_others_run(
        self, many: Scheduler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        turns: list[float] = []
        sleep = asyncio.sleep

        async def counted(seconds: float) -> None:
            turns.append(seconds)
            await sleep(seconds)

        monkeypatch.setattr("plinth.jobs.engine.scheduler.asyncio.sleep", counted)
        await many._look()
        assert turns.count(0) >= 2  # once for each hundred

    async def test_one_that_fails_leaves_the_others_of_its_group(
        self, database: Database, jobs: Jobs, many: Scheduler, minutely: Schedule
    ) -> None:
        broken = replace(minutely, name="broken", payload=minutely.payload.model_copy(update={"n": float("inf")}))
        all_of_them = Scheduler(database, {"broken": broken, **many._schedules})
        await all_of_them.declare()
        await rewind(jobs, minutes=1)
        with capture_logs() as entries:
            assert await all_of_them.take_due() <= 1
        taken = await jobs.one("SELECT count(DISTINCT split_part(unique_key, ' ', 2)) FROM job")
        assert taken["count"] == TOGETHER * 2
        failed = [entry["schedule"] for entry in entries if entry["event"] == "a slot cannot be taken"]
        assert failed == ["broken"]


class TestFailures:
    async def test_schedule_that_cannot_be_taken_stops_no_other(
        self, database: Database, jobs: Jobs, minutely: Schedule
    ) -> None:
        broken = replace(minutely, name="a", payload=minutely.payload.model_copy(update={"n": float("inf")}))
        both = Scheduler(database, {"a": broken, "test.tick": minutely})
        await both.declare()
        await rewind(jobs, minutes=1)
        with capture_logs() as entries:
            assert await both.take_due() <= 1
        taken = await jobs.all("SELECT DISTINCT split_part(unique_key, ' ', 2) AS schedule FROM job")
        assert [row["schedule"] for row in taken] == ["test.tick"]
        assert [entry["schedule"] for entry in entries if entry["event"] == "a slot cannot be taken"] == ["a"]

    @pytest.mark.parametrize("locked", ["the schedule", "the key of its slot"])
    async def test_schedule_that_waits_for_a_transaction_stops_no_other(
        self, database: Database, jobs: Jobs, minutely: Schedule, locked: str
    ) -> None:
        waits = replace(minutely, name="a", overlap="skip")
        both = Scheduler(database, {"a": waits, "test.tick": minutely})
        await both.declare()
        await rewind(jobs, minutes=1)
        async with database.session() as open_transaction:
            if locked == "the schedule":
                statement = "UPDATE job_schedule SET paused_at = now() WHERE name = 'a'"
                await (await open_transaction.connection()).exec_driver_sql(statement)
            else:
                await enqueue(open_transaction, minutely.kind, Number(), unique_key="schedule a", queue="elsewhere")
            with capture_logs() as entries:
                async with asyncio.timeout(8):
                    assert await both.take_due() <= 1
            await open_transaction.rollback()
        taken = "SELECT DISTINCT split_part(unique_key, ' ', 2) AS schedule FROM job ORDER BY 1"
        assert [row["schedule"] for row in await jobs.all(taken)] == ["test.tick"]
        assert [entry["schedule"] for entry in entries if entry["event"] == "a slot is put off"] == ["a"]
        with capture_logs():
            await both.take_due()
        assert [row["schedule"] for row in await jobs.all(taken)] == ["a", "test.tick"]


class TestOverlap:
    async def slot_comes(self, jobs: Jobs, scheduler: Scheduler) -> None:
        await rewind(jobs, minutes=1)
        with capture_logs():
            await scheduler.take_due()

    @pytest.mark.parametrize("state", ["available", "running"])
    @pytest.mark.parametrize("overlap", ["queue", "skip", "cancel"])
    async def test_slot_while_an_earlier_job_is_still_to_be_done(
        self, database: Database, jobs: Jobs, minutely: Schedule, overlap: Overlap, state: str
    ) -> None:
        scheduler = Scheduler(database, {"test.tick": replace(minutely, overlap=overlap, catch_up=1)})
        await scheduler.declare()
        await self.slot_comes(jobs, scheduler)
        # As if it were the job of an earlier slot.
        key = "regexp_replace(unique_key, '2[0-9]{3}-', '1999-')"
        await jobs.all(f"UPDATE job SET state = $1, unique_key = {key}", state)
        (first,) = await jobs.all("SELECT id FROM job")
        await self.slot_comes(jobs, scheduler)
        live = await jobs.all("SELECT id, slot_at, cancel_requested_at FROM job ORDER BY id")
        found = {row["id"]: row for row in live}
        assert len(found) == {"queue": 2, "skip": 1, "cancel": 1 + (state == "running")}[overlap]
        if overlap == "cancel" and state == "available":
            assert await jobs.state(first["id"]) == "cancelled"
        else:
            cancelled = found[first["id"]]["cancel_requested_at"] is not None
            assert cancelled is (overlap == "cancel")

    async def test_slot_that_cancels_an_earlier_job_cancels_its_children(
        self, database: Database, jobs: Jobs, minutely: Schedule
    ) -> None:
        scheduler = Scheduler(database, {"test.tick": replace(minutely, overlap="cancel", catch_up=1)})
        await scheduler.declare()
        await self.slot_comes(jobs, scheduler)
        await jobs.all("UPDATE job SET unique_key = regexp_replace(unique_key, '2[0-9]{3}-', '1999-')")
        first = (await jobs.one("SELECT id FROM job"))["id"]
        children = uuid4()
        await jobs.all("INSERT INTO job_batch (id, parent_id) VALUES ($1, $2)", children, first)
        await enqueue(database, minutely.kind, Number(), batch=children)
        await self.slot_comes(jobs, scheduler)
        ended = await jobs.all("SELECT batch_id FROM job_history WHERE state = 'cancelled' ORDER BY batch_id")
        assert [row["batch_id"] for row in ended] == [children, None]
        assert (await jobs.one("SELECT finished_at FROM job_batch"))["finished_at"] is not None

    async def test_slot_cancels_no_job_of_a_schedule_with_a_longer_name(
        self, database: Database, jobs: Jobs, minutely: Schedule
    ) -> None:
        longer = Scheduler(database, {"test.tick:b": replace(minutely, name="test.tick:b", catch_up=1)})
        await longer.declare()
        await self.slot_comes(jobs, longer)
        shorter = Scheduler(database, {"test.tick": replace(minutely, overlap="cancel", catch_up=1)})
        await shorter.declare()
        await self.slot_comes(jobs, shorter)
        assert len(await jobs.all("SELECT FROM job")) == 2
        assert await jobs.all("SELECT FROM job_history") == []

    async def test_handler_knows_the_slot_of_its_job(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        slots: list[datetime | None] = []

        @job("test.told", retry=RetryPolicy(max_attempts=2, base=0.01, ceiling=0.01))
        async def told(ctx: JobContext, payload: Number) -> None:
            slots.append(ctx.slot)
            if len(slots) == 1:
                raise ValueError

        scheduler = Scheduler(database, {"told": schedule(told, Number(), cron="* * * * *", name="told", catch_up=1)})
        await scheduler.declare()
        await self.slot_comes(jobs, scheduler)
        last = (await jobs.one("SELECT last_slot FROM job_schedule WHERE name = 'told'"))["last_slot"]
        with capture_logs():
            async with working(settings, told):
                await until(lambda: jobs.all("SELECT FROM job_history WHERE slot_at IS NOT NULL"))
        assert slots[:2] == [last, last]
