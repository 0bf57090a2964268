"""How long a unique key is held: `unique` and `unique_for` of `enqueue`."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import (
    Discard,
    EnqueuedJob,
    JobContext,
    JobKind,
    RetryPolicy,
    Snooze,
    State,
    TooManyJobsError,
    enqueue,
    enqueue_many,
    job,
)
from plinth.jobs.admin.bulk import Selection, act_on_many
from plinth.jobs.admin.jobs import request_cancel, retry_job
from plinth.jobs.claimed import ClaimedJob
from plinth.jobs.engine.prune_sql import PRUNE_KEYS
from plinth.jobs.engine.store import Store
from plinth.jobs.outcome import Finish, Release, TryAgain, error_entry
from plinth.jobs.unique import HELD, HOLD, uniqueness
from tests.plinth.integration.jobs.conftest import OLGA, Jobs, Number, open_store, until, working


@pytest.fixture
def task() -> JobKind[Number]:
    @job("test.task", retry=RetryPolicy(max_attempts=4))
    async def task(ctx: JobContext, payload: Number) -> None:
        pass

    return task


@pytest.fixture
async def store(database: Database) -> Store:
    return await open_store(database)


async def add(database: Database, at_once: bool, kind: JobKind[Number], n: int = 0, **options: Any) -> EnqueuedJob:
    """Enqueue a job under the key `k`."""
    if at_once:
        return await enqueue(database, kind, Number(n=n), unique_key="k", **options)
    async with database.session() as session:
        return await enqueue(session, kind, Number(n=n), unique_key="k", **options)


async def claim(store: Store, kind: JobKind[Number]) -> ClaimedJob:
    (claimed,) = await store.claim(["default"], {kind.name: kind}, 1)
    return claimed


async def end(store: Store, kind: JobKind[Number], state: State) -> None:
    """Run the one available job of the kind to its end."""
    claimed = await claim(store, kind)
    if state is State.CANCELLED:
        async with store.database.session() as session:
            await request_cancel(session, claimed.id)
    entry = error_entry("error", run=1, attempt=1, error="broken") if state is State.DISCARDED else None
    assert await store.finish([Finish(claimed.id, claimed.lease, state, entry)]) == {claimed.id}


@pytest.mark.parametrize("at_once", [False, True])
class TestWaiting:
    async def test_key_is_taken_while_the_job_waits_and_free_once_its_run_starts(
        self, database: Database, jobs: Jobs, store: Store, task: JobKind[Number], at_once: bool
    ) -> None:
        first = await add(database, at_once, task, 1, unique="waiting")
        assert await add(database, at_once, task, 2, unique="waiting") == EnqueuedJob(first.id, created=False)
        assert (await claim(store, task)).id == first.id
        second = await add(database, at_once, task, 3, unique="waiting")
        assert second.created
        assert not (await add(database, at_once, task, 4, unique="waiting")).created
        assert [row["payload"]["n"] for row in await jobs.all("SELECT payload FROM job ORDER BY id")] == [1, 3]

    @pytest.mark.parametrize("how", ["retry", "snooze", "release", "reap"])
    async def test_job_that_is_run_again_does_not_take_its_key_back(
        self, database: Database, jobs: Jobs, store: Store, task: JobKind[Number], at_once: bool, how: str
    ) -> None:
        first = await add(database, at_once, task, unique="waiting")
        claimed = await claim(store, task)
        if how == "retry":
            entry = error_entry("error", run=1, attempt=1, error="broken")
            await store.retry([TryAgain(first.id, claimed.lease, 0, entry)])
        elif how == "snooze":
            await store.retry([TryAgain(first.id, claimed.lease, 0, None, counts=False)])
        elif how == "release":
            await store.release([Release(first.id, claimed.lease)])
        else:
            await jobs.all("UPDATE worker_session SET expires_at = now() - interval '1 second'")
            assert [reaped.id for reaped in await store.reap(max_crashes=5)] == [first.id]
        assert await jobs.state(first.id) != "running"
        assert (await jobs.live(first.id))["unique_key"] is None
        assert (await add(database, at_once, task, unique="waiting")).created

    async def test_job_that_ended_before_its_run_keeps_the_key_when_it_is_brought_back(
        self, database: Database, jobs: Jobs, store: Store, task: JobKind[Number], at_once: bool
    ) -> None:
        first = await add(database, at_once, task, unique="waiting")
        async with database.session() as session:
            await request_cancel(session, first.id)
            await retry_job(session, first.id)
        assert not (await add(database, at_once, task, unique="waiting")).created
        await claim(store, task)
        assert (await add(database, at_once, task, unique="waiting")).created

    async def test_replacing_gets_another_run_for_a_change_during_the_run(
        self, database: Database, jobs: Jobs, store: Store, task: JobKind[Number], at_once: bool
    ) -> None:
        for number in (1, 2):
            await add(database, at_once, task, number, unique="waiting", replace=True)
        await claim(store, task)
        for number in (3, 4):
            await add(database, at_once, task, number, unique="waiting", replace=True)
        assert [row["payload"]["n"] for row in await jobs.all("SELECT payload FROM job ORDER BY id")] == [2, 4]


class TestWaitingBesideTransactions:
    async def test_job_does_not_start_before_the_transactions_end_that_were_told_of_it(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        first = await add(database, True, task, unique="waiting")
        async with AsyncExitStack() as open_transactions, asyncio.timeout(20):
            for _ in range(4):  # and none waits for another
                session = await open_transactions.enter_async_context(database.session())
                told = await enqueue(session, task, Number(), unique_key="k", unique="waiting")
                assert told == EnqueuedJob(first.id, created=False)
            assert await store.claim(["default"], {task.name: task}, 1) == []
        assert (await claim(store, task)).id == first.id

    async def test_each_of_concurrent_enqueues_is_followed_by_a_run_that_sees_it(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        """A change that commits is seen by a run that starts afterwards, however the two meet."""
        committed: list[int] = []
        seen: list[int] = []

        @job("test.reads")
        async def reads(ctx: JobContext, payload: Number) -> None:
            rows = await jobs.all("SELECT n FROM change")
            seen.append(len(rows))

        async def change(n: int) -> None:
            async with database.session() as session:
                await (await session.connection()).exec_driver_sql("INSERT INTO change VALUES ($1)", (n,))
                await enqueue(session, reads, Number(n=n), unique_key="k", unique="waiting")
                await asyncio.sleep(0.01)
            committed.append(n)

        await jobs.all("CREATE TABLE change (n int)")
        try:
            async with working(settings, reads):
                for start in range(0, 40, 4):
                    await asyncio.gather(*(change(n) for n in range(start, start + 4)))
                await until(lambda: jobs.all("SELECT FROM (SELECT count(*) FROM job) AS live WHERE count = 0"))
        finally:
            await jobs.all("DROP TABLE change")
        assert len(committed) == 40
        assert seen[-1] == 40


@pytest.mark.parametrize("at_once", [False, True])
class TestSuccess:
    async def test_key_is_free_once_a_job_has_succeeded(
        self, database: Database, store: Store, task: JobKind[Number], at_once: bool
    ) -> None:
        first = await add(database, at_once, task, unique="success")
        assert await add(database, at_once, task, unique="success") == EnqueuedJob(first.id, created=False)
        await end(store, task, State.SUCCEEDED)
        second = await add(database, at_once, task, unique="success")
        assert second.created
        assert await add(database, at_once, task, unique="success") == EnqueuedJob(second.id, created=False)

    @pytest.mark.parametrize("state", [State.DISCARDED, State.CANCELLED])
    async def test_job_that_ended_without_success_holds_the_key_until_it_is_retried_and_succeeds(
        self, database: Database, store: Store, task: JobKind[Number], at_once: bool, state: State
    ) -> None:
        first = await add(database, at_once, task, unique="success")
        await end(store, task, state)
        assert await add(database, at_once, task, unique="success") == EnqueuedJob(first.id, created=False)
        async with database.session() as session:
            await retry_job(session, first.id)
        assert not (await add(database, at_once, task, unique="success")).created
        await end(store, task, State.SUCCEEDED)
        assert (await add(database, at_once, task, unique="success")).created

    async def test_deleted_dead_letter_frees_the_key(
        self, database: Database, jobs: Jobs, store: Store, task: JobKind[Number], at_once: bool
    ) -> None:
        first = await add(database, at_once, task, unique="success")
        await end(store, task, State.DISCARDED)
        async with database.session() as session:
            assert await act_on_many(session, "delete", Selection(ids=[first.id]), by=OLGA) == 1
        assert await jobs.all("SELECT FROM job_key_hold") == []
        assert (await add(database, at_once, task, unique="success")).created

    async def test_pruned_dead_letter_frees_the_key_and_leaves_no_row(
        self, database: Database, jobs: Jobs, store: Store, task: JobKind[Number], at_once: bool
    ) -> None:
        await add(database, at_once, task, unique="success")
        await end(store, task, State.DISCARDED)
        assert await store.prune_keys() == 0
        assert await store.prune(State.DISCARDED, 0) == 1
        assert (await jobs.one("SELECT until_success FROM job_key_hold"))["until_success"] is False
        assert await store.prune_keys() == 1
        assert (await add(database, at_once, task, unique="success")).created


async def pass_time(jobs: Jobs, period: timedelta) -> None:
    await jobs.all("UPDATE job_key_hold SET free_at = free_at - $1::interval", period)


@pytest.mark.parametrize("at_once", [False, True])
class TestPeriod:
    async def test_key_is_held_for_the_period_though_its_job_has_ended(
        self, database: Database, jobs: Jobs, store: Store, task: JobKind[Number], at_once: bool
    ) -> None:
        first = await add(database, at_once, task, unique_for=60)
        await end(store, task, State.SUCCEEDED)
        await pass_time(jobs, timedelta(seconds=50))
        assert await add(database, at_once, task, unique_for=60) == EnqueuedJob(first.id, created=False)
        await pass_time(jobs, timedelta(seconds=11))
        second = await add(database, at_once, task, unique_for=60)
        assert second.created
        assert await add(database, at_once, task, unique_for=60) == EnqueuedJob(second.id, created=False)

    async def test_live_job_holds_the_key_beyond_the_period(
        self, database: Database, jobs: Jobs, task: JobKind[Number], at_once: bool
    ) -> None:
        first = await add(database, at_once, task, unique_for=60)
        await pass_time(jobs, timedelta(seconds=61))
        assert await add(database, at_once, task, unique_for=60) == EnqueuedJob(first.id, created=False)
        assert len(await jobs.all("SELECT FROM job")) == 1

    async def test_period_and_waiting_make_one_job_each_period_and_one_that_waits(
        self, database: Database, jobs: Jobs, store: Store, task: JobKind[Number], at_once: bool
    ) -> None:
        await add(database, at_once, task, unique="waiting", unique_for=60)
        await claim(store, task)
        assert not (await add(database, at_once, task, unique="waiting", unique_for=60)).created
        await pass_time(jobs, timedelta(seconds=61))
        assert (await add(database, at_once, task, unique="waiting", unique_for=60)).created

    async def test_period_and_success_hold_until_both_are_over(
        self, database: Database, jobs: Jobs, store: Store, task: JobKind[Number], at_once: bool
    ) -> None:
        first = await add(database, at_once, task, unique="success", unique_for=60)
        await end(store, task, State.DISCARDED)
        await pass_time(jobs, timedelta(seconds=61))
        assert not (await add(database, at_once, task, unique="success", unique_for=60)).created
        async with database.session() as session:
            await retry_job(session, first.id)
        await end(store, task, State.SUCCEEDED)
        assert (await add(database, at_once, task, unique="success", unique_for=60)).created

    async def test_keys_that_are_free_are_pruned_and_others_stay(
        self, database: Database, jobs: Jobs, store: Store, task: JobKind[Number], at_once: bool
    ) -> None:
        await add(database, at_once, task, unique_for=60)
        await end(store, task, State.SUCCEEDED)
        await store.prune(State.SUCCEEDED, 0)
        assert await store.prune_keys() == 0
        assert not (await add(database, at_once, task, unique_for=60)).created
        await pass_time(jobs, timedelta(seconds=61))
        assert await store.prune_keys() == 1


class TestManyAtOnce:
    @pytest.mark.parametrize("options", [{"unique": "success"}, {"unique_for": 60.0}, {"unique": "waiting"}])
    async def test_concurrent_batches_of_the_same_keys_have_an_answer_for_each(
        self, database: Database, jobs: Jobs, task: JobKind[Number], options: Any
    ) -> None:
        keys = [f"k{n % 20}" for n in range(40)]

        async def batch(shift: int) -> list[EnqueuedJob]:
            turned = keys[shift:] + keys[:shift]
            return await enqueue_many(database, task, [Number()] * 40, unique_keys=turned, **options)

        answers = await asyncio.gather(*map(batch, range(10)))
        assert sum(answer.created for batch in answers for answer in batch) == 20
        rows = {row["unique_key"]: row["id"] for row in await jobs.all("SELECT id, unique_key FROM job")}
        for shift, found in enumerate(answers):
            assert [answer.id for answer in found] == [rows[key] for key in keys[shift:] + keys[:shift]]

    @pytest.mark.parametrize("options", [{"unique": "success"}, {"unique_for": 60.0}])
    async def test_one_job_is_made_while_jobs_of_the_key_begin_and_end(
        self, settings: Settings, database: Database, jobs: Jobs, options: Any
    ) -> None:
        @job("test.fails")
        async def fails(ctx: JobContext, payload: Number) -> None:
            raise Discard("for good")

        async with working(settings, fails):
            calls = (add(database, n % 2 == 0, fails, n, **options) for n in range(60))
            made = await asyncio.gather(*calls)
            await jobs.end_of(made[0].id)
            made += [await add(database, True, fails, **options) for _ in range(5)]
        assert sum(answer.created for answer in made) == 1
        assert len({answer.id for answer in made}) == 1

    async def test_job_that_was_made_and_has_ended_meanwhile_is_the_answer(
        self, database: Database, jobs: Jobs, store: Store, task: JobKind[Number], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between the look at the held keys and the insertion."""
        from plinth.jobs import unique

        look, looks = unique.held_keys, 0

        async def held_keys(*arguments: Any) -> Any:
            nonlocal looks
            looks += 1
            found = await look(*arguments)
            if looks == 1:
                async with database.session() as session:
                    made.append(await enqueue(session, task, Number(n=1), unique_key="k", unique="success"))
                await end(store, task, State.DISCARDED)
            return found

        made: list[EnqueuedJob] = []
        monkeypatch.setattr(unique, "held_keys", held_keys)
        async with database.session() as session:
            keys = ["j", "k", "l"]
            answers = await enqueue_many(session, task, [Number()] * 3, unique_keys=keys, unique="success")
        assert [answer.created for answer in answers] == [True, False, True]
        assert answers[1].id == made[0].id
        assert {row["unique_key"] for row in await jobs.all("SELECT unique_key FROM job")} == {"j", "l"}
        assert len(await jobs.all("SELECT FROM job_key_hold")) == 3

    async def test_rolled_back_enqueue_holds_no_key(self, database: Database, task: JobKind[Number]) -> None:
        async with database.session() as session:
            await enqueue(session, task, Number(), unique_key="k", unique="success", unique_for=60)
            await session.rollback()
        assert (await add(database, True, task, unique="success", unique_for=60)).created


class TestFollowUps:
    @pytest.mark.parametrize("options", [{"unique": "success"}, {"unique_for": 60.0}, {"unique": "waiting"}])
    async def test_follow_ups_of_a_key_make_one_job(
        self, settings: Settings, database: Database, jobs: Jobs, task: JobKind[Number], options: Any
    ) -> None:
        @job("test.parent")
        async def parent(ctx: JobContext, payload: Number) -> None:
            ctx.enqueue(task, payload, queue="elsewhere", unique_key="k", **options)

        made = await enqueue_many(database, parent, [Number(n=n) for n in range(20)])
        async with working(settings, parent):
            for parent_job in made:
                assert (await jobs.end_of(parent_job.id))["state"] == "succeeded"
        assert len(await jobs.all("SELECT FROM job")) == 1

    async def test_job_that_sleeps_and_snoozes_has_no_key_to_wait_under(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.sleeper")
        async def sleeper(ctx: JobContext, payload: Number) -> None:
            if payload.n:
                raise Snooze(3600)
            await ctx.sleep(3600)

        made = []
        async with working(settings, sleeper):
            for number in range(2):
                made.append(await add(database, True, sleeper, number, unique="waiting"))
                await until(lambda: jobs.all("SELECT FROM job WHERE id = $1 AND run_lease > 0", made[-1].id))
                await until(lambda: jobs.all("SELECT FROM job WHERE id = $1 AND state = 'scheduled'", made[-1].id))
        assert all(answer.created for answer in made)


class TestLimits:
    async def test_held_key_counts_for_no_limit_of_its_owner(self, database: Database, store: Store) -> None:
        @job("test.limited", max_per_owner=1)
        async def limited(ctx: JobContext, payload: Number) -> None:
            pass

        first = await add(database, True, limited, owner="alice", unique="success")
        await end(store, limited, State.DISCARDED)
        await enqueue(database, limited, Number(), owner="alice")
        assert await add(database, True, limited, owner="alice", unique="success") == EnqueuedJob(first.id, False)
        with pytest.raises(TooManyJobsError):
            await enqueue(database, limited, Number(), owner="alice", unique_key="l", unique="success")

    @pytest.mark.parametrize(
        ("options", "what"),
        [
            ({"unique": "success"}, "give one"),
            ({"unique_for": 5}, "give one"),
            ({"unique_key": "k", "unique": "always"}, "one of live, waiting, success"),
            ({"unique_key": "k", "unique_for": 0}, "number of seconds"),
            ({"unique_key": "k", "unique_for": float("nan")}, "number of seconds"),
            ({"unique_key": "k", "unique_for": 1e12}, "number of seconds"),
            ({"unique_key": "k", "unique_for": 5, "replace": True}, "does not go with replace"),
            ({"unique_key": "k", "unique": "success", "replace": True}, "does not go with replace"),
        ],
    )
    async def test_what_makes_no_sense_is_refused(
        self, database: Database, task: JobKind[Number], options: Any, what: str
    ) -> None:
        with pytest.raises(ValueError, match=what):
            await enqueue(database, task, Number(), **options)

    def test_plain_key_needs_no_more_than_the_index_of_live_jobs(self) -> None:
        assert not uniqueness("live", None, keyed=True, replace=True).holds
        assert not uniqueness("waiting", None, keyed=True, replace=True).holds


class TestCost:
    @pytest.mark.parametrize(
        ("options", "made", "taken"),
        [
            ({}, 1, 2),
            ({"unique": "waiting"}, 1, 2),
            ({"unique": "waiting", "replace": True}, 1, 1),
            ({"unique": "success"}, 3, 1),
            ({"unique_for": 60.0}, 3, 1),
        ],
    )
    async def test_enqueue_takes_the_statements_that_the_page_says(
        self, database: Database, task: JobKind[Number], options: Any, made: int, taken: int
    ) -> None:
        statements: list[str] = []

        def note(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
            statements.append(statement)

        event.listen(database.engine.sync_engine, "before_cursor_execute", note)
        for number in (made, taken):
            statements.clear()
            await add(database, False, task, **options)
            assert len(statements) == number

    @pytest.mark.parametrize("analysed", [False, True])
    async def test_held_keys_are_found_by_index_among_many(
        self, database: Database, jobs: Jobs, store: Store, analysed: bool
    ) -> None:
        await jobs.all("ALTER TABLE job_key_hold SET (autovacuum_enabled = false)")
        await jobs.all(
            """
            INSERT INTO job_key_hold (kind, key, job_id, free_at, until_success)
            SELECT 'test.task', 'k' || n, gen_random_uuid(), now() + interval '1 hour', false
            FROM generate_series(1, 20000) AS n
            """
        )
        if analysed:
            await jobs.all("ANALYZE job_key_hold")
        keys, ids = [f"k{n}" for n in range(100)], [uuid4() for _ in range(100)]
        hold = HOLD, "test.task", keys, ids, timedelta(seconds=60), False
        for statement, *arguments in (HELD, "test.task", keys), hold, (PRUNE_KEYS,):
            rows = await jobs.all(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments)
            scans = [node for node in nodes(rows[0][0][0]["Plan"]) if node.get("Relation Name") == "job_key_hold"]
            read = [node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in scans]
            assert max(read) <= 100, statement


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]
