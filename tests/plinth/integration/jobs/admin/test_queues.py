"""What operators see and do: dead letters, queues, workers, schedules."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from notes.config import Settings
from plinth.database.engine import Database
from plinth.errors import NotFoundError
from plinth.jobs import JobContext, Schedule, enqueue, enqueue_many, job, schedule
from plinth.jobs import schedules as schedules_module
from plinth.jobs.admin.queues import (
    QueueRead,
    ScheduleRead,
    count_queues,
    list_schedules,
    list_workers,
    pause_queue,
    pause_schedule,
    resume_queue,
    resume_schedule,
    retry_dead_letters,
    run_schedule,
)
from plinth.jobs.admin.sql import QUEUE_COUNTS
from plinth.jobs.engine.scheduler import Scheduler
from plinth.jobs.kinds import JobKind
from tests.plinth.integration.jobs.conftest import OLGA, Jobs, Number, open_store, until, working


@pytest.fixture
def task() -> JobKind[Number]:
    @job("test.task")
    async def task(ctx: JobContext, payload: Number) -> None:
        pass

    return task


async def discarded(jobs: Jobs, *, kind: str = "test.task", days_ago: float = 0, unique_key: str | None = None) -> UUID:
    row = await jobs.one(
        "INSERT INTO job_history (kind, queue, priority, payload, max_attempts, run_at, state, finished_at, unique_key,"
        " attempt, run_lease) VALUES ($1, 'default', 0, '{}', 1, now(), 'discarded', now() - $2::interval, $3, 1, 1)"
        " RETURNING id",
        kind,
        timedelta(days=days_ago),
        unique_key,
    )
    job_id: UUID = row["id"]
    return job_id


async def retry_all(database: Database, **options: Any) -> int:
    async with database.session() as session:
        return await retry_dead_letters(session, by=OLGA, **options)


async def live(jobs: Jobs) -> set[UUID]:
    return {row["id"] for row in await jobs.all("SELECT id FROM job")}


class TestDeadLetters:
    async def test_bulk_retry_brings_all_dead_letters_back(self, database: Database, jobs: Jobs) -> None:
        ids = {await discarded(jobs) for _ in range(3)}
        assert await retry_all(database) == 3
        assert await live(jobs) == ids
        row = (await jobs.all("SELECT * FROM job"))[0]
        assert (row["state"], row["attempt"], row["run_lease"]) == ("available", 0, 2)
        assert await retry_all(database) == 0

    async def test_bulk_retry_leaves_cancelled_jobs(self, database: Database, jobs: Jobs) -> None:
        await discarded(jobs)
        await jobs.all("UPDATE job_history SET state = 'cancelled'")
        assert await retry_all(database) == 0

    async def test_bulk_retry_filters_by_kind_and_time_oldest_first(self, database: Database, jobs: Jobs) -> None:
        now = datetime.now(UTC)
        old, middle, new = [await discarded(jobs, days_ago=days) for days in (30, 20, 10)]
        other = await discarded(jobs, kind="test.other", days_ago=20)
        assert await retry_all(database, kind="test.other") == 1
        assert await live(jobs) == {other}
        window = {"since": now - timedelta(days=25), "until": now - timedelta(days=15)}
        assert await retry_all(database, **window) == 1
        assert await live(jobs) == {other, middle}
        assert await retry_all(database, limit=1) == 1
        assert await live(jobs) == {other, middle, old}
        assert (await jobs.one("SELECT id FROM job_history"))["id"] == new

    async def test_bulk_retry_skips_dead_letters_with_a_taken_unique_key(
        self, database: Database, jobs: Jobs, task: JobKind[Number]
    ) -> None:
        async with database.session() as session:
            alive = await enqueue(session, task, Number(), unique_key="taken")
        barred = [await discarded(jobs, unique_key="taken", days_ago=9) for _ in range(3)]
        free = await discarded(jobs, unique_key="free")
        assert await retry_all(database, limit=2) == 1
        assert await live(jobs) == {alive.id, free}
        assert {row["id"] for row in await jobs.all("SELECT id FROM job_history")} == set(barred)

    async def test_bulk_retry_brings_back_one_dead_letter_of_each_unique_key(
        self, database: Database, jobs: Jobs
    ) -> None:
        first, second = [await discarded(jobs, unique_key="k", days_ago=days) for days in (2, 1)]
        assert await retry_all(database, dry_run=True) == 1
        assert await retry_all(database) == 1
        assert await live(jobs) == {first}
        assert (await jobs.one("SELECT id FROM job_history"))["id"] == second

    async def test_dry_run_of_a_bulk_retry_only_counts(self, database: Database, jobs: Jobs) -> None:
        for _ in range(3):
            await discarded(jobs)
        assert await retry_all(database, dry_run=True) == 3
        assert await retry_all(database, dry_run=True, limit=2) == 2
        assert await live(jobs) == set()

    async def test_concurrent_bulk_retries_bring_each_dead_letter_back_once(
        self, database: Database, jobs: Jobs
    ) -> None:
        ids = {await discarded(jobs) for _ in range(50)}
        counts = await asyncio.gather(*(retry_all(database, limit=20) for _ in range(5)))
        assert sum(counts) == len(await live(jobs)) <= len(ids)
        assert {row["run_lease"] for row in await jobs.all("SELECT run_lease FROM job")} == {2}


async def counts_of_queues(database: Database) -> dict[str, QueueRead]:
    async with database.session() as session:
        return {queue.name: queue for queue in await count_queues(session)}


class TestQueues:
    async def test_counts_of_a_long_queue_read_a_bounded_number_of_rows(self, jobs: Jobs) -> None:
        await jobs.all(
            """
            INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state)
            SELECT 'test.task', 'default', n % 3, '{}', 1, now(), 'available' FROM generate_series(1, 30000) AS n
            """
        )
        await jobs.all("ANALYZE job")
        rows = await jobs.all(f"EXPLAIN (ANALYZE, FORMAT JSON) {QUEUE_COUNTS}")

        def read(plan: dict[str, Any]) -> float:
            rows: float = plan["Actual Rows"] * plan["Actual Loops"] if plan.get("Relation Name") == "job" else 0
            return rows + sum(read(child) for child in plan.get("Plans", []))

        assert read(rows[0][0][0]["Plan"]) < 10_100  # those that are counted, and one for each priority

    async def test_queue_counts_are_empty_without_jobs(self, database: Database) -> None:
        assert await counts_of_queues(database) == {}

    async def test_queue_counts_show_each_state_of_each_queue(
        self, database: Database, jobs: Jobs, task: JobKind[Number]
    ) -> None:
        async with database.session() as session:
            await enqueue_many(session, task, [Number()] * 3, priority=-5)
            await enqueue_many(session, task, [Number()] * 2, queue="a", priority=5)
            await enqueue_many(session, task, [Number()] * 4, queue="b", delay=60)
            await enqueue_many(session, task, [Number()] * 2, queue="c", delay=60)
            await pause_queue(session, "b", by=OLGA)
            await pause_queue(session, "z", by=OLGA)
        await jobs.all("UPDATE job SET state = 'retryable' WHERE queue = 'c'")
        await (await open_store(database)).claim(["default"], {"test.task": task}, 2)
        found = await counts_of_queues(database)
        ages = {name: found[name].oldest_due_age for name in found}
        assert {
            name: (queue.paused, queue.available, queue.scheduled, queue.retryable, queue.running)
            for name, queue in found.items()
        } == {
            "a": (False, 2, 0, 0, 0),
            "b": (True, 0, 4, 0, 0),
            "c": (False, 0, 0, 2, 0),
            "default": (False, 1, 0, 0, 2),
            "z": (True, 0, 0, 0, 0),
        }
        assert [name for name, age in ages.items() if age is not None] == ["a", "default"]

    async def test_oldest_due_age_covers_every_kind_priority_and_state(
        self, database: Database, jobs: Jobs, task: JobKind[Number]
    ) -> None:
        @job("test.another")
        async def another(ctx: JobContext, payload: Number) -> None:
            pass

        async with database.session() as session:
            await enqueue(session, another, Number())
            for priority, minutes in ((0, 1), (1, 3), (2, 2)):
                at = datetime.now(UTC) - timedelta(minutes=minutes)
                await enqueue(session, task, Number(), priority=priority, run_at=at)
        age = (await counts_of_queues(database))["default"].oldest_due_age
        assert age is not None
        assert 180 <= age < 240
        # Suspects count as well.
        await jobs.all("UPDATE job SET crash_count = 2 WHERE priority = 1")
        found = (await counts_of_queues(database))["default"]
        assert found.available == 4
        assert found.oldest_due_age is not None
        assert found.oldest_due_age >= 180
        # Without a live worker no sweep makes due jobs available.
        await jobs.all("UPDATE job SET state = 'scheduled', run_at = now() - interval '1 hour' WHERE priority = 2")
        age = (await counts_of_queues(database))["default"].oldest_due_age
        assert age is not None
        assert age >= 3600

    async def test_queue_counts_stop_at_their_cap(self, database: Database, jobs: Jobs) -> None:
        await jobs.all(
            "INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state)"
            " SELECT 'test.task', queue, 0, '{}', 1, now() + interval '1 hour', state FROM generate_series(1, 30000),"
            " (VALUES ('default', 'available'), ('later', 'scheduled')) AS line (queue, state)"
        )
        found = await counts_of_queues(database)
        assert found["default"].available == 10_000
        assert found["later"].scheduled == 10_000

    async def test_paused_queue_runs_no_job_until_it_is_resumed(
        self, settings: Settings, database: Database, jobs: Jobs, task: JobKind[Number]
    ) -> None:
        async with database.session() as session:
            await pause_queue(session, "side", by=OLGA)
            await pause_queue(session, "side", by=OLGA)
            barred = await enqueue(session, task, Number(), queue="side")
            free = await enqueue(session, task, Number())
        # Only the doorbell can explain that it runs once the queue is resumed.
        deaf = settings.model_copy(update={"JOBS_POLL_INTERVAL": 3600.0})
        async with working(deaf, task, queues=["default", "side"]):
            await jobs.end_of(free.id)
            assert await jobs.state(barred.id) == "available"
            async with database.session() as session:
                await resume_queue(session, "side", by=OLGA)
            await jobs.end_of(barred.id)
        assert await counts_of_queues(database) == {}

    @pytest.mark.parametrize("change", [pause_queue, resume_queue])
    async def test_invalid_queue_name_is_refused(self, database: Database, change: Any) -> None:
        async with database.session() as session:
            with pytest.raises(ValueError, match="not a name"):
                await change(session, "no spaces", by=OLGA)


class TestWorkers:
    async def test_workers_are_listed_with_queues_kinds_and_running_jobs(
        self, settings: Settings, database: Database, task: JobKind[Number]
    ) -> None:
        @job("test.long")
        async def long(ctx: JobContext, payload: Number) -> None:
            await asyncio.sleep(3600)

        async def busy() -> Any:
            async with database.session() as session:
                return [worker for worker in await list_workers(session) if worker.running]

        async with database.session() as session:
            await enqueue(session, long, Number())
        async with working(settings, long, task, queues=["default", "side"], concurrency=7):
            (worker,) = await until(busy)
        assert (worker.queues, worker.kinds) == (["default", "side"], ["test.long", "test.task"])
        assert (worker.concurrency, worker.running, worker.status) == (7, 1, "alive")
        async with database.session() as session:
            assert await list_workers(session) == []

    async def test_stopping_and_lost_workers_are_listed_as_such(self, database: Database, jobs: Jobs) -> None:
        stopping, lost = await open_store(database), await open_store(database)
        await stopping.mark_stopping()
        await jobs.all("UPDATE worker_session SET expires_at = now(), stopping = true WHERE id = $1", lost.session_id)
        async with database.session() as session:
            status = {worker.id: worker.status for worker in await list_workers(session)}
        assert status == {stopping.session_id: "stopping", lost.session_id: "lost"}


@pytest.fixture
def nightly(task: JobKind[Number]) -> Schedule:
    return schedule(task, Number(n=7), cron="0 3 * * *", name="nightly", timezone="Europe/Berlin")


@pytest.fixture
async def scheduler(database: Database, nightly: Schedule) -> Scheduler:
    scheduler = Scheduler(database, {"nightly": nightly})
    await scheduler.declare()
    return scheduler


async def the_schedule(database: Database) -> ScheduleRead:
    async with database.session() as session:
        (view,) = await list_schedules(session)
    return view


@pytest.mark.usefixtures("scheduler")
class TestSchedules:
    async def test_schedule_is_listed_as_the_code_declares_it(self, database: Database, nightly: Schedule) -> None:
        view = await the_schedule(database)
        assert (view.name, view.kind, view.cron) == ("nightly", "test.task", "0 3 * * *")
        assert (view.timezone, view.paused_at) == ("Europe/Berlin", None)
        assert view.next_slot == nightly.next_slot(view.last_slot)

    async def test_schedule_that_the_code_no_longer_declares_cannot_be_run(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(schedules_module, "_schedules", {})
        assert (await the_schedule(database)).next_slot is None
        async with database.session() as session:
            with pytest.raises(NotFoundError):
                await run_schedule(session, "nightly", by=OLGA)

    async def test_resumed_schedule_skips_the_slots_of_its_pause(
        self, database: Database, jobs: Jobs, scheduler: Scheduler
    ) -> None:
        async with database.session() as session:
            await pause_schedule(session, "nightly", by=OLGA)
        view = await the_schedule(database)
        assert view.paused_at is not None
        assert view.next_slot is None
        await jobs.all("UPDATE job_schedule SET last_slot = now() - interval '3 days'")
        await scheduler.take_due()
        async with database.session() as session:
            await pause_schedule(session, "nightly", by=OLGA)
            await resume_schedule(session, "nightly", by=OLGA)
        await scheduler.take_due()
        view = await the_schedule(database)
        assert view.paused_at is None
        assert view.last_slot > datetime.now(UTC) - timedelta(days=1)
        assert await live(jobs) == set()

    async def test_resuming_a_running_schedule_skips_no_slot(
        self, database: Database, jobs: Jobs, scheduler: Scheduler
    ) -> None:
        await jobs.all("UPDATE job_schedule SET last_slot = now() - interval '3 days'")
        async with database.session() as session:
            await resume_schedule(session, "nightly", by=OLGA)
        await scheduler.take_due()
        assert len(await live(jobs)) == 1

    async def test_running_a_schedule_now_moves_no_slot(self, database: Database, jobs: Jobs) -> None:
        before = await the_schedule(database)
        async with database.session() as session:
            made = await run_schedule(session, "nightly", by=OLGA)
        row = await jobs.live(made.id)
        assert (row["kind"], row["payload"], row["state"]) == ("test.task", {"n": 7}, "available")
        assert (await the_schedule(database)).last_slot == before.last_slot

    @pytest.mark.parametrize("change", [pause_schedule, resume_schedule, run_schedule])
    async def test_unknown_schedule_is_not_found(self, database: Database, change: Any) -> None:
        async with database.session() as session:
            with pytest.raises(NotFoundError):
                await change(session, "daily", by=OLGA)
