"""Limits by a key of the payload."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from pydantic import BaseModel

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import JobContext, JobKind, Limit, batch, enqueue, enqueue_many, job
from plinth.jobs.admin.jobs import retry_job
from plinth.jobs.engine import key_limits as key_limits_module
from plinth.jobs.engine.claim_sql import LIMIT_LOCK, TRY_LIMIT_LOCK
from plinth.jobs.engine.store import Store
from plinth.jobs.engine.worker import engine_database
from plinth.jobs.outcome import Release
from tests.plinth.integration.jobs.conftest import Jobs, Number, open_store, until, working


class Call(BaseModel):
    api: str | None = None
    n: int = 0


def by_api(call: Call) -> str | None:
    return call.api


async def idle(ctx: JobContext, payload: Call) -> None:
    """Nothing."""


def limited(**limits: Any) -> JobKind[Call]:
    return job("test.limited", limit=Limit(by_api, **limits))(idle)


async def claimed(
    store: Store, kind: JobKind[Any], number: int = 100, *, queues: tuple[str, ...] = ("default",)
) -> Any:
    """The keys of the jobs that a claim takes."""
    found = await store.claim(queues, {kind.name: kind}, number)
    return Counter(Call.model_validate_json(job.payload).api for job in found)


class TestRunning:
    async def test_runs_of_a_key_stay_within_its_limit_in_all_workers(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        running: Counter[str | None] = Counter()
        most: Counter[str | None] = Counter()

        @job("test.limited", limit=Limit(by_api, max_running=2))
        async def call(ctx: JobContext, payload: Call) -> None:
            running[payload.api] += 1
            most[payload.api] = max(most[payload.api], running[payload.api])
            await asyncio.sleep(0.01)
            running[payload.api] -= 1

        calls = [Call(api=api, n=n) for n in range(20) for api in ("a", "b", None)]
        await enqueue_many(database, call, calls)
        async with working(settings, call), working(settings, call), working(settings, call):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 59"))
        assert most["a"] == most["b"] == 2
        assert most[None] > 2, "a job without a key has no limit"

    async def test_many_waiting_jobs_of_a_key_leave_slots_for_others(self, database: Database) -> None:
        kind = limited(max_running=3)
        await enqueue_many(database, kind, [Call(api="a", n=n) for n in range(500)])
        await enqueue(database, kind, Call(api="b"))
        store = await open_store(database)
        assert await claimed(store, kind, 10) == {"a": 3, "b": 1}
        assert await claimed(store, kind, 10) == {}

    async def test_key_of_which_fewer_run_goes_first(self, database: Database) -> None:
        kind = limited(max_running=50)
        await enqueue_many(database, kind, [Call(api="a", n=n) for n in range(100)])
        store = await open_store(database)
        assert await claimed(store, kind, 10) == {"a": 10}
        await enqueue_many(database, kind, [Call(api="b", n=n) for n in range(10)])
        assert await claimed(store, kind, 10) == {"b": 10}

    async def test_better_priority_goes_first_within_a_key_and_between_keys(self, database: Database) -> None:
        kind = limited(max_running=1)
        await enqueue_many(database, kind, [Call(api=api, n=1) for api in "ab"])
        await enqueue(database, kind, Call(api="b", n=2), priority=-1)
        store = await open_store(database)
        first, second = [(await store.claim(["default"], {kind.name: kind}, 1))[0].payload for _ in range(2)]
        assert [Call.model_validate_json(text) for text in (first, second)] == [Call(api="b", n=2), Call(api="a", n=1)]

    async def test_key_counts_in_all_queues_together(self, database: Database) -> None:
        kind = limited(max_running=3)
        for queue in ("default", "other"):
            await enqueue_many(database, kind, [Call(api="a")] * 5, queue=queue)
        store = await open_store(database)
        assert await claimed(store, kind, queues=("default", "other")) == {"a": 3}

    async def test_worker_that_stands_still_in_a_claim_keeps_others_from_its_kinds_for_seconds_alone(
        self, settings: Settings, database: Database
    ) -> None:
        kind = limited(max_running=1)
        await enqueue(database, kind, Call(api="a"))
        store = await open_store(database)
        still = engine_database(settings)
        async with still.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            assert await connection.fetchval(TRY_LIMIT_LOCK, LIMIT_LOCK, kind.name)
            assert await claimed(store, kind) == {}
            assert await until(lambda: claimed(store, kind)) == {"a": 1}
        await still.aclose()

    async def test_released_job_gives_its_place_back(self, database: Database) -> None:
        kind = limited(max_running=1)
        await enqueue_many(database, kind, [Call(api="a")] * 2)
        store = await open_store(database)
        (first,) = await store.claim(["default"], {kind.name: kind}, 5)
        await store.release([Release(first.id, first.lease)])
        assert await claimed(store, kind) == {"a": 1}

    async def test_limit_of_the_kind_holds_beside_those_of_keys(self, database: Database) -> None:
        kind = job("test.limited", max_running=4, limit=Limit(by_api, max_running=3))(idle)
        await enqueue_many(database, kind, [Call(api=api) for api in ["a", "b", "c", None] for _ in range(5)])
        store = await open_store(database)
        found = await claimed(store, kind)
        assert found.total() == 4
        assert await claimed(store, kind) == {}

    async def test_jobs_of_paused_queues_wait(self, database: Database, jobs: Jobs) -> None:
        kind = limited(max_running=3)
        await enqueue(database, kind, Call(api="a"))
        await jobs.all("INSERT INTO job_queue (name) VALUES ('default')")
        assert await claimed(await open_store(database), kind) == {}

    async def test_jobs_with_and_without_keys_share_the_slots(self, database: Database) -> None:
        kind = limited(max_running=50)

        @job("test.plain")
        async def plain(ctx: JobContext, payload: Number) -> None: ...

        await enqueue_many(database, plain, [Number(n=n) for n in range(10)])
        await enqueue_many(database, kind, [Call(api="a")] * 10, priority=-1)
        store = await open_store(database)
        found = await store.claim(["default"], {kind.name: kind, plain.name: plain}, 15)
        assert Counter(job.kind for job in found) == {"test.limited": 10, "test.plain": 5}


class TestManyKinds:
    """Kinds with keys beside each other: none of them keeps the others waiting."""

    @pytest.fixture
    def other(self) -> JobKind[Call]:
        return job("test.other", limit=Limit(by_api, max_running=50))(idle)

    async def claimed(self, store: Store, *kinds: JobKind[Any]) -> Any:
        found = await store.claim(["default"], {kind.name: kind for kind in kinds}, 10)
        return Counter(job.kind for job in found)

    async def test_kind_near_its_limit_leaves_slots_to_others(self, database: Database, other: JobKind[Call]) -> None:
        kind = job("test.limited", max_running=1, limit=Limit(by_api, max_running=1))(idle)
        await enqueue_many(database, kind, [Call(api=f"{n}") for n in range(50)])
        await enqueue_many(database, other, [Call(api="a", n=n) for n in range(20)])
        store = await open_store(database)
        assert await self.claimed(store, kind, other) == {"test.limited": 1, "test.other": 9}

    async def test_kind_with_many_keys_goes_not_before_one_that_is_due_for_longer(
        self, database: Database, other: JobKind[Call]
    ) -> None:
        kind = limited(max_running=1)
        await enqueue_many(database, other, [Call(api="a", n=n) for n in range(25)])
        await enqueue_many(database, kind, [Call(api=f"{n}") for n in range(50)])
        store = await open_store(database)
        assert await self.claimed(store, other) == {"test.other": 10}
        assert await self.claimed(store, kind, other) == {"test.other": 10}
        assert await self.claimed(store, kind, other) == {"test.other": 5, "test.limited": 5}


class TestManyKeys:
    async def test_keys_that_are_full_hide_none_with_room(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(key_limits_module, "MAX_WALKS", 2)
        kind = limited(max_running=1)
        store = await open_store(database)
        full = [Call(api=f"{n:04}") for n in range(450)]
        await enqueue_many(database, kind, full)
        while await store.claim(["default"], {kind.name: kind}, 100):
            pass
        await enqueue_many(database, kind, [*full, Call(api="zz")])
        claims = [await claimed(store, kind) for _ in range(4)]
        assert {"zz": 1} in claims, "five walks of 100 keys reach it, two of them in each claim"

    async def test_each_of_many_keys_gets_its_turn(self, database: Database) -> None:
        kind = limited(max_running=1)
        await enqueue_many(database, kind, [Call(api=f"{n:04}") for n in range(300) for _ in range(2)])
        store = await open_store(database)
        found: Counter[Any] = Counter()
        for _ in range(30):
            found += await claimed(store, kind, 10)
        assert len(found) == 300
        assert set(found.values()) == {1}


class TestStarts:
    async def test_no_more_start_than_the_limit_says(self, database: Database, jobs: Jobs) -> None:
        kind = limited(max_starts=3, per=60)
        await enqueue_many(database, kind, [Call(api=api) for api in "ab" for _ in range(5)])
        store = await open_store(database)
        assert await claimed(store, kind) == {"a": 3, "b": 3}
        assert await claimed(store, kind) == {}
        assert store.key_limits.free_in == pytest.approx(60, abs=30)
        await jobs.all("UPDATE job_start SET at = at - interval '61 seconds' WHERE limit_key = 'a'")
        assert await claimed(store, kind) == {"a": 2}
        assert [tuple(row) for row in await jobs.all("SELECT limit_key, starts FROM job_start ORDER BY 1")] == [
            ("a", 2),
            ("b", 3),
        ], "starts that count no more are gone"

    async def test_starts_within_any_period_stay_within_the_limit(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        kind = limited(max_starts=4, per=0.3)
        await enqueue_many(database, kind, [Call(api="a", n=n) for n in range(12)])
        async with working(settings, kind), working(settings, kind):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 11"))
        starts = [row[0] for row in await jobs.all("SELECT started_at FROM job_history ORDER BY 1")]
        # A claim's transaction began some milliseconds before it counted its starts.
        spans = [(later - first).total_seconds() for first, later in zip(starts, starts[4:], strict=False)]
        assert min(spans) > 0.25

    async def test_worker_waits_no_longer_than_the_limit_says(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        """With a look every ten seconds alone it would take a minute and a half."""
        kind = limited(max_starts=1, per=0.05)
        await enqueue_many(database, kind, [Call(api="a", n=n) for n in range(10)])
        async with working(settings.model_copy(update={"JOBS_POLL_INTERVAL": 10}), kind):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 9"))

    async def test_each_attempt_is_a_start(self, database: Database, jobs: Jobs) -> None:
        kind = limited(max_starts=2, per=60)
        await enqueue_many(database, kind, [Call(api="a")] * 2)
        store = await open_store(database)
        for _ in range(2):
            (run,) = await store.claim(["default"], {kind.name: kind}, 1)
            await store.release([Release(run.id, run.lease)])
        assert await claimed(store, kind) == {}

    async def test_starts_of_a_key_take_few_rows_however_many_they_are(self, database: Database, jobs: Jobs) -> None:
        """A claim reads them all for each key."""
        kind = limited(max_starts=10_000, per=86_400)
        await enqueue_many(database, kind, [Call(api="a")] * 30)
        store = await open_store(database)
        for _ in range(30):
            assert await claimed(store, kind, 1) == {"a": 1}
        rows = [row["starts"] for row in await jobs.all("SELECT starts FROM job_start")]
        assert len(rows) <= 2, "a hundredth of a day has begun meanwhile, at most"
        assert sum(rows) == 30

    async def test_old_starts_are_pruned(self, database: Database, jobs: Jobs) -> None:
        store = await open_store(database)
        await jobs.all(
            "INSERT INTO job_start (kind, limit_key, at, starts) "
            "SELECT 'test.gone', 'a', now() - days * interval '1 day', 1 FROM generate_series(0, 3) AS days"
        )
        assert await store.prune_starts() == 3
        assert len(await jobs.all("SELECT FROM job_start")) == 1


class TestKeys:
    async def test_key_stays_with_the_job_when_a_dead_letter_is_retried(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        kind = limited(max_running=1)
        await enqueue(database, kind, Call(api="a"))
        await jobs.all("UPDATE job SET max_attempts = 1")

        async def fail(ctx: JobContext, payload: Call) -> None:
            raise ValueError

        failing = JobKind(**{**{name: getattr(kind, name) for name in kind.__slots__}, "function": fail})
        async with working(settings, failing):
            (letter,) = await until(lambda: jobs.all("SELECT id, limit_key FROM job_history WHERE state = 'discarded'"))
        assert letter["limit_key"] == "a"
        async with database.session() as session:
            await retry_job(session, letter["id"])
        assert (await jobs.live(letter["id"]))["limit_key"] == "a"

    async def test_jobs_run_whose_kind_has_no_limit_any_more(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        kind = limited(max_running=1)
        await enqueue_many(database, kind, [Call(api="a", n=n) for n in range(5)])
        free = JobKind(**{**{name: getattr(kind, name) for name in kind.__slots__}, "limit": None})
        async with working(settings, free):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 4"))

    async def test_job_from_before_the_limit_runs(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        kind = limited(max_running=1)
        await enqueue_many(database, kind, [Call(api="a", n=n) for n in range(5)])
        await jobs.all("UPDATE job SET limit_key = ''")
        assert await claimed(await open_store(database), kind) == {"a": 5}

    async def test_replacing_job_brings_its_key(self, database: Database, jobs: Jobs) -> None:
        kind = limited(max_running=1)
        for api in ("a", "b"):
            await enqueue(database, kind, Call(api=api), unique_key="one", replace=True)
        assert (await jobs.one("SELECT limit_key FROM job"))["limit_key"] == "b"

    async def test_last_job_of_a_batch_has_its_key(self, database: Database, jobs: Jobs) -> None:
        kind = limited(max_running=1)
        async with database.session() as session, batch(session, on_end=(kind, Call(api="a"))):
            pass
        assert (await jobs.one("SELECT limit_key FROM job"))["limit_key"] == "a"

    async def test_sql_function_takes_a_key(self, database: Database, jobs: Jobs) -> None:
        await jobs.all("SELECT plinth_enqueue('test.limited', '{\"api\": \"a\"}', limit_key => 'a')")
        await jobs.all("SELECT plinth_enqueue('test.limited', '{\"api\": \"b\"}')")
        assert [row[0] for row in await jobs.all("SELECT limit_key FROM job ORDER BY 1")] == ["", "a"]

    @pytest.mark.parametrize("key", ["", "x" * 256, "a\0b", "\ud800"])
    async def test_key_that_cannot_be_stored_is_refused(self, database: Database, jobs: Jobs, key: str) -> None:
        kind = job("test.limited", limit=Limit(lambda call: key, max_running=1))(idle)
        with pytest.raises(ValueError, match="key of a limit has 1 to 255 characters"):
            await enqueue(database, kind, Call())
        assert not await jobs.all("SELECT FROM job")

    async def test_key_may_be_any_value_with_a_text(self, database: Database, jobs: Jobs) -> None:
        kind = job("test.limited", limit=Limit(lambda call: call.n, max_running=1))(idle)
        await enqueue(database, kind, Call(n=0))
        assert (await jobs.one("SELECT limit_key FROM job"))["limit_key"] == "0"
