"""One process of the fleet exports the metrics of all, cheaply, while it holds the duty."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from alembic.script import ScriptDirectory

from notes.config import Settings
from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.database.migrator import LOCK_KEY, alembic_config
from plinth.database.revisions import PLATFORM, SERVICE, read_revisions
from plinth.jobs import JobContext, enqueue_many, job
from plinth.jobs.admin.jobs import request_cancel
from plinth.jobs.admin.queues import pause_queue
from plinth.jobs.engine import fleet_metrics as figures
from plinth.jobs.engine.fleet_metrics import (
    HOLD,
    INTERVAL_SECONDS,
    MAX_QUEUES,
    FleetMetrics,
)
from plinth.jobs.engine.fleet_sql import FLEET, FLEET_QUEUES, MAX_COUNT, MIGRATION_LOCK, TAKE_DUTY
from plinth.jobs.kinds import JobKind
from plinth.jobs.schedules import schedule
from plinth.testing import NO_DATABASE
from tests.plinth.integration.jobs.conftest import OLGA, Jobs, Number, open_store
from tests.support.metrics import metric, samples, series
from tests.support.notes import settings_with

REVISIONS = read_revisions(Settings.service.migrations)
NEWEST = [*REVISIONS.heads(PLATFORM), *REVISIONS.heads(SERVICE)]

NAMES = {
    "plinth_queue_jobs",
    "plinth_queue_oldest_due_age_seconds",
    "plinth_queue_paused",
    "plinth_dead_letters",
    "plinth_workers_alive",
    "plinth_schedule_overdue_seconds",
    "plinth_schema_revision_info",
    "plinth_schema_behind",
    "plinth_migration_running_seconds",
}


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(figures, "monotonic", clock)
    return clock


@pytest.fixture(autouse=True)
def _no_step_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests say when a step is taken."""

    async def never(*args: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(figures, "every", never)


@pytest.fixture
def task() -> JobKind[Number]:
    @job("test.task")
    async def task(ctx: JobContext, payload: Number) -> None:
        pass

    return task


async def begun(database: Database, settings: Settings) -> FleetMetrics:
    made = FleetMetrics(database, settings)
    made.start()
    return made


@pytest.fixture
async def ours(database: Database, settings: Settings) -> AsyncIterator[FleetMetrics]:
    ours = await begun(database, settings)
    yield ours
    await ours.stop()


@pytest.fixture
async def theirs(database: Database, settings: Settings) -> AsyncIterator[FleetMetrics]:
    theirs = await begun(database, settings)
    yield theirs
    await theirs.stop()


def shown() -> set[str]:
    return {name for name, _ in series()} & NAMES


def queue_jobs(queue: str) -> dict[str, float]:
    return {
        sample.labels["state"]: sample.value
        for sample in samples()
        if sample.name == "plinth_queue_jobs" and sample.labels["queue"] == queue
    }


class TestDuty:
    async def test_only_the_holder_of_the_duty_queries_and_exports_fleet_metrics(
        self, ours: FleetMetrics, theirs: FleetMetrics
    ) -> None:
        assert shown() == set()
        await ours.step()
        await theirs.step()
        assert (ours.holds, theirs.holds) == (True, False)
        assert ours._values
        assert not theirs._values
        assert shown() == NAMES - {"plinth_schedule_overdue_seconds"}  # there is none
        await theirs.step()
        await ours.step()
        assert (ours.holds, theirs.holds) == (True, False)

    async def test_concurrent_processes_give_the_duty_to_one(self, database: Database, settings: Settings) -> None:
        fleet = [FleetMetrics(database, settings) for _ in range(10)]
        await asyncio.gather(*(one.step() for one in fleet))
        assert sum(one.holds for one in fleet) == 1

    async def test_asking_for_a_held_duty_writes_nothing(
        self, ours: FleetMetrics, theirs: FleetMetrics, jobs: Jobs
    ) -> None:
        await ours.step()
        before = await jobs.one("SELECT xmin, xmax, ctid, holder FROM duty")
        await theirs.step()
        assert await jobs.one("SELECT xmin, xmax, ctid, holder FROM duty") == before

    async def test_process_that_stops_releases_the_duty(self, ours: FleetMetrics, theirs: FleetMetrics) -> None:
        await ours.step()
        await ours.stop()
        assert shown() == set()
        await theirs.step()
        assert theirs.holds
        assert "plinth_workers_alive" in shown()

    async def test_duty_of_a_dead_process_expires(self, ours: FleetMetrics, theirs: FleetMetrics, jobs: Jobs) -> None:
        await ours.step()
        await jobs.all("UPDATE duty SET expires_at = now()")
        await theirs.step()
        assert theirs.holds
        # The first one does not know yet. It learns it at its next step, or by its own clock.
        await ours.step()
        assert not ours.holds

    async def test_process_whose_queries_fail_does_not_keep_the_duty(
        self, ours: FleetMetrics, theirs: FleetMetrics, clock: Clock, jobs: Jobs
    ) -> None:
        fetchrow = asyncpg.Connection.fetchrow

        async def fail(connection: Any, sql: str, *arguments: Any) -> Any:
            if sql == FLEET:
                raise asyncpg.QueryCanceledError
            return await fetchrow(connection, sql, *arguments)

        await ours.step()
        expires = await jobs.one("SELECT expires_at FROM duty")
        clock.now += INTERVAL_SECONDS
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncpg.Connection, "fetchrow", fail)
            with pytest.raises(DatabaseUnavailableError):
                await ours.step()
        assert await jobs.one("SELECT expires_at FROM duty") == expires
        await jobs.all("UPDATE duty SET expires_at = now()")
        await theirs.step()
        assert theirs.holds

    async def test_process_that_regains_the_duty_queries_at_once(
        self, ours: FleetMetrics, theirs: FleetMetrics, clock: Clock, jobs: Jobs, database: Database
    ) -> None:
        await ours.step()
        ours._ask_from += 100 * INTERVAL_SECONDS  # as after one that took long
        await jobs.all("UPDATE duty SET expires_at = now()")
        await theirs.step()
        await ours.step()
        await theirs.stop()
        await open_store(database)
        await ours.step()
        assert metric("plinth_workers_alive") == 1

    async def test_no_metrics_once_another_process_may_hold_the_duty(self, ours: FleetMetrics, clock: Clock) -> None:
        await ours.step()
        clock.now += HOLD * INTERVAL_SECONDS - 0.1
        assert "plinth_workers_alive" in shown()
        clock.now += 0.1
        assert shown() == set()

    async def test_fleet_metrics_expire_while_the_database_is_away(
        self, settings: Settings, clock: Clock, ours: FleetMetrics
    ) -> None:
        await ours.step()
        away = Database(settings_with(DATABASE_URL=NO_DATABASE))
        ours._database = away
        with pytest.raises(DatabaseUnavailableError):  # the caller, which repeats it, handles this
            await ours.step()
        assert "plinth_workers_alive" in shown()
        clock.now += HOLD * INTERVAL_SECONDS
        assert shown() == set()
        clock.now -= HOLD * INTERVAL_SECONDS
        await ours.stop()
        await away.aclose()

    async def test_fleet_metrics_tolerate_an_unmigrated_database(
        self, empty_database_url: str, settings: Settings
    ) -> None:
        empty = Database(settings_with(DATABASE_URL=empty_database_url))
        await FleetMetrics(empty, settings).step()
        await empty.aclose()

    async def test_database_without_jobs_starts_no_fleet_metrics(self) -> None:
        database = Database(settings_with(DATABASE_URL="sqlite+aiosqlite://"))
        without = await begun(database, settings_with())
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "figures"]
        await without.stop()
        await database.aclose()

    async def test_slow_fleet_query_is_repeated_less_often(
        self, ours: FleetMetrics, clock: Clock, jobs: Jobs, database: Database
    ) -> None:
        await ours.step()
        await open_store(database)
        clock.now += INTERVAL_SECONDS * 0.8
        await ours.step()
        assert metric("plinth_workers_alive") == 1
        # Now a second: that may be a hundredth of the time.
        fetchrow = asyncpg.Connection.fetchrow

        async def slow(connection: Any, sql: str, *arguments: Any) -> Any:
            clock.now += 1
            return await fetchrow(connection, sql, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncpg.Connection, "fetchrow", slow)
            clock.now += INTERVAL_SECONDS
            await ours.step()
        await open_store(database)
        for _ in range(9):
            clock.now += INTERVAL_SECONDS
            await ours.step()
            assert ours.holds
            assert metric("plinth_workers_alive") == 1
        clock.now += INTERVAL_SECONDS
        await ours.step()
        assert metric("plinth_workers_alive") == 2


class TestQueues:
    async def test_each_state_of_each_queue_is_exported(
        self, ours: FleetMetrics, database: Database, jobs: Jobs, task: JobKind[Number]
    ) -> None:
        async with database.session() as session:
            await enqueue_many(session, task, [Number()] * 3)
            await enqueue_many(session, task, [Number()] * 4, queue="b", delay=60)
            await enqueue_many(session, task, [Number()] * 2, queue="c", delay=60)
            await pause_queue(session, "b", by=OLGA)
        await jobs.all("UPDATE job SET state = 'retryable' WHERE queue = 'c'")
        await jobs.all("UPDATE job SET run_at = now() - interval '100 seconds' WHERE queue = 'default'")
        await (await open_store(database)).claim(["default"], {"test.task": task}, 1)
        await ours.step()
        assert queue_jobs("default") == {"available": 2, "running": 1, "scheduled": 0, "retryable": 0}
        assert queue_jobs("b") == {"available": 0, "running": 0, "scheduled": 4, "retryable": 0}
        assert queue_jobs("c") == {"available": 0, "running": 0, "scheduled": 0, "retryable": 2}
        assert [metric("plinth_queue_paused", queue=queue) for queue in ("default", "b", "c")] == [0, 1, 0]
        assert 100 <= metric("plinth_queue_oldest_due_age_seconds", queue="default") < 200
        assert metric("plinth_queue_oldest_due_age_seconds", queue="b") == 0

    async def test_empty_queue_with_a_worker_is_exported(
        self, ours: FleetMetrics, database: Database, settings: Settings, jobs: Jobs
    ) -> None:
        await open_store(database)
        await jobs.all("UPDATE worker_session SET queues = '{default,mail}'")
        await ours.step()
        nothing = {"available": 0, "running": 0, "scheduled": 0, "retryable": 0}
        assert queue_jobs("default") == queue_jobs("mail") == nothing

    async def test_queues_beyond_the_limit_are_summed_up_as_other(self, ours: FleetMetrics, jobs: Jobs) -> None:
        await jobs.all(
            """
            INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state)
            SELECT 'test.task', 'a' || n, 0, '{}', 1, now() - n * interval '1 minute', 'available'
            FROM generate_series(1, 300) AS n
            """
        )
        await ours.step()
        found = {sample.labels["queue"] for sample in samples() if sample.name == "plinth_queue_jobs"}
        assert len(found) == MAX_QUEUES + 1
        assert {"default", "other"} <= found
        assert metric("plinth_queue_jobs", state="available") == 300
        assert metric("plinth_queue_jobs", state="available", queue="other") == 300 - (MAX_QUEUES - 1)
        assert metric("plinth_queue_oldest_due_age_seconds", queue="other") >= 99 * 60


class TestFleet:
    async def test_live_workers_are_counted(self, ours: FleetMetrics, database: Database, jobs: Jobs) -> None:
        for _ in range(3):
            await open_store(database)
        await jobs.all(
            "UPDATE worker_session SET expires_at = now() WHERE id = (SELECT id FROM worker_session LIMIT 1)"
        )
        await ours.step()
        assert metric("plinth_workers_alive") == 2

    async def test_dead_letters_are_counted_without_other_ended_jobs(
        self, ours: FleetMetrics, database: Database, jobs: Jobs, task: JobKind[Number]
    ) -> None:
        async with database.session() as session:
            made = await enqueue_many(session, task, [Number()] * 5)
        async with database.session() as session:
            for one in made:
                await request_cancel(session, one.id)
        await jobs.all(
            "UPDATE job_history SET state = 'discarded' WHERE id = ANY ($1::uuid[])", [j.id for j in made[:3]]
        )
        await ours.step()
        assert metric("plinth_dead_letters") == 3

    async def test_overdue_schedule_is_exported_with_its_delay(
        self, ours: FleetMetrics, jobs: Jobs, task: JobKind[Number]
    ) -> None:
        for name in ("test.late", "test.paused", "test.new"):
            schedule(task, Number(), cron="*/5 * * * *", name=name)
        await jobs.all(
            """
            INSERT INTO job_schedule (name, kind, cron, timezone, last_slot, paused_at) VALUES
                ('test.late', 'test.task', '', '', date_trunc('hour', now()) - interval '2 hours', NULL),
                ('test.paused', 'test.task', '', '', date_trunc('hour', now()) - interval '2 hours', now()),
                ('test.new', 'test.task', '', '', now(), NULL),
                ('test.gone', 'test.task', '', '', now() - interval '2 hours', NULL)
            """
        )
        await ours.step()
        found = {s.labels["schedule"]: s.value for s in samples() if s.name == "plinth_schedule_overdue_seconds"}
        assert found.keys() == {"test.late", "test.paused", "test.new"}
        assert 55 * 60 + 3600 <= found["test.late"] <= 56 * 60 + 2 * 3600
        assert found["test.paused"] == found["test.new"] == 0


class TestSchema:
    def test_revisions_are_read_from_the_code_as_alembic_reads_them(self) -> None:
        scripts = ScriptDirectory.from_config(alembic_config(Settings.isolated()))
        assert REVISIONS.parents.keys() == {script.revision for script in scripts.walk_revisions()}
        assert {*REVISIONS.heads(PLATFORM), *REVISIONS.heads(SERVICE)} == set(scripts.get_heads())

    def test_migration_lock_key_equals_the_migrator_s(self) -> None:
        assert MIGRATION_LOCK == LOCK_KEY

    @pytest.mark.parametrize(
        ("revisions", "behind"),
        [
            (NEWEST, 0),
            ([], 1),
            (REVISIONS.heads(SERVICE), 1),
            (REVISIONS.heads(PLATFORM), 1),
            (["0123456789ab", *REVISIONS.heads(PLATFORM)], 0),
            (["0123456789ab", "plinth_0001"], 1),
            ([*REVISIONS.heads(SERVICE), "plinth_9999"], 0),
            (["0123456789ab", "plinth_9999"], 0),
        ],
        ids=[
            "the code's",
            "none",
            "the service's only",
            "the platform's only",
            "a later one of the service",
            "a later one of the service and an earlier one of the platform",
            "a later one of the platform",
            "later ones of both",
        ],
    )
    async def test_schema_revision_and_behind_are_exported(
        self, fresh_database_url: str, settings: Settings, revisions: list[str], behind: int
    ) -> None:
        database = Database(settings_with(DATABASE_URL=fresh_database_url))
        async with database.connection() as connection:
            await connection.execute("DELETE FROM alembic_version")
            await connection.executemany("INSERT INTO alembic_version VALUES ($1)", [(r,) for r in revisions])
        ours = await begun(database, settings)
        await ours.step()
        found = [s.labels for s in samples() if s.name == "plinth_schema_revision_info"]
        assert found == [{"expected": ",".join(sorted(NEWEST)), "database": ",".join(sorted(revisions))}]
        assert metric("plinth_schema_behind") == behind
        await ours.stop()
        await database.aclose()

    async def test_running_migration_is_exported_with_its_duration(
        self, ours: FleetMetrics, database: Database, database_url: str, clock: Clock
    ) -> None:
        async def running() -> float:
            clock.now += INTERVAL_SECONDS
            await ours.step()
            return metric("plinth_migration_running_seconds")

        assert await running() == 0
        migrator = await asyncpg.connect(database_url)
        await migrator.execute(f"SELECT pg_advisory_lock({LOCK_KEY + 1})")
        assert await running() == 0
        await migrator.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        first = await running()
        assert 0 < first < 60
        # A role that may not see the start of the connection counts from when it first saw it.
        assert await running() >= INTERVAL_SECONDS
        await migrator.close()
        while await running():  # noqa: ASYNC110 - it is the server that changes
            await asyncio.sleep(0.01)

    async def test_running_migration_of_another_role_is_timed_by_our_own_clock(
        self, ours: FleetMetrics, database_url: str, clock: Clock
    ) -> None:
        migrator = await asyncpg.connect(database_url.replace("plinth@", "postgres@"))
        await migrator.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        await ours.step()
        assert metric("plinth_migration_running_seconds") == 0
        clock.now += INTERVAL_SECONDS
        await ours.step()
        assert metric("plinth_migration_running_seconds") == INTERVAL_SECONDS
        await migrator.close()


_FILL_HISTORY = """
INSERT INTO job_history (kind, queue, priority, payload, max_attempts, run_at, state, finished_at)
SELECT 'test.task', 'default', 0, '{}', 1, now(), CASE WHEN n % 1000 = 0 THEN 'discarded' ELSE 'succeeded' END, now()
FROM generate_series(1, $1::int) AS n
"""
_FILL = """
INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state)
SELECT 'test.task', 'default', 0, '{}', 1, now() + interval '1 day', $2 FROM generate_series(1, $1::int) AS n
"""


class TestCost:
    """On large tables the rows that a fleet query reads are bounded."""

    @pytest.fixture
    async def jobs(self, fresh_database_url: str) -> AsyncIterator[Jobs]:
        # Statistics stay when tables are emptied, and would mislead the planner in the tests after these.
        database = Database(settings_with(DATABASE_URL=fresh_database_url))
        yield Jobs(database)
        await database.aclose()

    @pytest.mark.parametrize("known", [True, False], ids=["analysed", "statistics of an empty table"])
    async def test_fleet_queries_read_no_finished_jobs(self, jobs: Jobs, known: bool) -> None:
        await jobs.all("ANALYZE job, job_history")
        await jobs.all(_FILL_HISTORY, 50_000)
        if known:
            await jobs.all("ANALYZE job_history")
        assert await rows_read(jobs, FLEET_QUEUES) == 0
        assert await rows_read(jobs, FLEET) <= 50  # the dead letters
        assert await rows_read(jobs, TAKE_DUTY, "'figures'", "gen_random_uuid()", "'1 s'") == 0

    async def test_fleet_queries_stop_counting_at_the_cap(self, jobs: Jobs) -> None:
        await jobs.all(_FILL, 15_000, "available")
        await jobs.all(_FILL, 15_000, "scheduled")
        await jobs.all(_FILL, 15_000, "running")
        await jobs.all(_FILL_HISTORY.replace("n % 1000 = 0", "true"), 15_000)
        await jobs.all("ANALYZE job, job_history")
        few = str(MAX_COUNT), "1000"
        assert await rows_read(jobs, FLEET_QUEUES.replace(*few)) <= 3002
        assert await rows_read(jobs, FLEET.replace(*few)) <= 1000


async def rows_read(jobs: Jobs, sql: str, *arguments: str) -> int:
    """How many rows of the tables of jobs a statement looks at. `arguments`: SQL in the place of its parameters."""
    for number, argument in enumerate(arguments, 1):
        sql = sql.replace(f"${number}", argument)
    row = await jobs.one(f"EXPLAIN (ANALYZE, FORMAT json) {sql}")
    plan = row[0] if not isinstance(row[0], str) else json.loads(row[0])

    def read(node: dict[str, Any]) -> int:
        below = sum(read(child) for child in node.get("Plans", []))
        if node.get("Relation Name") not in ("job", "job_history"):
            return below
        return below + int(node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)))

    return read(plan[0]["Plan"])
