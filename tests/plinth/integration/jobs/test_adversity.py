"""Misbehaving handlers, payloads and foreign transactions harm neither a worker nor another job."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr, field_validator
from structlog.testing import capture_logs

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import JobContext, RetryPolicy, enqueue, enqueue_many, job
from plinth.jobs import doorbell as doorbell_module
from plinth.jobs.admin import jobs as control
from tests.plinth.integration.jobs.conftest import Jobs, Number, open_store, until, working
from tests.support.metrics import metric

ONE_ATTEMPT = RetryPolicy(max_attempts=1)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Panic(BaseException):
    """As extensions raise it."""


class TestSlots:
    @pytest.mark.parametrize("error", [Mute(), Panic()])
    async def test_unusual_exception_in_a_handler_loses_no_worker_slot(
        self, settings: Settings, database: Database, jobs: Jobs, error: BaseException
    ) -> None:
        @job("test.bad", retry=ONE_ATTEMPT)
        async def bad(ctx: JobContext, payload: Number) -> None:
            raise error

        with capture_logs():
            ended = await self.one_after_the_other(settings, database, jobs, bad, Number())
        assert ended == {"test.bad": "discarded", "test.good": "succeeded"}

    async def test_unusual_exception_in_a_validator_loses_no_worker_slot(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        broken = False

        class Zone(BaseModel):
            n: int = 0

            @field_validator("n")
            @classmethod
            def check(cls, value: int) -> int:
                if broken:
                    raise KeyError(value)
                return value

        @job("test.zone", retry=ONE_ATTEMPT)
        async def zone(ctx: JobContext, payload: Zone) -> None: ...

        async with database.session() as session:
            await enqueue(session, zone, Zone(n=1))
        broken = True
        with capture_logs():
            ended = await self.one_after_the_other(settings, database, jobs, zone, None)
        # The other is given back for a newer worker, which may read it.
        assert ended == {"test.good": "succeeded"}
        # Its delay is random from 0 s up, so it may have been claimable, and read, again.
        (row,) = await jobs.all("SELECT kind, attempt, errors[0]->>'outcome' FROM job")
        assert tuple(row) == ("test.zone", 0, "invalid_payload")

    async def one_after_the_other(
        self, settings: Settings, database: Database, jobs: Jobs, bad: Any, payload: BaseModel | None
    ) -> dict[str, str]:
        """The states of the jobs that have ended, once a job behind a bad one has run in the same slot."""

        @job("test.good", priority=1)
        async def good(ctx: JobContext, payload: Number) -> None: ...

        async with database.session() as session:
            if payload is not None:
                await enqueue(session, bad, payload)
            await enqueue(session, good, Number())
        async with working(settings, bad, good, concurrency=1):
            await until(lambda: jobs.all("SELECT FROM job_history WHERE kind = 'test.good'"))
        return {row["kind"]: row["state"] for row in await jobs.all("SELECT kind, state FROM job_history")}


class TestLimits:
    async def test_max_running_holds_across_several_queues(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        running = most = 0

        @job("test.limited", max_running=1)
        async def limited(ctx: JobContext, payload: Number) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1

        async with database.session() as session:
            for queue in ("a", "b", "c"):
                await enqueue_many(session, limited, [Number()] * 3, queue=queue)
        async with working(settings, limited, queues=["a", "b", "c", "a"]):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 8"))
        assert most == 1

    async def test_priorities_hold_between_limited_and_unlimited_kinds(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        order: list[str] = []

        @job("test.limited", max_running=100, priority=100)
        async def limited(ctx: JobContext, payload: Number) -> None:
            order.append("limited")

        @job("test.urgent", priority=-100)
        async def urgent(ctx: JobContext, payload: Number) -> None:
            order.append("urgent")

        async with database.session() as session:
            await enqueue_many(session, limited, [Number()] * 5)
            await enqueue(session, urgent, Number())
        async with working(settings, limited, urgent, concurrency=1):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 5"))
        assert order[0] == "urgent"

    async def test_suspect_job_keeps_its_place_in_line(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        order: list[int] = []

        @job("test.steady")
        async def steady(ctx: JobContext, payload: Number) -> None:
            order.append(payload.n)
            await asyncio.sleep(0.02)

        async with database.session() as session:
            await enqueue_many(session, steady, [Number(n=n) for n in range(100)])
        await jobs.all("UPDATE job SET crash_count = 2 WHERE payload = '{\"n\": 50}'")
        async with working(settings, steady, concurrency=1):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 99"))
        assert order == list(range(100))


class TestLockedRows:
    async def test_locked_job_delays_no_other_job(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        """Another open transaction has enqueued a job with the unique key of one that is just ending."""
        go_on = asyncio.Event()

        @job("test.held")
        async def held(ctx: JobContext, payload: Number) -> None:
            await go_on.wait()

        @job("test.other")
        async def other(ctx: JobContext, payload: Number) -> None: ...

        async with database.session() as session:
            first = await enqueue(session, held, Number(), unique_key="u")
        async with working(settings, held, other):
            await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
            async with database.session() as session:
                assert not (await enqueue(session, held, Number(), unique_key="u")).created
                go_on.set()
                await asyncio.sleep(0.1)
                async with database.session() as another:
                    second = await enqueue(another, other, Number())
                assert (await jobs.end_of(second.id))["state"] == "succeeded"
                assert await jobs.state(first.id) == "running"
            assert (await jobs.end_of(first.id))["state"] == "succeeded"

    async def test_outcomes_that_wait_for_a_transaction_stop_no_claim(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("plinth.jobs.engine.runner.MAX_BACKLOG", 5)

        @job("test.follows-held", queue="elsewhere")
        async def follows(ctx: JobContext, payload: Number) -> None: ...

        @job("test.leads-held")
        async def leads(ctx: JobContext, payload: Number) -> None:
            ctx.enqueue(follows, Number(), unique_key=f"k{payload.n}")

        @job("test.other")
        async def other(ctx: JobContext, payload: Number) -> None: ...

        payloads = [Number(n=n) for n in range(10)]
        with capture_logs() as lines:
            async with working(settings, leads, other), database.session() as holding:
                await enqueue_many(holding, follows, payloads, unique_keys=[f"k{n}" for n in range(10)])
                await enqueue_many(database, leads, payloads)
                await until(lambda: _all_have_run(lines, 10))
                async with asyncio.timeout(8):
                    for _ in range(3):
                        await jobs.end_of((await enqueue(database, other, Number())).id)
                await holding.rollback()
                await until(lambda: jobs.all("SELECT FROM job_history WHERE kind = 'test.leads-held' OFFSET 9"))

    async def test_locked_table_of_jobs_costs_no_worker_its_session(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        """As a migration locks it, or waits for the lock: nothing is lost that runs meanwhile."""
        runs: list[int] = []
        go_on = asyncio.Event()

        @job("test.long")
        async def long(ctx: JobContext, payload: Number) -> None:
            runs.append(ctx.run)
            await go_on.wait()

        async with database.session() as session:
            made = await enqueue(session, long, Number())
        short = settings.model_copy(update={"JOBS_SESSION_TIMEOUT": 2.0})
        with capture_logs():
            async with working(short, long):
                await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
                async with database.session() as migration:
                    await (await migration.connection()).exec_driver_sql("LOCK TABLE job")
                    await asyncio.sleep(2.5)
                    go_on.set()
                assert (await jobs.end_of(made.id))["state"] == "succeeded"
        assert runs == [1]

    async def test_follow_up_that_waits_for_a_transaction_delays_no_other_outcome(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        """An open transaction has enqueued the same unique key."""

        @job("test.sink")
        async def sink(ctx: JobContext, payload: Number) -> None: ...

        @job("test.blocked")
        async def blocked(ctx: JobContext, payload: Number) -> None:
            runs.append(payload.n)
            ctx.enqueue(sink, Number(), queue="elsewhere", unique_key="u" if payload.n < 10 else str(payload.n))

        runs: list[int] = []
        async with database.session() as open_transaction:
            await enqueue(open_transaction, sink, Number(), queue="elsewhere", unique_key="u")
            async with database.session() as session:
                await enqueue_many(session, blocked, [Number(n=n) for n in range(20)])
            with capture_logs() as entries:
                async with working(settings, blocked, sink, concurrency=20):
                    await until(lambda: jobs.all("SELECT FROM job_history OFFSET 9"))
                    for _ in range(3):  # put off again and again, and others get through
                        async with database.session() as session:
                            extra = await enqueue(session, sink, Number())
                            late = await enqueue(session, blocked, Number(n=100 + len(runs)))
                        await jobs.end_of(extra.id)
                        await jobs.end_of(late.id)
                    assert len(await jobs.all("SELECT FROM job WHERE state = 'running'")) == 10
                    await open_transaction.commit()
                    await until(lambda: jobs.all("SELECT FROM job_history WHERE kind = 'test.blocked' OFFSET 22"))
        assert len(runs) == len(set(runs)) == 23
        assert len(await jobs.all("SELECT FROM job WHERE unique_key = 'u'")) == 1
        waits = [entry for entry in entries if entry["event"] == "an outcome waits for another transaction"]
        assert 1 <= len(waits) == len({entry["job_id"] for entry in waits}), "once for a run that was tried"
        assert waits[0]["error"] == "A lock was not to be had in time"
        assert not [entry for entry in entries if "cannot be written" in entry["event"]]

    @pytest.mark.parametrize("keys", ["one key", "many keys"])
    async def test_many_follow_ups_that_wait_for_a_transaction_delay_no_other(
        self, settings: Settings, database: Database, jobs: Jobs, keys: str
    ) -> None:
        @job("test.sink")
        async def sink(ctx: JobContext, payload: Number) -> None: ...

        @job("test.blocked")
        async def blocked(ctx: JobContext, payload: Number) -> None:
            ctx.enqueue(sink, Number(), queue="elsewhere", unique_key=taken[payload.n])

        @job("test.free", priority=-1)
        async def free(ctx: JobContext, payload: Number) -> None:
            ctx.enqueue(sink, Number(), queue="elsewhere", unique_key="free" if payload.n else None)

        taken = ["u"] * 300 if keys == "one key" else [f"u{n}" for n in range(60)]
        with capture_logs():
            async with database.session() as open_transaction, working(settings, blocked, free, concurrency=50):
                await enqueue_many(
                    open_transaction, sink, [Number()] * len(taken), unique_keys=taken, queue="elsewhere"
                )
                async with database.session() as session:
                    await enqueue_many(session, blocked, [Number(n=n) for n in range(len(taken))])
                await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running' OFFSET 49"))
                for n in (0, 1):
                    made = await enqueue(database, free, Number(n=n))
                    async with asyncio.timeout(8):
                        await jobs.end_of(made.id)
                await open_transaction.commit()
                await until(lambda: jobs.all("SELECT FROM job_history OFFSET $1", len(taken) + 1))

    @pytest.mark.parametrize("locked", ["the follow-up's key", "the job's row"])
    async def test_stopped_worker_gives_back_what_waits_for_a_transaction(
        self, settings: Settings, database: Database, jobs: Jobs, locked: str
    ) -> None:
        go_on, ended = asyncio.Event(), asyncio.Event()

        @job("test.sink")
        async def sink(ctx: JobContext, payload: Number) -> None: ...

        @job("test.blocked")
        async def blocked(ctx: JobContext, payload: Number) -> None:
            ctx.enqueue(sink, Number(), queue="elsewhere", unique_key="u")
            await go_on.wait()
            ended.set()

        async with database.session() as session:
            made = await enqueue(session, blocked, Number())
        with capture_logs():
            async with database.session() as open_transaction:
                async with working(settings, blocked):
                    await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
                    if locked == "the job's row":
                        await (await open_transaction.connection()).exec_driver_sql("SELECT FROM job FOR UPDATE")
                    else:
                        await enqueue(open_transaction, sink, Number(), queue="elsewhere", unique_key="u")
                    go_on.set()
                    await ended.wait()
                await open_transaction.rollback()
        assert await jobs.all("SELECT FROM worker_session") == []
        await (await open_store(database)).reap(max_crashes=1)
        row = await jobs.live(made.id)
        assert (row["state"], row["attempt"], row["crash_count"], row["errors"]) == ("available", 0, 0, [])

    async def test_deadlocked_follow_ups_are_tried_again(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        """Two jobs, each with a unique key, each enqueueing the other: their completions deadlock."""
        both = asyncio.Barrier(2)

        @job("test.sink")
        async def sink(ctx: JobContext, payload: Number) -> None: ...

        @job("test.ping")
        async def ping(ctx: JobContext, payload: Number) -> None:
            for _ in range(150):  # a wide window
                ctx.enqueue(sink, Number(), queue="nobody")
            ctx.enqueue(ping, Number(n=1 - payload.n), queue="nobody", unique_key=str(1 - payload.n))
            await both.wait()

        async with database.session() as session:
            await enqueue_many(session, ping, [Number(n=0), Number(n=1)], unique_keys=["0", "1"])
        async with working(settings, ping, concurrency=1), working(settings, ping, concurrency=1):
            await until(lambda: jobs.all("SELECT FROM job_history WHERE state = 'succeeded' OFFSET 1"))

    async def test_follow_ups_that_cannot_be_written_make_a_dead_letter(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from plinth.jobs.enqueue import Insertion

        async def execute(self: Insertion, session: Any) -> Any:
            raise ValueError("never")

        @job("test.leads")
        async def leads(ctx: JobContext, payload: Number) -> None:
            ctx.enqueue(leads, Number())

        async with database.session() as session:
            made = await enqueue(session, leads, Number())
        monkeypatch.setattr(Insertion, "execute", execute)
        with capture_logs():
            async with working(settings, leads):
                row = await jobs.end_of(made.id)
        assert row["state"] == "discarded"
        assert row["errors"][-1]["error"] == "What came of this run could not be written."
        assert (row["errors"][-1]["run"], row["errors"][-1]["attempt"]) == (1, 1)
        assert row["errors"][-1]["detail"] == "ValueError: never"
        # The run has succeeded; the alert on what is given up has to hear of the job.
        assert metric("plinth_jobs_finished_total", kind="test.leads", outcome="succeeded") == 1
        assert metric("plinth_jobs_finished_total", kind="test.leads", outcome="discarded") == 1


class TestTransactions:
    async def test_job_cannot_complete_in_a_savepoint(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        @job("test.nested", retry=ONE_ATTEMPT)
        async def nested(ctx: JobContext, payload: Number) -> None:
            async with ctx.session() as session, session.begin_nested():
                await ctx.complete(session)

        async with database.session() as session:
            made = await enqueue(session, nested, Number())
        with capture_logs():
            async with working(settings, nested):
                row = await jobs.end_of(made.id)
        assert row["state"] == "discarded"
        assert row["errors"][0]["error"] == "RuntimeError"

    async def test_rolled_back_completion_does_not_complete_the_job(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        completed: list[bool] = []

        @job("test.undone")
        async def undone(ctx: JobContext, payload: Number) -> None:
            async with ctx.session() as session:
                await ctx.complete(session)
                await session.rollback()
            completed.append(ctx.completed)

        async with database.session() as session:
            made = await enqueue(session, undone, Number())
        async with working(settings, undone):
            row = await jobs.end_of(made.id)
        assert completed == [False]
        assert row["state"] == "succeeded"  # by the engine, when the handler returned

    async def test_doorbell_rings_once_at_the_commit_despite_savepoints(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @job("test.rings")
        async def rings(ctx: JobContext, payload: Number) -> None: ...

        rung: list[set[str]] = []
        monkeypatch.setattr(doorbell_module.Doorbell, "ring", lambda self, queues, **_: rung.append(set(queues)))
        async with database.session() as session:
            async with session.begin_nested():
                await enqueue(session, rings, Number())
            assert rung == []
            undone = await session.begin_nested()
            await undone.rollback()
        assert rung == [{"default"}]


class TestCancel:
    async def test_job_cancelled_after_an_interrupted_claim_stays_cancelled(
        self, database: Database, jobs: Jobs
    ) -> None:
        @job("test.unseen")
        async def unseen(ctx: JobContext, payload: Number) -> None: ...

        async with database.session() as session:
            made = await enqueue(session, unseen, Number())
        store = await open_store(database)
        await store.claim(["default"], {"test.unseen": unseen}, 1)  # and its answer is lost
        async with database.session() as session:
            await control.request_cancel(session, made.id)
        await store.release_unknown([])
        assert (await jobs.ended(made.id))["state"] == "cancelled"


class TestPayloads:
    async def test_payload_that_does_not_round_trip_through_json_is_refused(self, database: Database) -> None:
        class Secret(BaseModel):
            password: SecretStr

        class Infinite(BaseModel):
            x: float

        class Hidden(BaseModel):
            n: int = Field(default=0, exclude=True)

        @job("test.secret")
        async def secret(ctx: JobContext, payload: Secret) -> None: ...

        @job("test.infinite")
        async def infinite(ctx: JobContext, payload: Infinite) -> None: ...

        @job("test.hidden")
        async def hidden(ctx: JobContext, payload: Hidden) -> None: ...

        payloads: list[tuple[Any, BaseModel]] = [
            (secret, Secret(password=SecretStr("hunter2"))),
            (infinite, Infinite(x=math.inf)),
            (hidden, Hidden(n=1)),
        ]
        async with database.session() as session:
            for kind, payload in payloads:
                with pytest.raises(ValueError, match="does not come back from JSON"):
                    await enqueue(session, kind, payload)

    @pytest.mark.parametrize("time_limit", [math.inf, math.nan, 40 * 86_400])
    def test_infinite_time_limit_is_refused(self, time_limit: float) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None: ...

        with pytest.raises(ValueError, match="time_limit is above 0 seconds"):
            job("test.endless", time_limit=time_limit)(handler)


class TestProgress:
    async def test_unstorable_progress_message_is_escaped_and_fails_no_other_job(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.speaks", retry=ONE_ATTEMPT)
        async def speaks(ctx: JobContext, payload: Number) -> None:
            ctx.progress(1, message="a\0b\ud800" * 1000)

        @job("test.errs", retry=ONE_ATTEMPT)
        async def errs(ctx: JobContext, payload: Number) -> None:
            ctx.progress(2**63)

        async with database.session() as session:
            spoken = await enqueue(session, speaks, Number())
            wrong = await enqueue(session, errs, Number())
        with capture_logs():
            async with working(settings, speaks, errs):
                row = await jobs.end_of(spoken.id)
                assert (await jobs.end_of(wrong.id))["errors"][0]["error"] == "ValueError"
        assert row["progress_done"] == 1
        assert row["progress_message"].startswith("a\\0b\\ud800")
        assert len(row["progress_message"]) == 1000


class TestPoison:
    async def test_poison_job_stays_suspect_after_a_retry(self, database: Database, jobs: Jobs) -> None:
        @job("test.poison")
        async def poison(ctx: JobContext, payload: Number) -> None: ...

        async with database.session() as session:
            made = await enqueue(session, poison, Number(), owner="mallory")
        await jobs.all(
            "INSERT INTO worker_session (name, version, queues, kinds, concurrency, expires_at) "
            "VALUES ('lost', '', '{}', '{}', 1, now() - interval '1 second')"
        )
        await jobs.all(
            "UPDATE job SET crash_count = 4, state = 'running', attempt = 1, session_id = worker_session.id, "
            "errors = jsonb_build_array(jsonb_build_object('outcome', 'crash', 'at', now())) FROM worker_session"
        )
        (reaped,) = await (await open_store(database)).reap(max_crashes=5)
        assert reaped.fate == "discarded"
        async with database.session() as session:
            back = await control.retry_job(session, made.id, owner="mallory")
        assert back.crash_count == 2


async def _all_have_run(lines: Sequence[Mapping[str, object]], count: int) -> bool:
    return sum(line["event"] == "job" for line in lines) >= count
