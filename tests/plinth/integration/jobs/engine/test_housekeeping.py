"""The reaper, the sweep, retention, and what the planner makes of the statements."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import JobContext, JobKind, RetryPolicy, enqueue, enqueue_many, job
from plinth.jobs.engine import housekeeping as housekeeping_module
from plinth.jobs.engine import store as store_module
from plinth.jobs.engine.batch_sql import OVER, OVER_AMONG
from plinth.jobs.engine.claim_sql import CLAIM
from plinth.jobs.engine.prune_sql import PRUNE, PRUNE_AUDIT
from plinth.jobs.engine.recorder import Recorder
from plinth.jobs.engine.sql import FINISH, HELD, PROGRESS, REAP, RELEASE, RETRY
from plinth.jobs.engine.store import DEADLINE_MARGIN, Store, Swept
from plinth.jobs.engine.worker import engine_database
from plinth.jobs.outcome import Finish, State, TryAgain, error_entry
from tests.plinth.integration.jobs.conftest import Jobs, Number, open_store, until, working


@pytest.fixture
def noop() -> JobKind[Number]:
    @job("test.noop", retry=RetryPolicy(max_attempts=2))
    async def noop(ctx: JobContext, payload: Number) -> None:
        pass

    return noop


async def claim_one(database: Database, store: Store, kind: JobKind[Any]) -> Any:
    async with database.session() as session:
        await enqueue(session, kind, Number())
    (claimed,) = await store.claim(["default"], {kind.name: kind}, 1)
    return claimed


async def crashed(jobs: Jobs, times: int, ago: str = "1 minute") -> None:
    """Write into each job that workers were lost that ran it."""
    entry = "jsonb_build_array(jsonb_build_object('outcome', 'crash', 'at', now() - $2::text::interval))"
    await jobs.all(f"UPDATE job SET crash_count = $1, errors = {entry}", times, ago)


async def expire(jobs: Jobs, store: Store) -> None:
    """What happens when the heart of a worker stops."""
    await jobs.all("UPDATE worker_session SET expires_at = now() - interval '1 second' WHERE id = $1", store.session_id)


class TestReaper:
    @pytest.fixture
    async def dead(self, database: Database) -> Store:
        """The session of a worker that is to be lost."""
        return await open_store(database)

    @pytest.fixture
    async def reaper(self, database: Database) -> Store:
        return await open_store(database)

    async def test_job_of_a_lost_worker_is_available_again_and_spends_no_attempt(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], dead: Store, reaper: Store
    ) -> None:
        claimed = await claim_one(database, dead, noop)
        await expire(jobs, dead)
        (reaped,) = await reaper.reap(max_crashes=5)
        assert (reaped.id, reaped.fate, reaped.hung) == (claimed.id, "available", False)
        row = await jobs.live(claimed.id)
        assert (row["state"], row["attempt"], row["crash_count"], row["session_id"]) == ("available", 0, 1, None)
        assert (row["errors"][0]["outcome"], row["errors"][0]["run"]) == ("crash", claimed.lease)
        # The worker that was thought dead comes back, and is too late.
        assert await dead.finish([Finish(claimed.id, claimed.lease, State.SUCCEEDED)]) == set()

    async def test_job_of_a_closed_session_is_given_back_without_a_crash(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], dead: Store, reaper: Store
    ) -> None:
        claimed = await claim_one(database, dead, noop)
        await dead.close_session()
        assert [job.id for job in await reaper.reap(max_crashes=1)] == [claimed.id]
        row = await jobs.live(claimed.id)
        assert (row["state"], row["attempt"], row["crash_count"], row["errors"]) == ("available", 0, 0, [])

    @pytest.mark.parametrize("first", ["the worker", "the reaper"])
    async def test_worker_that_survives_its_session_has_crashed_no_job(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], dead: Store, reaper: Store, first: str
    ) -> None:
        """As after an outage of the database: whether it comes back before or after the reaper."""
        claimed = await claim_one(database, dead, noop)
        await crashed(jobs, 1)
        await expire(jobs, dead)
        if first == "the worker":
            await dead.survive([(claimed.id, claimed.lease)])
        await reaper.reap(max_crashes=5)
        if first == "the reaper":
            assert (await jobs.live(claimed.id))["crash_count"] == 2
            for _ in range(2):  # the second time it says nothing new
                await dead.survive([(claimed.id, claimed.lease)])
        row = await jobs.live(claimed.id)
        assert (row["state"], row["attempt"], row["crash_count"]) == ("available", 0, 1)
        assert [error["outcome"] for error in row["errors"]] == ["crash", *["interrupted"] * (first == "the reaper")]

    async def test_survivor_does_not_wait_for_a_transaction_that_ends_one_of_its_jobs(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], dead: Store, reaper: Store
    ) -> None:
        held, free = await claim_one(database, dead, noop), await claim_one(database, dead, noop)
        await expire(jobs, dead)
        await reaper.reap(max_crashes=5)
        async with database.session() as open_transaction:
            lock = "SELECT FROM job WHERE id = $1 FOR UPDATE"
            await (await open_transaction.connection()).exec_driver_sql(lock, (held.id,))
            async with asyncio.timeout(8):
                await dead.survive([(held.id, held.lease), (free.id, free.lease)])
        assert (await jobs.live(free.id))["crash_count"] == 0

    async def test_survivor_leaves_the_crashes_of_other_workers(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], dead: Store, reaper: Store
    ) -> None:
        claimed = await claim_one(database, dead, noop)
        await expire(jobs, dead)
        await reaper.reap(max_crashes=5)
        await (await open_store(database)).survive([(claimed.id, claimed.lease + 1)])
        assert (await jobs.live(claimed.id))["crash_count"] == 1

    @pytest.mark.parametrize(("ago", "count"), [("23 hours", 3), ("25 hours", 1)])
    async def test_crashes_are_forgotten_a_day_later(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], dead: Store, reaper: Store, ago: str, count: int
    ) -> None:
        claimed = await claim_one(database, dead, noop)
        await crashed(jobs, 2, ago)
        await expire(jobs, dead)
        await reaper.reap(max_crashes=5)
        assert (await jobs.live(claimed.id))["crash_count"] == count

    async def test_job_of_a_live_worker_is_not_reaped(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], reaper: Store
    ) -> None:
        claimed = await claim_one(database, reaper, noop)
        assert await reaper.reap(max_crashes=1) == []
        assert await jobs.state(claimed.id) == "running"

    async def test_concurrent_reapers_take_each_job_once(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], dead: Store
    ) -> None:
        async with database.session() as session:
            await enqueue_many(session, noop, [Number(n=n) for n in range(300)])
        await dead.claim(["default"], {noop.name: noop}, 300)
        await expire(jobs, dead)
        assert await dead.claim(["default"], {noop.name: noop}, 300) == []
        reapers = [await open_store(database) for _ in range(6)]
        answers = await asyncio.gather(*(reaper.reap(max_crashes=5) for reaper in reapers))
        ids = [job.id for answer in answers for job in answer]
        assert len(ids) == len(set(ids)) == 300
        assert (await jobs.one("SELECT min(crash_count), max(crash_count) FROM job"))[:] == (1, 1)

    async def test_poison_job_is_discarded_with_its_reason(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], dead: Store, reaper: Store
    ) -> None:
        claimed = await claim_one(database, dead, noop)
        await expire(jobs, dead)
        await crashed(jobs, 2)
        (reaped,) = await reaper.reap(max_crashes=3)
        assert reaped.fate == "discarded"
        row = await jobs.ended(claimed.id)
        assert (row["state"], row["crash_count"]) == ("discarded", 3)
        assert "poison" in row["errors"][-1]["error"]

    async def test_reaped_job_with_a_cancel_request_is_cancelled(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], dead: Store, reaper: Store
    ) -> None:
        claimed = await claim_one(database, dead, noop)
        await expire(jobs, dead)
        await jobs.all("UPDATE job SET cancel_requested_at = now()")
        (reaped,) = await reaper.reap(max_crashes=5)
        assert reaped.fate == "cancelled"
        assert (await jobs.ended(claimed.id))["state"] == "cancelled"

    @pytest.mark.parametrize(("attempts", "fate"), [(0, "available"), (1, "discarded")])
    async def test_run_past_its_deadline_is_reaped_from_a_live_worker(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], reaper: Store, attempts: int, fate: str
    ) -> None:
        async with database.session() as session:
            await enqueue(session, noop, Number())
        await jobs.all("UPDATE job SET attempt = $1", attempts)
        (claimed,) = await reaper.claim(["default"], {noop.name: noop}, 1)
        await jobs.all("UPDATE job SET deadline_at = now() - $1::interval + interval '1 minute'", DEADLINE_MARGIN)
        assert await reaper.reap(max_crashes=5) == []
        await jobs.all("UPDATE job SET deadline_at = now() - $1::interval - interval '1 second'", DEADLINE_MARGIN)
        (reaped,) = await reaper.reap(max_crashes=5)
        assert (reaped.fate, reaped.hung) == (fate, True)
        row = await jobs.live(claimed.id) or await jobs.ended(claimed.id)
        assert (row["attempt"], row["crash_count"]) == (attempts + 1, 0)  # an attempt, and not a crash
        assert row["errors"][0]["outcome"] == "timeout"

    async def test_old_lost_sessions_are_deleted(
        self, database: Database, jobs: Jobs, dead: Store, reaper: Store
    ) -> None:
        await reaper.reap(max_crashes=5)
        assert len(await jobs.all("SELECT FROM worker_session")) == 2
        await jobs.all(
            "UPDATE worker_session SET expires_at = now() - interval '2 hours' WHERE id = $1", dead.session_id
        )
        await reaper.reap(max_crashes=5)
        assert [row["id"] for row in await jobs.all("SELECT id FROM worker_session")] == [reaper.session_id]


class TestSuspects:
    """Jobs that two lost workers were running."""

    @pytest.fixture
    async def suspects(self, database: Database, jobs: Jobs, noop: JobKind[Number]) -> None:
        async with database.session() as session:
            await enqueue_many(session, noop, [Number(n=n) for n in range(6)])
        await jobs.all("UPDATE job SET crash_count = 2 WHERE (payload ->> 'n')::int < 4")

    async def test_claim_takes_one_suspect_job_at_most(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], suspects: None
    ) -> None:
        kinds = {noop.name: noop}
        first, second = [await open_store(database) for _ in range(2)]
        claimed = await first.claim(["default"], kinds, 10)
        assert sorted(job.suspect for job in claimed) == [False, False, True]
        assert await first.claim(["default"], kinds, 10, suspect=False) == []
        assert [job.suspect for job in await second.claim(["default"], kinds, 10)] == [True]

    async def test_suspect_jobs_do_not_hold_up_the_jobs_behind_them(
        self, database: Database, noop: JobKind[Number], suspects: None
    ) -> None:
        store = await open_store(database)
        assert len(await store.claim(["default"], {noop.name: noop}, 2, suspect=False)) == 2

    async def test_max_running_holds_for_suspect_jobs(self, database: Database, jobs: Jobs) -> None:
        @job("test.limited", max_running=1)
        async def limited(ctx: JobContext, payload: Number) -> None: ...

        async with database.session() as session:
            await enqueue_many(session, limited, [Number(n=0), Number(n=1)])
        await jobs.all("UPDATE job SET crash_count = 2 WHERE payload = '{\"n\": 1}'")
        store = await open_store(database)
        kinds = {limited.name: limited}
        (run,) = await store.claim(["default"], kinds, 10)
        assert await store.claim(["default"], kinds, 10) == []
        await store.finish([Finish(run.id, run.lease, State.SUCCEEDED)])
        assert len(await store.claim(["default"], kinds, 10)) == 1

    async def test_worker_runs_all_suspect_jobs_one_at_a_time(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        running = most = 0

        @job("test.slow")
        async def slow(ctx: JobContext, payload: Number) -> None:
            nonlocal running, most
            if payload.n < 4:
                running += 1
                most = max(most, running)
                await asyncio.sleep(0.02)
                running -= 1

        async with database.session() as session:
            await enqueue_many(session, slow, [Number(n=n) for n in range(6)])
        await jobs.all("UPDATE job SET crash_count = 2 WHERE (payload ->> 'n')::int < 4")
        async with working(settings, slow):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 5"))
        assert most == 1


class TestRetention:
    async def test_ended_jobs_are_kept_for_the_retention_of_their_state(
        self, settings: Settings, database: Database, jobs: Jobs, noop: JobKind[Number], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await jobs.all(
            """
            INSERT INTO job_history (kind, queue, priority, payload, max_attempts, run_at, state, finished_at)
            SELECT 'test.noop', 'default', 0, '{}', 1, now(), state, now() - days * interval '1 day'
            FROM unnest(ARRAY['succeeded', 'cancelled', 'discarded']) AS state, unnest(ARRAY[1, 8, 91]) AS days
            """
        )
        # A batch at a time, and still all of them.
        monkeypatch.setattr(housekeeping_module, "PRUNE_ROWS", 1)
        monkeypatch.setattr(store_module, "PRUNE", PRUNE.replace("LIMIT 5000", "LIMIT 1"))

        async def pruned() -> bool:
            return len(await jobs.all("SELECT FROM job_history")) <= 4

        async with working(settings, noop):
            await until(pruned)
        left = await jobs.all(
            "SELECT state, extract(day FROM now() - finished_at)::int AS days FROM job_history ORDER BY state, days"
        )
        assert [(row["state"], row["days"]) for row in left] == [
            ("cancelled", 1),
            ("discarded", 1),
            ("discarded", 8),
            ("succeeded", 1),
        ]

    async def test_kind_keeps_its_jobs_for_its_own_time_and_its_dead_letters_for_that_of_all(
        self, settings: Settings, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        @job("test.brief", keep=timedelta(hours=1))
        async def brief(ctx: JobContext, payload: Number) -> None: ...

        @job("test.long", keep=30 * 86_400)
        async def long(ctx: JobContext, payload: Number) -> None: ...

        await jobs.all(
            """
            INSERT INTO job_history (kind, queue, priority, payload, max_attempts, run_at, state, finished_at)
            SELECT kind, 'default', 0, '{}', 1, now(), state, now() - hours * interval '1 hour'
            FROM unnest(ARRAY['test.brief', 'test.long', 'test.noop', 'test.unknown']) AS kind,
                unnest(ARRAY['succeeded', 'cancelled', 'discarded']) AS state, unnest(ARRAY[0, 2, 200, 800]) AS hours
            """
        )
        async with working(settings, brief, long, noop):
            await until(lambda: jobs.all("SELECT FROM job_history HAVING count(*) <= 32"))
        rows = await jobs.all(
            """
            SELECT kind, state, array_agg(round(extract(epoch FROM now() - finished_at) / 3600)::int) AS hours
            FROM (SELECT * FROM job_history ORDER BY finished_at DESC) AS ended GROUP BY kind, state
            """
        )
        left = {(row["kind"], row["state"]): row["hours"] for row in rows}
        for kind, hours in (("brief", [0]), ("long", [0, 2, 200]), ("noop", [0, 2]), ("unknown", [0, 2])):
            assert left[f"test.{kind}", "succeeded"] == left[f"test.{kind}", "cancelled"] == hours
            assert left[f"test.{kind}", "discarded"] == [0, 2, 200, 800]

    async def test_pruning_reads_only_what_it_deletes(self, database: Database, jobs: Jobs) -> None:
        """Whatever is kept longer, and with the statistics of an empty table."""
        await jobs.all("ALTER TABLE job_history SET (autovacuum_enabled = false)")
        await jobs.all(
            """
            INSERT INTO job_history (kind, queue, priority, payload, max_attempts, run_at, state, finished_at)
            SELECT CASE WHEN n <= 10 THEN 'test.brief' ELSE 'test.long' END, 'default', 0, '{}', 1, now(), 'succeeded',
                now() - interval '10 days'
            FROM generate_series(1, 20000) AS n
            """
        )
        rows = await jobs.all(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {PRUNE}", "succeeded", timedelta(days=7), '{"test.long": 8640000}'
        )
        found = nodes(rows[0][0][0]["Plan"])
        scans = [node for node in found if node.get("Relation Name") == "job_history" and "Scan" in node["Node Type"]]
        read = [(node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in scans]
        assert sum(read) <= 30
        assert "Seq Scan" not in {node["Node Type"] for node in scans}

    async def test_audit_records_are_kept_for_their_retention(
        self, settings: Settings, jobs: Jobs, noop: JobKind[Number], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await jobs.all(
            """
            INSERT INTO audit_record (at, issuer, subject, action, target, detail)
            SELECT now() - days * interval '1 day', 'test', 'olga', 'queue.pause', 'queue:mail', '{}'
            FROM unnest(ARRAY[1, 364, 366, 367]) AS days
            """
        )
        monkeypatch.setattr(housekeeping_module, "PRUNE_ROWS", 1)
        monkeypatch.setattr(store_module, "PRUNE_AUDIT", PRUNE_AUDIT.replace("LIMIT 5000", "LIMIT 1"))

        async def pruned() -> bool:
            return len(await jobs.all("SELECT FROM audit_record")) <= 2

        async with working(settings, noop):
            await until(pruned)
        left = await jobs.all("SELECT extract(day FROM now() - at)::int AS days FROM audit_record ORDER BY days")
        assert [row["days"] for row in left] == [1, 364]

    async def test_members_of_an_open_batch_are_kept_until_it_has_ended(
        self, settings: Settings, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        batches = {name: uuid4() for name in ("open", "ended", "old")}
        await jobs.all(
            """
            INSERT INTO job_batch (id, finished_at) SELECT id, now() - days * interval '1 day'
            FROM unnest($1::uuid[], ARRAY[NULL, 8, 91]) AS batch (id, days)
            """,
            list(batches.values()),
        )
        members = """
            (kind, queue, priority, payload, max_attempts, run_at, state, batch_id{0})
            SELECT 'test.other', 'default', 0, '{{}}', 1, now(), '{1}', id{2} FROM unnest($1::uuid[]) AS id
        """
        ended = members.format(", finished_at", "succeeded", ", now() - interval '8 days'")
        await jobs.all(f"INSERT INTO job_history {ended}", list(batches.values()))
        await jobs.all(f"INSERT INTO job {members.format('', 'available', '')}", [batches["open"]])

        async def pruned() -> bool:
            return len(await jobs.all("SELECT FROM job_batch")) == 2 and len(await history()) == 1

        async def history() -> list[Any]:
            return await jobs.all("SELECT batch_id FROM job_history")

        async with working(settings, noop):
            await until(pruned)
        assert [row["batch_id"] for row in await history()] == [batches["open"]]
        left = await jobs.all("SELECT id FROM job_batch")
        assert {row["id"] for row in left} == {batches["open"], batches["ended"]}


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


class TestPlans:
    """Plans with the statistics of an empty table, as just after a burst."""

    ROWS = 20_000

    @pytest.fixture(params=[0, 2], ids=["vacuumed", "just emptied"])
    async def store(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], request: pytest.FixtureRequest
    ) -> Store:
        """An ANALYZE found no row, and no page or two: of those the planner believes that they are empty still."""
        await jobs.all("ALTER TABLE job SET (autovacuum_enabled = false)")
        for relation in ("job", "pk_job", "ix_job_claim"):
            await jobs.all(
                "SELECT pg_restore_relation_stats('schemaname', 'public', 'relname', $1::text, 'relpages', $2::int, "
                "'reltuples', 0::real)",
                relation,
                request.param,
            )
        store = await open_store(database)
        await jobs.all(
            """
            INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state, session_id, run_lease)
            SELECT CASE WHEN n % 2 = 0 THEN 'test.noop' ELSE 'test.unknown' END, 'default', 0, '{}', 1, now(),
                CASE WHEN n % 4 < 2 THEN 'available' ELSE 'running' END, $1, 1
            FROM generate_series(1, $2::int) AS n
            """,
            store.session_id,
            self.ROWS,
        )
        return store

    async def explain(self, jobs: Jobs, sql: str, *arguments: Any) -> list[dict[str, Any]]:
        rows = await jobs.all(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *arguments)
        return nodes(rows[0][0][0]["Plan"])

    @staticmethod
    def job_scans(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [node for node in found if node.get("Relation Name") == "job" and "Scan" in node["Node Type"]]

    async def test_claim_scans_only_its_own_index_range(self, jobs: Jobs, store: Store, noop: JobKind[Number]) -> None:
        limits = '{"test.noop": 60}'
        found = await self.explain(jobs, CLAIM, ["default"], [noop.name], [100], 100, store.session_id, limits, True)
        scans = self.job_scans(found)
        assert "Seq Scan" not in {node["Node Type"] for node in scans}
        assert {node["Index Name"] for node in found if "Index Name" in node} >= {"ix_job_claim", "pk_job"}
        assert max(node["Actual Rows"] * node["Actual Loops"] for node in scans) <= 100

    # What follows the ids, the leases and the session; how often each row is read: locked, then written.
    @pytest.mark.parametrize(
        ("statement", "words", "reads"),
        [
            pytest.param(FINISH, (["succeeded"] * 200, [None] * 200, [None] * 200), 2, id="finish"),
            pytest.param(RETRY, ([1.0] * 200, ["{}"] * 200, [True] * 200), 2, id="retry"),
            pytest.param(RELEASE, (), 2, id="release"),
            pytest.param(PROGRESS, ([1] * 200, [2] * 200, ["half"] * 200), 2, id="progress"),
            pytest.param(HELD, (), 1, id="held"),
        ],
    )
    async def test_statements_of_a_run_find_their_rows_by_primary_key(
        self, jobs: Jobs, store: Store, statement: str, words: tuple[list[Any], ...], reads: int
    ) -> None:
        ids: list[UUID] = [row[0] for row in await jobs.all("SELECT id FROM job WHERE state = 'running' LIMIT 200")]
        found = await self.explain(jobs, statement, ids, [1] * 200, store.session_id, *words)
        scans = self.job_scans(found)
        assert "Seq Scan" not in {node["Node Type"] for node in scans}
        assert {node["Index Name"] for node in found if "job" in node.get("Index Name", "")} == {"pk_job"}
        assert sum(node["Actual Rows"] * node["Actual Loops"] for node in scans) == reads * 200

    async def test_reaper_reads_running_jobs_alone(self, jobs: Jobs, store: Store) -> None:
        """It finds those that it takes by primary key."""
        await jobs.all("""
            UPDATE job SET deadline_at = now() - interval '1 hour'
            WHERE id IN (SELECT id FROM job WHERE state = 'running' LIMIT 10)
        """)
        found = await self.explain(jobs, REAP, 5, "{}", "{}", DEADLINE_MARGIN, "{}", timedelta(hours=1))
        scans = self.job_scans(found)
        read = sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in scans
        )
        assert read < self.ROWS * 0.6, "half of them run"

    async def test_batch_of_outcomes_is_not_joined_row_by_row(self, database: Database, jobs: Jobs) -> None:
        """With statistics of a moment when nothing ran: they say that no job has a session."""
        await jobs.all("ALTER TABLE job SET (autovacuum_enabled = false)")
        store = await open_store(database)
        await jobs.all(
            """
            INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state)
            SELECT 'test.noop', 'default', 0, '{}', 1, now(), 'available' FROM generate_series(1, 1000)
            """
        )
        await jobs.all("ANALYZE job")
        rows = await jobs.all("UPDATE job SET state = 'running', session_id = $1 RETURNING id", store.session_id)
        ids = [row["id"] for row in rows[:500]]
        fence = (ids, [0] * 500, store.session_id)
        nothing = [None] * 500
        found = await self.explain(jobs, FINISH, *fence, ["succeeded"] * 500, nothing, nothing)
        assert found[0]["Actual Rows"] == 500
        assert max(node.get("Rows Removed by Join Filter", 0) for node in found) < 1000

    @pytest.mark.usefixtures("store")
    @pytest.mark.parametrize(("statement", "given"), [(OVER_AMONG, True), (OVER, False)], ids=["among", "all"])
    async def test_look_for_a_live_member_reads_one_job_of_each_batch(
        self, jobs: Jobs, statement: str, given: bool
    ) -> None:
        ids = [uuid4() for _ in range(10)]
        await jobs.all("INSERT INTO job_batch (id) SELECT unnest($1::uuid[])", ids)
        await jobs.all("UPDATE job SET batch_id = ($1::uuid[])[1 + abs(hashtext(id::text)) % 10]", ids)
        found = await self.explain(jobs, statement, *([ids] if given else []))
        scans = self.job_scans(found)
        assert {node["Index Name"] for node in scans} == {"ix_job_batch_id"}
        assert sum(node["Actual Rows"] * node["Actual Loops"] for node in scans) <= 10

    async def test_cached_plan_does_not_scan_the_table_after_a_burst(
        self, settings: Settings, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        """It was made while there was hardly a job, and is not made anew before the next VACUUM or ANALYZE."""
        await jobs.all("ALTER TABLE job SET (autovacuum_enabled = false)")
        await jobs.all("VACUUM ANALYZE job")
        engine = engine_database(settings)
        store = await open_store(engine)
        entry = error_entry("failure", run=1, attempt=1)

        async def work(count: int) -> None:
            runs = await store.claim(["default"], {noop.name: noop}, count)
            assert len(await store.held([(run.id, run.lease) for run in runs])) == count
            half = count // 2
            assert len(await store.retry([TryAgain(run.id, run.lease, 1000, entry) for run in runs[:half]])) == half
            ended = await store.finish([Finish(run.id, run.lease, State.SUCCEEDED) for run in runs[half:]])
            assert len(ended) == count - half

        async def read_in_sequence() -> int:
            async with engine.connection() as connection:
                await connection.execute("SELECT pg_stat_force_next_flush()")
                found = await connection.fetchval("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'job'")
            return int(found)

        for _ in range(10):  # from the sixth on a plan is kept
            async with database.session() as session:
                await enqueue_many(session, noop, [Number(), Number()])
            await work(2)
        async with database.session() as session:
            await enqueue_many(session, noop, [Number(n=n) for n in range(2000)])
        before = await read_in_sequence()
        await work(200)
        assert await read_in_sequence() - before < 2000
        await engine.aclose()

    async def test_sequential_scans_are_off_for_the_engine_and_on_for_handlers(
        self, settings: Settings, database: Database
    ) -> None:
        found: list[Any] = []

        @job("test.planning")
        async def planning(ctx: JobContext, payload: Number) -> None:
            async with cast(Recorder, ctx._recorder)._store.database.connection() as engine, ctx.session() as own:
                show = "SHOW enable_seqscan"
                found.extend([await engine.fetchval(show), await own.scalar(text(show))])

        async with working(settings, planning):
            async with database.session() as session:
                await enqueue(session, planning, Number())
            await until(lambda: asyncio.sleep(0, len(found) == 2))
        assert found == ["off", "on"]

    async def test_claim_skips_dead_index_entries(
        self, database: Database, jobs: Jobs, store: Store, noop: JobKind[Number]
    ) -> None:
        """What was claimed and finished leaves dead entries at the head of the index, until a vacuum."""
        kinds = {noop.name: noop}
        total = 0
        while claimed := await store.claim(["default"], kinds, 500):
            total += len(await store.finish([Finish(run.id, run.lease, State.SUCCEEDED) for run in claimed]))
            if total >= 4500:
                break

        async def pages_of_a_claim() -> int:
            rows = await jobs.all(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {CLAIM}",
                ["default"],
                [noop.name],
                [10],
                10,
                store.session_id,
                '{"test.noop": 60}',
                True,
            )
            plan = rows[0][0][0]["Plan"]
            return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

        # A scan marks them, unless a transaction has begun that is older than their end: of another test, which
        # runs beside this one on the same server.
        async def few() -> bool:
            await asyncio.sleep(0.2)
            return await pages_of_a_claim() < 400

        await store.claim(["default"], kinds, 10)
        await until(few)

    async def test_job_table_is_vacuumed_by_row_count(self, jobs: Jobs) -> None:
        options = (await jobs.one("SELECT reloptions FROM pg_class WHERE oid = 'job'::regclass"))["reloptions"]
        assert {"fillfactor=70", "autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_threshold=2000"} <= set(options)


class TestSweep:
    async def test_sweep_makes_due_jobs_available_and_reports_those_of_this_worker(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        store = await open_store(database)
        async with database.session() as session:
            tomorrow = datetime.now(UTC) + timedelta(days=1)
            await enqueue(session, noop, Number(n=1), run_at=tomorrow)
            await enqueue(session, noop, Number(n=2), run_at=tomorrow)
        nothing = Swept(work=False, more=False, lost=False)
        assert await store.sweep(["default"], ["test.noop"]) == nothing
        await jobs.all("""UPDATE job SET run_at = now() WHERE payload = '{"n": 1}'""")
        assert await store.sweep(["other"], ["test.noop"]) == nothing
        assert await store.sweep(["default"], ["test.noop"]) == nothing._replace(work=True)
        assert {row["state"] for row in await jobs.all("SELECT state FROM job")} == {"available", "scheduled"}

    async def test_burst_delays_no_due_job_of_another_queue_or_priority(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        """60,000 jobs that were due before it delayed a job of another queue by a minute."""
        store = await open_store(database)
        fill = (
            "INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state) SELECT 'test.noop', $1, $2, "
            "'{}', 1, now() - interval '1 minute', $3 FROM generate_series(1, $4)"
        )
        await jobs.all(fill, "busy", 0, "scheduled", 3000)
        await jobs.all(fill, "failing", 0, "retryable", 3000)
        for queue, priority in (("busy", -1), ("busy", 1), ("quiet", 0)):
            await jobs.all(fill, queue, priority, "scheduled", 1)
        await jobs.all("UPDATE job SET run_at = run_at - interval '1 hour' WHERE priority = 0 AND queue <> 'quiet'")
        swept = await store.sweep(["quiet"], ["test.noop"])
        assert swept == Swept(work=True, more=True, lost=False)
        due = await jobs.all("SELECT queue, priority, count(*) FROM job WHERE state = 'available' GROUP BY 1, 2")
        assert {(row["queue"], row["priority"]): row["count"] for row in due} == {
            ("busy", -1): 1,
            ("busy", 0): 200,
            ("busy", 1): 1,
            ("failing", 0): 200,
            ("quiet", 0): 1,
        }
        # The worker goes on at once while there are more.
        while (await store.sweep(["quiet"], ["test.noop"])).more:
            pass
        assert await jobs.all("SELECT FROM job WHERE state <> 'available'") == []

    async def test_unreachable_database_is_logged_once(self, settings: Settings, noop: JobKind[Number]) -> None:
        away = settings.model_copy(update={"DATABASE_URL": type(settings.DATABASE_URL)("postgresql://p@127.0.0.1:1/p")})
        with capture_logs() as entries:
            async with working(away, noop):
                await asyncio.sleep(0.3)
        assert [entry["event"] for entry in entries].count("waiting for the database") == 1
