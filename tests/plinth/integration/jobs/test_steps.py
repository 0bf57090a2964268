"""Durable steps: what is done once, what waits, and what a later run finds."""

import asyncio
import math
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel, Field
from structlog.testing import capture_logs

from notes.config import Settings
from plinth.database.engine import Database, TransactionConflictError
from plinth.jobs import (
    Discard,
    EventTimeout,
    JobContext,
    JobKind,
    RetryPolicy,
    StepFailed,
    emit,
    enqueue,
    job,
)
from plinth.jobs.admin.steps import list_steps
from plinth.jobs.engine.step_store import StepStore
from plinth.jobs.results import MAX_RESULT
from plinth.jobs.steps import MAX_STEPS
from tests.plinth.integration.jobs.conftest import Jobs, Number, until, working

AT_ONCE = RetryPolicy(max_attempts=3, base=0.01, ceiling=0.01)


class Order(BaseModel):
    total: int


class Charge(BaseModel):
    charge_id: str = Field(alias="chargeId")


def kind_of(handler: Callable[[JobContext, Number], Any], **options: Any) -> JobKind[Number]:
    return job("test.steps", retry=AT_ONCE, **options)(handler)


async def steps_of(jobs: Jobs) -> list[tuple[Any, ...]]:
    rows = await jobs.all("SELECT name, kind, state, result FROM job_step ORDER BY started_at, name")
    return [tuple(row) for row in rows]


async def run(settings: Settings, database: Database, jobs: Jobs, kind: JobKind[Number]) -> Any:
    """Run one job of the kind to its end."""
    made = await enqueue(database, kind, Number())
    async with working(settings, kind):
        return await jobs.end_of(made.id)


class TestStep:
    async def test_step_that_is_done_gives_its_result_in_a_later_run(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        calls: list[str] = []
        results: list[Order] = []

        async def charge(total: int) -> Order:
            calls.append("charge")
            return Order(total=total)

        async def handler(ctx: JobContext, payload: Number) -> None:
            results.append(await ctx.step("charge", charge, 7))
            if ctx.attempt < 3:
                raise ConnectionError

        ended = await run(settings, database, jobs, kind_of(handler))
        assert (ended["state"], ended["attempt"]) == ("succeeded", 3)
        assert calls == ["charge"]
        assert results == [Order(total=7)] * 3
        assert await steps_of(jobs) == [("charge", "step", "done", {"total": 7})]

    async def test_step_of_a_name_that_comes_again_has_a_number(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            for part in range(3):
                assert await ctx.step("part", int, part) == part
            if ctx.attempt == 1:
                raise ConnectionError

        await run(settings, database, jobs, kind_of(handler))
        assert [step[0] for step in await steps_of(jobs)] == ["part", "part#2", "part#3"]

    async def test_step_that_raises_runs_again_in_the_next_attempt(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        calls: list[int] = []

        async def handler(ctx: JobContext, payload: Number) -> None:
            async def flaky() -> None:
                calls.append(ctx.attempt)
                if ctx.attempt == 1:
                    raise ConnectionError

            await ctx.step("flaky", flaky)

        ended = await run(settings, database, jobs, kind_of(handler))
        assert (ended["state"], calls) == ("succeeded", [1, 2])

    async def test_result_is_the_same_in_the_first_run_as_in_later_ones(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        given: list[Any] = []

        async def handler(ctx: JobContext, payload: Number) -> None:
            given.append(await ctx.step("untyped", lambda: {"pair": (1, 2), "day": datetime(2026, 1, 2, tzinfo=UTC)}))
            if ctx.attempt == 1:
                raise ConnectionError

        await run(settings, database, jobs, kind_of(handler))
        assert given == [{"pair": [1, 2], "day": "2026-01-02T00:00:00Z"}] * 2

    @pytest.mark.parametrize("retry", [None, AT_ONCE])
    async def test_plain_function_that_raises_stop_iteration_has_failed(
        self, settings: Settings, database: Database, jobs: Jobs, retry: RetryPolicy | None
    ) -> None:
        """As `next` does; the step hung until the time limit of its job, in each attempt."""

        async def handler(ctx: JobContext, payload: Number) -> None:
            await ctx.step("first", next, iter(()), retry=retry)

        ended = await run(settings, database, jobs, kind_of(handler, time_limit=10))
        assert ended["state"] == "discarded"
        assert "raised StopIteration" in ended["errors"][-1]["detail"]

    @pytest.mark.parametrize("within", [False, True])
    @pytest.mark.parametrize("used", [False, True])
    async def test_steps_of_tasks_that_were_begun_in_a_session_are_kept(
        self, settings: Settings, database: Database, jobs: Jobs, within: bool, used: bool
    ) -> None:
        """Those that outlived it were kept in a transaction that nothing ended, and the job ran for ever."""
        calls: list[str] = []

        async def slow(name: str) -> str:
            calls.append(name)
            await asyncio.sleep(0.05)
            return name

        async def handler(ctx: JobContext, payload: Number) -> None:
            async with ctx.session() as session:
                if used:
                    await session.connection()
                tasks = [asyncio.create_task(ctx.step(name, slow, name)) for name in "ab"]
                if within:
                    await asyncio.gather(*tasks)
            await asyncio.gather(*tasks)
            await ctx.step("c", slow, "c")
            if ctx.attempt == 1:
                raise RuntimeError

        ended = await run(settings, database, jobs, kind_of(handler))
        assert (ended["state"], ended["attempt"], calls) == ("succeeded", 2, ["a", "b", "c"])
        assert sorted(await steps_of(jobs)) == [(name, "step", "done", name) for name in "abc"]

    @pytest.mark.parametrize("plain", [False, True])
    async def test_system_exit_of_a_step_ends_no_worker(
        self, settings: Settings, database: Database, jobs: Jobs, plain: bool
    ) -> None:
        """As a command line that is called as a function raises it; under a task group asyncio ends its loop by it."""

        async def in_the_loop() -> None:
            raise SystemExit(2)

        def in_a_thread() -> None:
            raise SystemExit(2)

        async def handler(ctx: JobContext, payload: Number) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.step("exit", in_a_thread if plain else in_the_loop))

        ended = await run(settings, database, jobs, kind_of(handler))
        assert (ended["state"], ended["attempt"], ended["crash_count"]) == ("discarded", 3, 0)

    async def test_step_is_not_tried_again_if_a_task_of_it_discards_the_job(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        calls: list[str] = []

        async def part() -> None:
            calls.append("part")
            raise Discard("There is no such account.")

        async def parts() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(part())

        async def handler(ctx: JobContext, payload: Number) -> None:
            await ctx.step("parts", parts, retry=AT_ONCE)

        ended = await run(settings, database, jobs, kind_of(handler))
        assert (ended["state"], ended["errors"][0]["error"]) == ("discarded", "There is no such account.")
        assert calls == ["part"]

    async def test_model_with_aliases_is_the_result_of_a_step_that_ran_once(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        calls: list[str] = []

        async def charge() -> Charge:
            calls.append("charge")
            return Charge(chargeId="c")

        async def handler(ctx: JobContext, payload: Number) -> Charge:
            charged = await ctx.step("charge", charge)
            if ctx.attempt == 1:
                raise RuntimeError
            return charged

        ended = await run(settings, database, jobs, kind_of(handler))
        assert (ended["state"], ended["attempt"], ended["result"]) == ("succeeded", 2, {"charge_id": "c"})
        assert calls == ["charge"]

    async def test_plain_function_runs_in_a_thread_and_a_lambda_may_return_a_coroutine(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        async def double(number: int) -> int:
            return 2 * number

        async def handler(ctx: JobContext, payload: Number) -> None:
            assert await ctx.step("thread", threading.get_ident) != threading.get_ident()
            assert await ctx.step("lambda", lambda: double(2)) == 4
            assert await ctx.step("partial", partial(double, 3)) == 6

        assert (await run(settings, database, jobs, kind_of(handler)))["state"] == "succeeded"

    async def test_plain_handler_has_steps_and_sleeps(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        calls: list[str] = []

        def handler(ctx: JobContext, payload: Number) -> None:
            ctx.from_thread(ctx.step("once", calls.append, "once"))
            ctx.from_thread(ctx.sleep(0.05))

        ended = await run(settings, database, jobs, kind_of(handler))
        assert (ended["state"], ended["attempt"], calls) == ("succeeded", 1, ["once"])

    async def test_step_in_a_transaction_commits_with_its_effect(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        await jobs.all("CREATE TABLE IF NOT EXISTS effect (at int)")
        calls: list[int] = []

        async def handler(ctx: JobContext, payload: Number) -> None:
            async with ctx.session() as session:

                async def effect() -> int:
                    calls.append(ctx.run)
                    await (await session.connection()).exec_driver_sql("INSERT INTO effect VALUES (1)")
                    return ctx.run

                given = await ctx.step("effect", effect)
                if ctx.attempt == 1:
                    raise ConnectionError  # rolls both back
            assert given == 2
            if ctx.attempt == 2:
                raise ConnectionError

        try:
            ended = await run(settings, database, jobs, kind_of(handler))
            assert (ended["state"], ended["attempt"]) == ("succeeded", 3)
            assert calls == [1, 2]
            assert len(await jobs.all("SELECT FROM effect")) == 1
        finally:
            await jobs.all("DROP TABLE effect")

    async def test_step_in_a_transaction_has_the_time_at_which_it_began(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        began: list[datetime] = []

        async def handler(ctx: JobContext, payload: Number) -> None:
            async with ctx.session() as session:
                connection = await session.connection()
                began.append((await connection.exec_driver_sql("SELECT now()")).scalar_one())
                await ctx.step("book", asyncio.sleep, 0.01)

        await run(settings, database, jobs, kind_of(handler))

        step = await jobs.one("SELECT started_at, finished_at FROM job_step")
        assert began[0] < step["started_at"] < step["finished_at"]

    async def test_stale_run_keeps_no_step(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        calls: list[int] = []
        taken = asyncio.Event()

        async def handler(ctx: JobContext, payload: Number) -> None:
            async def slow() -> int:
                calls.append(ctx.run)
                if ctx.run == 1:
                    await jobs.all("UPDATE job SET run_lease = run_lease + 1, state = 'available', session_id = NULL")
                    await asyncio.shield(taken.wait())
                return ctx.run

            try:
                given = await ctx.step("slow", slow)
            finally:
                taken.set()
            assert given == 3

        ended = await run(settings, database, jobs, kind_of(handler, time_limit=0.5))
        assert ended["state"] == "succeeded"
        assert await steps_of(jobs) == [("slow", "step", "done", 3)]
        assert calls == [1, 3]

    @pytest.mark.parametrize("ended", ["succeeded", "discarded"])
    async def test_steps_stay_with_an_ended_job_and_are_deleted_with_it(
        self, settings: Settings, database: Database, jobs: Jobs, ended: str
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            await ctx.step("one", int)
            if ended == "discarded":
                raise ConnectionError

        await run(settings, database, jobs, kind_of(handler))
        assert len(await steps_of(jobs)) == 1
        await jobs.all("UPDATE job_history SET finished_at = now() - interval '99 days'")
        async with working(settings):
            await until(lambda: _is_empty(jobs, "job_history"))
        assert await steps_of(jobs) == []


async def _is_empty(jobs: Jobs, table: str) -> bool:
    return await jobs.all(f"SELECT FROM {table}") == []


async def test_step_whose_write_meets_a_conflict_is_written_again_and_not_run_again(
    settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    keep, conflicts = StepStore.keep, iter([True])

    async def conflicting(self: StepStore, steps: Any) -> Any:
        if next(conflicts, False):
            raise TransactionConflictError
        return await keep(self, steps)

    monkeypatch.setattr(StepStore, "keep", conflicting)

    async def handler(ctx: JobContext, payload: Number) -> None:
        await ctx.step("once", calls.append, ctx.run)

    ended = await run(settings, database, jobs, kind_of(handler))
    assert (ended["state"], ended["attempt"], calls) == ("succeeded", 1, [1])


class TestRetries:
    async def test_step_with_retries_is_tried_again_within_the_run(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        calls: list[int] = []

        async def handler(ctx: JobContext, payload: Number) -> None:
            async def flaky() -> str:
                calls.append(ctx.attempt)
                if len(calls) < 3:
                    raise ConnectionError
                return "well"

            assert await ctx.step("flaky", flaky, retry=AT_ONCE) == "well"

        ended = await run(settings, database, jobs, kind_of(handler))
        assert (ended["state"], ended["attempt"], calls) == ("succeeded", 1, [1, 1, 1])

    async def test_spent_step_has_failed_in_every_run_until_the_job_is_retried(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        from plinth.jobs.admin.jobs import retry_job

        calls: list[int] = []
        works = False

        async def handler(ctx: JobContext, payload: Number) -> None:
            def fails() -> str:
                calls.append(ctx.attempt)
                if not works:
                    raise ConnectionError("gone")
                return "done"

            await ctx.step("before", int)
            await ctx.step("fails", fails, retry=RetryPolicy(max_attempts=2, base=0.01, ceiling=0.01))

        kind = kind_of(handler)
        ended = await run(settings, database, jobs, kind)
        assert (ended["state"], ended["attempt"], calls) == ("discarded", 3, [1, 1])
        assert {entry["detail"] for entry in ended["errors"]} == {
            "StepFailed: The step 'fails' has failed: ConnectionError: gone"
        }
        works = True
        async with database.session() as session:
            await retry_job(session, ended["id"])
        async with working(settings, kind):
            again = await jobs.end_of(ended["id"])
        assert (again["state"], calls) == ("succeeded", [1, 1, 1])

    async def test_handler_may_catch_a_failed_step(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            try:
                await ctx.step("charge", lambda: 1 / 0, retry=RetryPolicy(max_attempts=1))
            except StepFailed:
                await ctx.step("refund", int)

        assert (await run(settings, database, jobs, kind_of(handler)))["state"] == "succeeded"
        assert [step[:3] for step in await steps_of(jobs)] == [
            ("charge", "step", "failed"),
            ("refund", "step", "done"),
        ]


class TestSleep:
    async def test_sleeping_job_holds_no_slot_and_spends_no_attempt(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        order: list[str] = []

        async def handler(ctx: JobContext, payload: Number) -> None:
            await ctx.step("first", order.append, "first")
            await ctx.sleep(1)
            order.append("woke")

        @job("test.other")
        async def other(ctx: JobContext, payload: Number) -> None:
            order.append("other")

        kind = kind_of(handler)
        made = await enqueue(database, kind, Number())
        async with working(settings, kind, other, concurrency=1):
            await until(lambda: jobs.all("SELECT FROM job WHERE state = 'scheduled'"))
            await jobs.end_of((await enqueue(database, other, Number())).id)
            ended = await jobs.end_of(made.id)
        assert order == ["first", "other", "woke"]
        assert (ended["state"], ended["attempt"], ended["errors"]) == ("succeeded", 1, [])
        slept = await jobs.one("SELECT started_at, due_at FROM job_step WHERE name = 'sleep'")
        assert slept["due_at"] - slept["started_at"] == timedelta(seconds=1)

    async def test_job_that_is_woken_early_sleeps_on(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        runs: list[int] = []

        async def handler(ctx: JobContext, payload: Number) -> None:
            runs.append(ctx.run)
            await ctx.sleep(3600)

        kind = kind_of(handler)
        made = await enqueue(database, kind, Number())
        async with working(settings, kind):
            await until(lambda: jobs.all("SELECT FROM job WHERE state = 'scheduled'"))
            due = (await jobs.live(made.id))["run_at"]
            await jobs.all("UPDATE job SET state = 'available', run_at = now()")
            await until(lambda: jobs.all("SELECT FROM job WHERE state = 'scheduled'"))
        assert len(runs) == 2
        assert (await jobs.live(made.id))["run_at"] == due

    async def test_sleep_until_a_time_that_has_passed_is_over(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            await ctx.sleep(until=datetime(2000, 1, 1, tzinfo=UTC))

        assert (await run(settings, database, jobs, kind_of(handler)))["state"] == "succeeded"

    @pytest.mark.parametrize(
        "until",
        [
            datetime.min.replace(tzinfo=UTC),
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
            datetime.max.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
            datetime(2030, 1, 1, tzinfo=UTC).replace(tzinfo=None),
        ],
    )
    async def test_time_that_no_job_can_sleep_until_is_told_where_it_is_written(
        self, settings: Settings, database: Database, jobs: Jobs, until: datetime
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            with pytest.raises(ValueError, match="needs a time zone, and a year from 1901 to 9998"):
                await ctx.sleep(until=until)

        assert (await run(settings, database, jobs, kind_of(handler)))["state"] == "succeeded"

    async def test_sleep_in_a_task_group_suspends_the_job(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.sleep(0.05, name="a"))
                group.create_task(ctx.sleep(0.05, name="b"))

        ended = await run(settings, database, jobs, kind_of(handler))
        assert (ended["state"], ended["attempt"]) == ("succeeded", 1)

    async def test_sleeping_job_is_cancelled_at_once(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        from plinth.jobs.admin.jobs import request_cancel

        async def handler(ctx: JobContext, payload: Number) -> None:
            await ctx.sleep(3600)

        kind = kind_of(handler)
        made = await enqueue(database, kind, Number())
        async with working(settings, kind):
            await until(lambda: jobs.all("SELECT FROM job WHERE state = 'scheduled'"))
            async with database.session() as session:
                await request_cancel(session, made.id)
            assert (await jobs.end_of(made.id))["state"] == "cancelled"


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


class TestEvents:
    @pytest.fixture
    def got(self) -> list[Any]:
        return []

    @pytest.fixture
    def waits(self, got: list[Any]) -> JobKind[Number]:
        async def handler(ctx: JobContext, payload: Number) -> None:
            got.append(await ctx.wait_for("paid", returns=Order))

        return kind_of(handler)

    async def test_event_wakes_a_waiting_job(
        self, settings: Settings, database: Database, jobs: Jobs, waits: JobKind[Number], got: list[Any]
    ) -> None:
        made = await enqueue(database, waits, Number())
        async with working(settings, waits):
            await until(lambda: jobs.all("SELECT FROM job WHERE state = 'scheduled'"))
            async with database.session() as session:
                assert await emit(session, "paid", Order(total=3))
            ended = await jobs.end_of(made.id)
        assert (ended["state"], ended["attempt"], got) == ("succeeded", 1, [Order(total=3)])

    async def test_longest_name_that_can_be_emitted_can_be_waited_for(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            await ctx.wait_for("x" * 200)
            await ctx.wait_for("x" * 200)  # the step's name has a number behind it

        async with database.session() as session:
            await emit(session, "x" * 200)
        assert (await run(settings, database, jobs, kind_of(handler)))["state"] == "succeeded"

    async def test_event_that_was_emitted_before_is_found_without_waiting(
        self, settings: Settings, database: Database, jobs: Jobs, waits: JobKind[Number], got: list[Any]
    ) -> None:
        async with database.session() as session:
            assert await emit(session, "paid", {"total": 1})
            assert not await emit(session, "paid", {"total": 2})  # the first counts
        ended = await run(settings, database, jobs, waits)
        assert (ended["run_lease"], got) == (1, [Order(total=1)])

    async def test_event_of_a_transaction_that_rolls_back_wakes_no_job(
        self, settings: Settings, database: Database, jobs: Jobs, waits: JobKind[Number]
    ) -> None:
        await enqueue(database, waits, Number())
        async with working(settings, waits):
            await until(lambda: jobs.all("SELECT FROM job WHERE state = 'scheduled'"))
            async with database.session() as session:
                await emit(session, "paid", {"total": 1})
                await session.rollback()
        assert await jobs.all("SELECT FROM job_event") == []
        assert [step[2] for step in await steps_of(jobs)] == ["waiting"]

    async def test_wait_and_emit_at_the_same_time_never_miss_each_other(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            await ctx.wait_for(f"event {payload.n}")

        kind = kind_of(handler)

        async def tell(number: int) -> None:
            await asyncio.sleep(number % 7 / 500)
            async with database.session() as session:
                await emit(session, f"event {number}")
                await asyncio.sleep(number % 3 / 200)  # the commit comes later

        async with working(settings, kind):
            for batch in range(10):
                numbers = range(batch * 10, batch * 10 + 10)
                for number in numbers:
                    await enqueue(database, kind, Number(n=number))
                await asyncio.gather(*map(tell, numbers))
            await until(lambda: _is_empty(jobs, "job"))
        assert {row["state"] for row in await jobs.all("SELECT state FROM job_history")} == {"succeeded"}

    async def test_transaction_that_emits_delays_no_other_outcome(
        self, settings: Settings, database: Database, jobs: Jobs, waits: JobKind[Number]
    ) -> None:
        @job("test.other")
        async def other(ctx: JobContext, payload: Number) -> None:
            pass

        async def sleeps(ctx: JobContext, payload: Number) -> None:
            await ctx.sleep(3600)

        sleeper = job("test.sleeps")(sleeps)
        async with working(settings, waits, other, sleeper), database.session() as session:
            await emit(session, "paid", {"total": 1})
            waiting = await enqueue(database, waits, Number())
            await until(lambda: jobs.all("SELECT FROM job WHERE run_lease > 0"))
            async with asyncio.timeout(8):
                await jobs.end_of((await enqueue(database, other, Number())).id)
                await enqueue(database, sleeper, Number())
                await until(lambda: jobs.all("SELECT FROM job WHERE kind = 'test.sleeps' AND state = 'scheduled'"))
            await session.commit()
            assert (await jobs.end_of(waiting.id))["state"] == "succeeded"

    async def test_wait_that_times_out_has_done_so_in_every_run(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        timeouts: list[int] = []

        async def handler(ctx: JobContext, payload: Number) -> None:
            try:
                await ctx.wait_for("never", timeout=0.1)
            except EventTimeout:
                timeouts.append(ctx.run)
            if len(timeouts) == 1:
                async with ctx.session() as session:
                    await emit(session, "never")  # too late
                raise ConnectionError

        ended = await run(settings, database, jobs, kind_of(handler))
        assert (ended["state"], ended["attempt"], len(timeouts)) == ("succeeded", 2, 2)
        assert [step[2] for step in await steps_of(jobs)] == ["timed_out"]

    async def test_second_wait_for_an_event_has_the_first_one_s_payload(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        got: list[Any] = []

        async def handler(ctx: JobContext, payload: Number) -> None:
            first = await ctx.wait_for("paid", timeout=60)
            got.append((first, await ctx.wait_for("paid", timeout=60)))

        kind = kind_of(handler)
        made = await enqueue(database, kind, Number())
        async with working(settings, kind):
            await until(lambda: jobs.all("SELECT FROM job WHERE state = 'scheduled'"))
            async with database.session() as session:
                await emit(session, "paid")
            ended = await jobs.end_of(made.id)
        assert (ended["state"], got) == ("succeeded", [(None, None)])
        assert [step[:3] for step in await steps_of(jobs)] == [("paid", "event", "done"), ("paid#2", "event", "done")]

    async def test_old_events_are_deleted(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        async with database.session() as session:
            await emit(session, "old")
            await emit(session, "new")
        await jobs.all("UPDATE job_event SET emitted_at = now() - interval '91 days' WHERE name = 'old'")
        async with working(settings):
            await until(lambda: jobs.all("SELECT FROM job_event HAVING count(*) = 1"))
        assert [row["name"] for row in await jobs.all("SELECT name FROM job_event")] == ["new"]

    @pytest.mark.parametrize(
        ("name", "payload", "error"),
        [
            ("", None, ValueError),
            ("x" * 201, None, ValueError),
            ("a\0b", None, ValueError),
            ("a\ud800", None, ValueError),
            ("big", "x" * 70_000, ValueError),
            ("nul", "\0", ValueError),
            ("infinite", math.inf, ValueError),
            ("deep", nested(210), ValueError),
            ("deeper", nested(300), TypeError),
            ("object", object(), TypeError),
        ],
    )
    async def test_event_that_cannot_be_kept_is_refused(
        self, database: Database, name: str, payload: Any, error: type[Exception]
    ) -> None:
        async with database.session() as session:
            with pytest.raises(error):
                await emit(session, name, payload)


class TestRefusals:
    """A handler that raises is discarded with the error's text."""

    async def refused(self, settings: Settings, database: Database, jobs: Jobs, handler: Any) -> str:
        ended = await run(settings, database, jobs, kind_of(handler))
        assert ended["state"] == "discarded"
        return str(ended["errors"][-1]["detail"])

    @pytest.mark.parametrize(
        ("result", "error"),
        [
            (object(), "TypeError: The result of the step 'bad', a object, cannot be kept as JSON of its type."),
            ("x" * (MAX_RESULT + 1), f"ValueError: The result of the step 'bad' has more than {MAX_RESULT} bytes"),
            ("\0", "ValueError: The result of the step 'bad' holds a NUL"),
        ],
    )
    async def test_result_that_cannot_be_kept_is_refused(
        self, settings: Settings, database: Database, jobs: Jobs, result: Any, error: str
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            await ctx.step("bad", lambda: result)

        assert (await self.refused(settings, database, jobs, handler)).startswith(error)
        assert await steps_of(jobs) == []

    async def test_result_of_another_type_than_declared_is_refused(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        async def number() -> int:
            return "seven"  # type: ignore[return-value]

        async def handler(ctx: JobContext, payload: Number) -> None:
            await ctx.step("number", number)

        assert "cannot be kept as JSON of its type" in await self.refused(settings, database, jobs, handler)

    async def test_changed_type_of_a_result_is_told(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        async def before() -> int:
            return 7

        async def after() -> Order:
            raise AssertionError

        async def handler(ctx: JobContext, payload: Number) -> None:
            await ctx.step("number", before if ctx.attempt == 1 else after)
            raise ConnectionError

        told = await self.refused(settings, database, jobs, handler)
        assert told == "StepChanged: What 'number' gave earlier does not fit its type now: the whole."

    async def test_changed_kind_of_a_step_is_told(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            if ctx.attempt == 1:
                await ctx.step("x", int)
                raise ConnectionError
            await ctx.sleep(1, name="x")

        told = await self.refused(settings, database, jobs, handler)
        assert told == "StepChanged: 'x' was of the kind 'step' in an earlier run, and is 'sleep' now."

    async def test_two_steps_of_a_name_at_the_same_time_are_refused(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            await asyncio.gather(ctx.step("same", asyncio.sleep, 0.01), ctx.step("same", asyncio.sleep, 0.01))

        assert "Two steps 'same' run at the same time" in await self.refused(settings, database, jobs, handler)

    @pytest.mark.parametrize("names", [("a", "a", "a#2"), ("a#2", "a", "a")])
    async def test_name_that_is_another_step_s_with_its_number_is_refused(
        self, settings: Settings, database: Database, jobs: Jobs, names: tuple[str, ...]
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            for name in names:
                await ctx.step(name, int)

        assert "Two steps are called 'a#2'" in await self.refused(settings, database, jobs, handler)

    async def test_steps_of_different_names_run_at_the_same_time(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            both = asyncio.Barrier(2)

            async def one(number: int) -> int:
                await both.wait()
                return number

            found = await asyncio.gather(ctx.step("a", one, 1), ctx.step("b", one, 2))
            assert list(found) == [1, 2]

        assert (await run(settings, database, jobs, kind_of(handler)))["state"] == "succeeded"

    async def test_number_of_steps_is_bounded(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("plinth.jobs.steps.MAX_STEPS", 3)

        async def handler(ctx: JobContext, payload: Number) -> None:
            for _ in range(4):
                await ctx.step("many", int)

        assert MAX_STEPS > 3
        assert (await self.refused(settings, database, jobs, handler)) == "RuntimeError: A job has 3 steps at most."

    @pytest.mark.parametrize(
        "call",
        [
            lambda ctx: ctx.step("", int),
            lambda ctx: ctx.step("x" * 201, int),
            lambda ctx: ctx.step("a\0", int),
            lambda ctx: ctx.step("a\ud800", int),
            lambda ctx: ctx.sleep(1, name="a\ud800"),
            lambda ctx: ctx.wait_for("a\ud800"),
            lambda ctx: ctx.sleep(),
            lambda ctx: ctx.sleep(-1),
            lambda ctx: ctx.sleep(float("nan")),
            lambda ctx: ctx.sleep(1e10),
            lambda ctx: ctx.sleep(1, until=datetime.now(UTC)),
            lambda ctx: ctx.sleep(until=datetime(2030, 1, 1)),  # noqa: DTZ001
            lambda ctx: ctx.wait_for(""),
            lambda ctx: ctx.wait_for("a", timeout=-1),
        ],
    )
    async def test_bad_arguments_are_refused(
        self, settings: Settings, database: Database, jobs: Jobs, call: Any
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            await call(ctx)

        assert (await self.refused(settings, database, jobs, handler)).startswith("ValueError")

    @pytest.mark.parametrize("how", ["sleep", "wait", "retries"])
    async def test_what_a_transaction_cannot_hold_is_refused(
        self, settings: Settings, database: Database, jobs: Jobs, how: str
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            async with ctx.session():
                if how == "sleep":
                    await ctx.sleep(1)
                elif how == "wait":
                    await ctx.wait_for("x")
                else:
                    await ctx.step("x", int, retry=AT_ONCE)

        assert (await self.refused(settings, database, jobs, handler)).startswith("RuntimeError")

    async def test_step_after_the_end_of_the_job_is_refused(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            async with ctx.session() as session:
                await ctx.complete(session)
                await ctx.step("late", int)

        assert "steps come before the job completes" in await self.refused(settings, database, jobs, handler)


class TestCost:
    async def test_first_run_reads_no_steps_and_each_step_is_one_statement(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from plinth.jobs.engine.step_store import StepStore

        statements: list[str] = []
        fetch = StepStore._fetch

        async def observed(self: StepStore, statement: str, *arguments: Any) -> Any:
            statements.append(statement.split(maxsplit=1)[0])
            return await fetch(self, statement, *arguments)

        monkeypatch.setattr(StepStore, "_fetch", observed)

        async def handler(ctx: JobContext, payload: Number) -> None:
            for number in range(5):
                await ctx.step(f"s{number}", int)

        await run(settings, database, jobs, kind_of(handler))
        assert statements == ["WITH"] * 5

    async def test_run_that_sleeps_is_counted_as_suspended(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            await ctx.sleep(0.05)

        with capture_logs() as lines:
            await run(settings, database, jobs, kind_of(handler))
        assert [line["outcome"] for line in lines if line["event"] == "job"] == ["suspended", "succeeded"]


class TestViews:
    async def test_steps_are_listed_in_the_order_in_which_they_began(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        async def handler(ctx: JobContext, payload: Number) -> None:
            await ctx.step("first", int)
            await ctx.sleep(0.05)
            try:
                await ctx.step("charge", lambda: 1 / 0, retry=RetryPolicy(max_attempts=1))
            except StepFailed:
                await ctx.wait_for("paid", timeout=3600)

        kind = kind_of(handler)
        made = await enqueue(database, kind, Number())
        async with working(settings, kind):
            await until(lambda: jobs.all("SELECT FROM job_step WHERE kind = 'event'"))
            async with database.session() as session:
                found = await list_steps(session, made.id)
        assert [(step.name, step.kind, step.state, step.event, step.result, step.error) for step in found] == [
            ("first", "step", "done", None, 0, None),
            ("sleep", "sleep", "done", None, None, None),
            ("charge", "step", "failed", None, None, "ZeroDivisionError: division by zero"),
            ("paid", "event", "waiting", "paid", None, None),
        ]
        assert found[1].finished_at == found[1].due_at
        assert found[3].due_at is not None
        assert found[3].finished_at is None
