"""Jobs are counted exactly: what was committed, once, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import JobContext, enqueue, job
from plinth.jobs.engine.heartbeat import Heartbeat
from plinth.jobs.engine.scheduler import Scheduler
from plinth.jobs.enqueue import enqueue_many
from plinth.jobs.kinds import JobKind
from plinth.jobs.schedules import Schedule
from plinth.testing import NO_DATABASE
from tests.plinth.integration.jobs.conftest import Jobs, Number, open_store, until, working
from tests.support.metrics import metric, series
from tests.support.notes import settings_with


@pytest.fixture
def task() -> JobKind[Number]:
    @job("test.counted")
    async def counted(ctx: JobContext, payload: Number) -> None:
        pass

    return counted


def enqueued() -> float:
    return metric("plinth_jobs_enqueued_total", kind="test.counted")


@pytest.fixture
async def before(task: JobKind[Number]) -> float:
    return enqueued()


class TestEnqueued:
    async def test_enqueued_jobs_are_counted_at_the_commit(
        self, database: Database, task: JobKind[Number], before: float
    ) -> None:
        async with database.session() as session:
            await enqueue(session, task, Number())
            await enqueue_many(session, task, [Number()] * 4)
            assert enqueued() == before
        assert enqueued() == before + 5

    async def test_rolled_back_jobs_are_not_counted_as_enqueued(
        self, database: Database, task: JobKind[Number], before: float
    ) -> None:
        async def fail() -> None:
            async with database.session() as session:
                await enqueue(session, task, Number())
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        async with database.session() as session:
            await enqueue(session, task, Number())
            await session.rollback()
            await enqueue(session, task, Number())
        assert enqueued() == before + 1

    async def test_jobs_of_a_rolled_back_savepoint_are_not_counted_as_enqueued(
        self, database: Database, jobs: Jobs, task: JobKind[Number], before: float
    ) -> None:
        async with database.session() as session:
            await enqueue(session, task, Number())
            undone = await session.begin_nested()
            await enqueue(session, task, Number())
            inner = await session.begin_nested()
            await enqueue(session, task, Number())
            await inner.commit()
            await undone.rollback()
            async with session.begin_nested():
                await enqueue(session, task, Number())
            assert enqueued() == before
        assert enqueued() == before + 2
        assert len(await jobs.all("SELECT FROM job")) == 2

    async def test_jobs_of_a_session_closed_without_commit_are_not_counted(
        self, database: Database, task: JobKind[Number], before: float
    ) -> None:
        session = database.new_session()
        await enqueue(session, task, Number())
        await session.close()
        await enqueue(session, task, Number())
        await session.commit()
        await session.close()
        assert enqueued() == before + 1

    async def test_jobs_with_a_taken_unique_key_are_not_counted_as_enqueued(
        self, database: Database, task: JobKind[Number], before: float
    ) -> None:
        for keys in (["a"], ["a", "b", "b"]):
            async with database.session() as session:
                await enqueue_many(session, task, [Number()] * len(keys), unique_keys=keys)
        assert enqueued() == before + 2

    async def test_job_of_a_schedule_is_counted_as_enqueued(
        self, database: Database, task: JobKind[Number], before: float
    ) -> None:
        slot = Schedule("test.counted", task, Number(), "* * * * * *", "UTC", 1)
        scheduler = Scheduler(database, {slot.name: slot})
        await scheduler.declare()
        async with database.connection() as connection:
            await connection.execute("UPDATE job_schedule SET last_slot = now() - interval '5 seconds'")
        await scheduler.take_due()
        assert enqueued() == before + 1


class TestRuns:
    async def test_run_is_counted_with_its_outcome_and_its_durations(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.follows")
        async def follows(ctx: JobContext, payload: Number) -> None:
            pass

        @job("test.leads")
        async def leads(ctx: JobContext, payload: Number) -> None:
            ctx.enqueue(follows, Number())

        names = [
            ("plinth_jobs_enqueued_total", {}),
            ("plinth_jobs_started_total", {}),
            ("plinth_jobs_finished_total", {"outcome": "succeeded"}),
            ("plinth_job_wait_seconds_count", {}),
            ("plinth_job_run_seconds_count", {}),
        ]

        def counts(kind: str) -> list[float]:
            return [metric(name, kind=kind, **labels) for name, labels in names]

        async def both_ended() -> bool:
            return len(await jobs.all("SELECT FROM job_history")) == 2

        before = counts("test.leads"), counts("test.follows")
        async with database.session() as session:
            await enqueue(session, leads, Number())
        async with working(settings, leads, follows):
            await until(both_ended)
        assert counts("test.leads") == [count + 1 for count in before[0]]
        assert counts("test.follows") == [count + 1 for count in before[1]]

    async def test_housekeeping_is_timed_by_step(self, settings: Settings, task: JobKind[Number]) -> None:
        def steps() -> dict[str, float]:
            name = "plinth_job_housekeeping_seconds_count"
            return {step: metric(name, task=step) for step in ("sweep", "prune", "reap", "figures")}

        before = steps()

        async def all_taken() -> bool:
            return all(count > before[step] for step, count in steps().items())

        async with working(settings, task):
            await until(all_taken)

    async def test_dependencies_and_pools_are_exported_while_a_worker_runs(
        self, settings: Settings, task: JobKind[Number]
    ) -> None:
        async def in_touch() -> bool:
            return [metric("plinth_dependency_up", dependency=name) for name in ("database", "redis")] == [1, 1]

        async with working(settings, task):
            await until(in_touch)
            pools = {
                dict(labels)["db_client_connection_pool_name"] for name, labels in series() if name.endswith("_max")
            }
            assert pools == {"main", "engine"}
        assert not {name for name, _ in series()} & {"plinth_dependency_up", "db_client_connection_max"}


@pytest.fixture
async def beating(settings: Settings, database: Database) -> AsyncIterator[Heartbeat]:
    store = await open_store(database)
    beating = Heartbeat(settings, store.session_id, on_cancelled=lambda ids: None, on_lost=lambda: None)
    beating.start()
    yield beating
    await beating.stop()


class TestHeartbeat:
    async def test_heartbeat_lag_grows_from_beat_to_beat(self, beating: Heartbeat) -> None:
        name = "plinth_worker_heartbeat_lag_seconds"
        first = metric(name)
        await asyncio.sleep(0.05)
        assert first + 0.05 <= metric(name) < 60
        await beating.stop()
        assert not [shown for shown, _ in series() if shown == name]

    async def test_unanswered_heartbeat_loses_the_session_and_is_logged_once(self) -> None:
        away = settings_with(DATABASE_URL=NO_DATABASE, JOBS_SESSION_TIMEOUT=2)
        lost = asyncio.Event()
        options: dict[str, Any] = {"on_cancelled": lambda ids: None, "on_lost": lost.set}
        beating = Heartbeat(away, uuid4(), **options)
        with capture_logs() as lines:
            beating.start()
            async with asyncio.timeout(20):
                await lost.wait()
            await beating.stop()
        assert not beating.answered
        # Said once, however long it stays away.
        assert [line["event"] for line in lines] == ["no answer to the heartbeat"]


class TestInitialSeries:
    async def test_every_outcome_of_every_kind_is_exported_from_the_start(self, settings: Settings) -> None:
        """Prometheus sees no increase in a series that begins at 1: the first job that is lost would be overlooked."""

        @job("test.fresh")
        async def fresh(ctx: JobContext, payload: Number) -> None:
            pass

        async with working(settings, fresh) as worker:
            while not worker.ready:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            kind = ("kind", "test.fresh")
            for outcome in ("succeeded", "retryable", "discarded", "cancelled", "released", "lost"):
                assert ("plinth_jobs_finished_total", frozenset([kind, ("outcome", outcome)])) in series()
            for fate in ("available", "cancelled", "discarded"):
                assert ("plinth_jobs_reaped_total", frozenset([kind, ("fate", fate)])) in series()
