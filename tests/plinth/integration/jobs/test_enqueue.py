"""Enqueueing: in the caller's transaction, in one round trip, once for a unique key."""

import asyncio
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel
from sqlalchemy import event

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import (
    EnqueuedJob,
    JobContext,
    RetryPolicy,
    State,
    TooManyJobsError,
    UnknownKindError,
    enqueue,
    enqueue_many,
    job,
)
from plinth.jobs.admin.jobs import request_cancel, retry_job
from plinth.jobs.enqueue_sql import INSERT, LIVE
from plinth.jobs.kinds import JobKind
from plinth.jobs.outcome import Finish
from plinth.jobs.tables import CHECKS
from plinth.redis.keys import key_prefix
from tests.plinth.integration.jobs.conftest import Jobs, Number, open_store, until, working


@pytest.fixture
def noop() -> JobKind[Number]:
    @job("test.noop", queue="side", priority=3, retry=RetryPolicy(max_attempts=4))
    async def noop(ctx: JobContext, payload: Number) -> None:
        pass

    return noop


class TestEnqueue:
    async def test_job_takes_queue_priority_and_attempts_from_its_kind(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        async with database.session() as session:
            made = await enqueue(session, "test.noop", Number(n=7), owner="alice")
        row = await jobs.live(made.id)
        assert made.created
        assert row["payload"] == {"n": 7}
        assert (row["kind"], row["queue"], row["priority"]) == ("test.noop", "side", 3)
        assert (row["state"], row["owner"], row["max_attempts"], row["attempt"]) == ("available", "alice", 4, 0)

    async def test_caller_overrides_queue_priority_and_time(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        at = datetime(2040, 1, 1, tzinfo=UTC)
        async with database.session() as session:
            made = await enqueue(session, noop, Number(), queue="fast", priority=-1, run_at=at)
        row = await jobs.live(made.id)
        assert (row["queue"], row["priority"], row["run_at"], row["state"]) == ("fast", -1, at, "scheduled")

    async def test_delay_counts_from_the_database_s_clock(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        async with database.session() as session:
            made = await enqueue(session, noop, Number(), delay=3600)
        row = await jobs.one("SELECT run_at - created_at AS delay, state FROM job WHERE id = $1", made.id)
        assert timedelta(hours=1) <= row["delay"] < timedelta(hours=1, minutes=1)
        assert row["state"] == "scheduled"

    async def test_delay_counts_from_the_call_and_not_from_the_transaction(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        async with database.session() as session:
            await (await session.connection()).exec_driver_sql("SELECT")
            await asyncio.sleep(0.3)
            made = await enqueue(session, noop, Number(), delay=60)
        row = await jobs.one("SELECT run_at - created_at AS delay FROM job WHERE id = $1", made.id)
        assert row["delay"] >= timedelta(seconds=60.3)

    async def test_rolled_back_transaction_enqueues_no_job(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        async def enqueue_and_fail() -> None:
            async with database.session() as session:
                await enqueue(session, noop, Number())
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await enqueue_and_fail()
        assert await jobs.all("SELECT FROM job") == []

    async def test_enqueue_is_one_statement_for_one_job_or_a_thousand(
        self, database: Database, noop: JobKind[Number]
    ) -> None:
        statements: list[str] = []

        def note(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
            statements.append(statement)

        event.listen(database.engine.sync_engine, "before_cursor_execute", note)
        async with database.session() as session:
            await enqueue(session, noop, Number())
            await enqueue_many(session, noop, [Number(n=n) for n in range(1000)])
        assert len(statements) == 2

    @pytest.mark.parametrize("keyed", [False, True])
    @pytest.mark.parametrize("at_once", [False, True])
    async def test_any_number_of_jobs_is_enqueued_all_or_none(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], at_once: bool, keyed: bool
    ) -> None:
        numbers = range(25_000)
        keys = [f"k{number}" for number in numbers] if keyed else None
        payloads = [Number(n=number) for number in numbers]
        if at_once:
            made = await enqueue_many(database, noop, payloads, unique_keys=keys)
        else:
            async with database.session() as session:
                made = await enqueue_many(session, noop, payloads, unique_keys=keys)
        rows = {row["id"]: row for row in await jobs.all("SELECT id, xmin::text, (payload ->> 'n')::int AS n FROM job")}
        assert [rows[answer.id]["n"] for answer in made] == list(numbers)
        assert keyed or len({row["xmin"] for row in rows.values()}) == 1


class TestRefusals:
    async def test_unregistered_kind_is_refused(self, database: Database) -> None:
        async with database.session() as session:
            with pytest.raises(UnknownKindError, match=r"no kind of job 'test\.nope'"):
                await enqueue(session, "test.nope", Number())

    async def test_payload_of_another_model_is_refused(self, database: Database, noop: JobKind[Number]) -> None:
        class Other(BaseModel):
            n: int

        async with database.session() as session:
            with pytest.raises(TypeError, match=r"test\.noop takes a Number, not a Other"):
                await enqueue(session, noop, Other(n=1))

    @pytest.mark.parametrize(
        "options",
        [
            {"run_at": datetime(2040, 1, 1)},  # noqa: DTZ001 - that is the mistake
            {"run_at": datetime.max.replace(tzinfo=UTC)},
            {"run_at": datetime.min.replace(tzinfo=UTC)},
            {"delay": float("nan")},
            {"delay": float("inf")},
            {"delay": 1e12},
            {"owner": "a\0b"},
            {"unique_key": "\ud800"},
            {"owner": "a" * 256},
            {"unique_key": ""},
            {"queue": "no spaces"},
            {"priority": 40_000},
        ],
    )
    async def test_invalid_options_are_refused(
        self, database: Database, noop: JobKind[Number], options: dict[str, Any]
    ) -> None:
        async with database.session() as session:
            with pytest.raises(ValueError):  # noqa: PT011 - each has its own sentence
                await enqueue(session, noop, Number(), **options)

    async def test_nul_in_the_payload_is_refused(self, database: Database) -> None:
        class Text(BaseModel):
            text: str

        @job("test.text")
        async def text(ctx: JobContext, payload: Text) -> None:
            pass

        async with database.session() as session:
            with pytest.raises(ValueError, match="NUL"):
                await enqueue(session, text, Text(text="a\0b"))
            # A backslash before u0000 is another text, and a fine one.
            await enqueue(session, text, Text(text=r"a\u0000b"))


class TestUniqueKeys:
    async def test_second_job_of_a_unique_key_returns_the_first(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        async with database.session() as session:
            first = await enqueue(session, noop, Number(n=1), unique_key="k")
        async with database.session() as session:
            second = await enqueue(session, noop, Number(n=2), unique_key="k")
        assert first.created
        assert not second.created
        assert first.id == second.id
        assert (await jobs.one("SELECT payload FROM job"))["payload"] == {"n": 1}

    async def test_concurrent_enqueues_of_a_unique_key_make_one_job(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        async def one() -> Any:
            async with database.session() as session:
                return await enqueue(session, noop, Number(), unique_key="k")

        made = await asyncio.gather(*(one() for _ in range(8)))
        assert sum(answer.created for answer in made) == 1
        assert len({answer.id for answer in made}) == 1
        assert len(await jobs.all("SELECT FROM job")) == 1

    async def test_enqueues_of_a_live_key_do_not_wait_for_each_other(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        """28 of 50 failed at the statement's time limit. None of the transactions has ended yet."""
        async with database.session() as session:
            first = await enqueue(session, noop, Number(), unique_key="hot")
        async with AsyncExitStack() as open_transactions, asyncio.timeout(20):
            for _ in range(8):
                session = await open_transactions.enter_async_context(database.session())
                assert await enqueue(session, noop, Number(), unique_key="hot") == EnqueuedJob(first.id, created=False)
            # What they were told of is there until they end.
            store = await open_store(database)
            (claimed,) = await store.claim(["side"], {noop.name: noop}, 1)
            assert await store.finish([Finish(claimed.id, claimed.lease, State.SUCCEEDED)]) == set()
        assert await store.finish([Finish(claimed.id, claimed.lease, State.SUCCEEDED)]) == {first.id}

    async def test_batch_keeps_the_first_job_of_each_unique_key(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        async with database.session() as session:
            keys = ["b", "a", "b", "c"]
            made = await enqueue_many(session, noop, [Number(n=n) for n in range(4)], unique_keys=keys)
        assert [answer.created for answer in made] == [True, True, False, True]
        assert made[0].id == made[2].id
        rows = await jobs.all("SELECT id, payload, unique_key FROM job")
        assert {row["unique_key"]: row["payload"]["n"] for row in rows} == {"b": 0, "a": 1, "c": 3}
        assert {row["unique_key"]: row["id"] for row in rows} == {key: answer.id for key, answer in zip(keys, made)}  # noqa: B905

    async def test_unique_key_is_free_again_when_the_job_has_ended(
        self, settings: Settings, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        async with database.session() as session:
            first = await enqueue(session, noop, Number(), unique_key="k")
        async with working(settings, noop, queues=["side"]):
            await jobs.end_of(first.id)
        async with database.session() as session:
            second = await enqueue(session, noop, Number(), unique_key="k")
        assert second.created

    async def test_unique_keys_of_two_kinds_do_not_clash(self, database: Database, noop: JobKind[Number]) -> None:
        @job("test.other")
        async def other(ctx: JobContext, payload: Number) -> None:
            pass

        async with database.session() as session:
            await enqueue(session, noop, Number(), unique_key="k")
            assert (await enqueue(session, other, Number(), unique_key="k")).created


@pytest.mark.parametrize("at_once", [False, True])
class TestReplace:
    async def put(
        self, database: Database, at_once: bool, kind: JobKind[Number], numbers: list[int], **options: Any
    ) -> list[EnqueuedJob]:
        payloads = [Number(n=n) for n in numbers]
        keys = ["k"] * len(payloads)
        if at_once:
            return await enqueue_many(database, kind, payloads, unique_keys=keys, **options)
        async with database.session() as session:
            return await enqueue_many(session, kind, payloads, unique_keys=keys, **options)

    async def test_waiting_job_takes_the_payload_the_priority_and_the_time(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], at_once: bool
    ) -> None:
        (first,) = await self.put(database, at_once, noop, [1], delay=5, replace=True)
        (second,) = await self.put(database, at_once, noop, [2], delay=3600, priority=9, replace=True)
        assert (first.created, second) == (True, EnqueuedJob(first.id, created=False))
        row = await jobs.one("SELECT payload, priority, state, run_at > now() + interval '59 min' AS later FROM job")
        assert tuple(row) == ({"n": 2}, 9, "scheduled", True)
        await self.put(database, at_once, noop, [3, 4], replace=True)  # the last one counts
        row = await jobs.one("SELECT payload, state, run_at <= now() AS due FROM job")
        assert tuple(row) == ({"n": 4}, "available", True)

    async def test_running_job_stays_as_it_is(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], at_once: bool
    ) -> None:
        (first,) = await self.put(database, at_once, noop, [1])
        store = await open_store(database)
        await store.claim(["side"], {noop.name: noop}, 1)
        assert await self.put(database, at_once, noop, [2], replace=True) == [EnqueuedJob(first.id, created=False)]
        assert (await jobs.one("SELECT payload FROM job"))["payload"] == {"n": 1}

    async def test_burst_makes_one_run_after_the_last_call(
        self, settings: Settings, database: Database, jobs: Jobs, at_once: bool
    ) -> None:
        ran: list[int] = []

        @job("test.debounced")
        async def debounced(ctx: JobContext, payload: Number) -> None:
            ran.append(payload.n)

        async with working(settings, debounced):
            for number in range(10):
                await self.put(database, at_once, debounced, [number], delay=0.5, replace=True)
            await until(lambda: jobs.all("SELECT FROM job_history"))
        assert ran == [9]

    async def test_replacing_without_a_key_is_refused(
        self, database: Database, noop: JobKind[Number], at_once: bool
    ) -> None:
        with pytest.raises(ValueError, match="replaces none"):
            await enqueue_many(database, noop, [Number()], replace=True)


class TestAtOnce:
    """`enqueue` with the database instead of a session."""

    async def test_job_is_there_when_the_call_returns(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        made = await enqueue(database, noop, Number(n=7), owner="alice", priority=2, delay=60)
        row = await jobs.one("SELECT id, payload, owner, priority, state FROM job")
        assert (made, row["payload"]) == (EnqueuedJob(row["id"], created=True), {"n": 7})
        assert (row["owner"], row["priority"], row["state"]) == ("alice", 2, "scheduled")

    async def test_many_jobs_are_one_transaction(self, database: Database, jobs: Jobs, noop: JobKind[Number]) -> None:
        made = await enqueue_many(database, noop, [Number(n=n) for n in range(1000)])
        rows = await jobs.all("SELECT id, xmin::text, payload FROM job")
        assert len({row["xmin"] for row in rows}) == 1
        assert [answer.id for answer in made] == [
            row["id"] for row in sorted(rows, key=lambda row: int(row["payload"]["n"]))
        ]
        assert await enqueue_many(database, noop, []) == []

    async def test_concurrent_enqueues_of_a_unique_key_make_one_job(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        made = await asyncio.gather(*(enqueue(database, noop, Number(), unique_key="k") for _ in range(50)))
        assert sum(answer.created for answer in made) == 1
        assert len({answer.id for answer in made}) == 1
        assert len(await jobs.all("SELECT FROM job")) == 1

    async def test_concurrent_batches_of_the_same_keys_have_an_answer_for_each(
        self, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        keys = [f"k{n % 20}" for n in range(40)]

        async def batch(shift: int) -> list[EnqueuedJob]:
            turned = keys[shift:] + keys[:shift]
            return await enqueue_many(database, noop, [Number()] * 40, unique_keys=turned)

        answers = await asyncio.gather(*map(batch, range(10)))
        assert sum(answer.created for batch in answers for answer in batch) == 20
        rows = {row["unique_key"]: row["id"] for row in await jobs.all("SELECT id, unique_key FROM job")}
        for shift, found in enumerate(answers):
            assert [answer.id for answer in found] == [rows[key] for key in keys[shift:] + keys[:shift]]

    async def test_key_that_becomes_free_meanwhile_makes_a_job_and_no_other_twice(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = await enqueue(database, noop, Number(), unique_key="ends")
        ends = f"WITH gone AS (DELETE FROM job WHERE id = '{old.id}') {LIVE}"
        # A statement still sees what it deletes.
        ends = ends.replace("WHERE kind", f"WHERE id <> '{old.id}' AND kind")
        monkeypatch.setattr(sys.modules["plinth.jobs.enqueue"], "LIVE", ends)
        made = await enqueue_many(database, noop, [Number(n=n) for n in range(2)], unique_keys=["ends", "new"])
        assert [answer.created for answer in made] == [True, True]
        assert {row["id"] for row in await jobs.all("SELECT id FROM job")} == {answer.id for answer in made}

    async def test_worker_hears_of_it(
        self, settings: Settings, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        deaf = settings.model_copy(update={"JOBS_POLL_INTERVAL": 3600.0})
        async with working(deaf, noop, queues=["side"]):
            await until(lambda: jobs.all("SELECT FROM worker_session"))
            warm = await enqueue(database, noop, Number())
            await jobs.end_of(warm.id)
            for _ in range(3):
                await jobs.end_of((await enqueue(database, noop, Number())).id)

    async def test_limit_of_an_owner_holds(self, database: Database, jobs: Jobs) -> None:
        @job("test.per-owner-at-once", max_per_owner=2)
        async def limited(ctx: JobContext, payload: Number) -> None:
            pass

        calls = (enqueue(database, limited, Number(), owner="alice") for _ in range(8))
        made = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(one, TooManyJobsError) for one in made) == 6
        assert len(await jobs.all("SELECT FROM job")) == 2

    async def test_it_takes_no_transaction_of_its_own(self, database: Database, noop: JobKind[Number]) -> None:
        statements: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            statements.append(statement)

        event.listen(database.engine.sync_engine, "before_cursor_execute", note)
        async with database.connection() as connection:
            connection.add_query_logger(lambda record: statements.append(record.query))
        await enqueue(database, noop, Number())
        statements.clear()  # of the first, for which asyncpg asks about the types of the parameters
        await enqueue(database, noop, Number())
        assert statements == [INSERT]


class TestRowsFromElsewhere:
    INSERT = (
        "INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state, trace_context, errors) VALUES "
        "('test.noop', 'side', 0, '{}', 1, $1::text::timestamptz, 'available', $2::text::jsonb, $3::text::jsonb)"
    )
    BAD = (
        ("-infinity", None, "[]"),
        ("infinity", None, "[]"),
        ("0044-03-15 BC", None, "[]"),
        ("now", "[]", "[]"),
        ("now", '"00-1-1-1"', "[]"),
        ("now", "{}", "[]"),
        ("now", '{"traceparent": 7}', "[]"),
        ("now", None, "{}"),
    )

    @pytest.mark.parametrize("values", BAD)
    async def test_row_that_no_worker_could_read_is_refused(self, jobs: Jobs, values: tuple[str | None, ...]) -> None:
        with pytest.raises(asyncpg.CheckViolationError):
            await jobs.all(self.INSERT, *values)

    async def test_bad_row_from_before_the_checks_stops_no_other_job(
        self, settings: Settings, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        for name in CHECKS:
            await jobs.all(f"ALTER TABLE job DROP CONSTRAINT ck_job_{name}")
        try:
            for values in self.BAD:
                await jobs.all(self.INSERT, *values)
            async with database.session() as session:
                good = await enqueue(session, noop, Number())
            async with working(settings, noop, queues=["side"]):
                assert (await jobs.end_of(good.id))["state"] == "succeeded"
                ended = await until(lambda: jobs.all("SELECT state FROM job_history OFFSET 7"))
            assert {row["state"] for row in ended} == {"succeeded"}
        finally:
            await jobs.all("TRUNCATE job, job_history")
            for name, check in CHECKS.items():
                await jobs.all(f"ALTER TABLE job ADD CONSTRAINT ck_job_{name} CHECK ({check})")


class TestDoorbell:
    """The poll is so rare that only the doorbell can start a job in time."""

    @pytest.fixture
    def deaf(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"JOBS_POLL_INTERVAL": 3600.0})

    async def test_doorbell_rings_after_the_commit(
        self, deaf: Settings, database: Database, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        async with working(deaf, noop, queues=["side"]):
            await until(lambda: jobs.all("SELECT FROM worker_session"))
            async with database.session() as session:
                warm = await enqueue(session, noop, Number())
            await jobs.end_of(warm.id)
            for _ in range(3):
                async with database.session() as session:
                    made = await enqueue(session, noop, Number())
                    await asyncio.sleep(0.05)  # a ring before the commit would find nothing, and be the last
                await jobs.end_of(made.id)

    async def test_garbage_on_the_doorbell_channel_is_ignored(
        self, deaf: Settings, database: Database, jobs: Jobs, noop: JobKind[Number], redis: Any
    ) -> None:
        channel = f"{key_prefix(deaf)}:jobs"
        async with working(deaf, noop, queues=["side"]):
            await until(lambda: redis.pubsub_numsub(channel))
            for garbage in (
                b"\xff",
                b"{}",
                b"[]",
                b'{"queues": 1, "cancelled": []}',
                b'{"queues": [], "cancelled": ["x"]}',
            ):
                await redis.publish(channel, garbage)
            async with database.session() as session:
                made = await enqueue(session, noop, Number())
            await jobs.end_of(made.id)

    async def test_poll_finds_the_job_without_redis(
        self, settings: Settings, jobs: Jobs, noop: JobKind[Number]
    ) -> None:
        alone = settings.model_copy(update={"REDIS_URL": None})
        database = Database(alone)
        async with working(alone, noop, queues=["side"]):
            async with database.session() as session:
                made = await enqueue(session, noop, Number())
            await jobs.end_of(made.id)
        await database.aclose()


class TestOwnerLimit:
    @pytest.fixture
    def limited(self) -> JobKind[Number]:
        @job("test.per-owner", max_per_owner=2)
        async def limited(ctx: JobContext, payload: Number) -> None:
            pass

        return limited

    async def add(self, database: Database, kind: JobKind[Number], **options: Any) -> EnqueuedJob:
        async with database.session() as session:
            return await enqueue(session, kind, Number(), **options)

    async def test_owner_has_no_more_jobs_of_a_kind_than_its_limit(
        self, database: Database, limited: JobKind[Number], noop: JobKind[Number]
    ) -> None:
        for owner in ("alice", "bob", "alice", "bob"):
            await self.add(database, limited, owner=owner)

        with pytest.raises(TooManyJobsError) as error:
            await self.add(database, limited, owner="alice")
        assert (error.value.status, error.value.code) == (409, "too_many")
        await self.add(database, noop, owner="alice")
        await self.add(database, limited)  # of no owner

    async def test_limit_holds_for_enqueues_at_the_same_time(
        self, database: Database, limited: JobKind[Number], jobs: Jobs
    ) -> None:
        made = await asyncio.gather(
            *(self.add(database, limited, owner="alice") for _ in range(8)), return_exceptions=True
        )
        assert sum(isinstance(one, TooManyJobsError) for one in made) == 6
        assert len(await jobs.all("SELECT FROM job")) == 2

    async def test_limit_counts_all_jobs_of_one_call(self, database: Database, limited: JobKind[Number]) -> None:
        async with database.session() as session:
            with pytest.raises(TooManyJobsError):
                await enqueue_many(session, limited, [Number()] * 3, owner="alice")
            assert len(await enqueue_many(session, limited, [Number()] * 2, owner="alice")) == 2

    async def test_job_that_is_there_already_is_returned_at_the_limit(
        self, database: Database, limited: JobKind[Number]
    ) -> None:
        first = await self.add(database, limited, owner="alice", unique_key="one")
        await self.add(database, limited, owner="alice")

        assert await self.add(database, limited, owner="alice", unique_key="one") == EnqueuedJob(first.id, False)
        async with database.session() as session:
            keys = ["one", "one", "two"]
            with pytest.raises(TooManyJobsError):
                await enqueue_many(session, limited, [Number()] * 3, owner="alice", unique_keys=keys)

    async def test_limit_holds_for_retries_of_the_owner_alone(
        self, database: Database, limited: JobKind[Number]
    ) -> None:
        ended = []
        for _ in range(3):
            ended.append((await self.add(database, limited, owner="alice")).id)
            async with database.session() as session:
                await request_cancel(session, ended[-1], owner="alice")

        for job_id in ended[:2]:
            async with database.session() as session:
                await retry_job(session, job_id, owner="alice")
        async with database.session() as session:
            with pytest.raises(TooManyJobsError):
                await retry_job(session, ended[2], owner="alice")
            assert (await retry_job(session, ended[2])).state is State.AVAILABLE  # an operator's
