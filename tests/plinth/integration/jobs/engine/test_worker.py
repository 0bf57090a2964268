"""What a worker does with jobs: order, limits, failures, cancellation, progress, completion."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, model_validator
from sqlmodel.ext.asyncio.session import AsyncSession
from structlog.testing import capture_logs

from notes.config import Settings
from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.jobs import (
    Discard,
    JobCancelled,
    JobContext,
    JobKind,
    LeaseLost,
    Retry,
    RetryPolicy,
    Snooze,
    enqueue,
    enqueue_many,
    job,
)
from plinth.jobs.claimed import ClaimedJob
from plinth.jobs.doorbell import Doorbell
from plinth.jobs.engine import recorder as recorder_module
from plinth.jobs.engine import run as run_module
from plinth.jobs.engine import runner as runner_module
from plinth.jobs.engine.store import Store
from plinth.jobs.engine.worker import Worker
from plinth.jobs.outcome import Finish, State
from plinth.testing.servers import Servers
from tests.plinth.integration.jobs.conftest import Jobs, Number, open_store, until, working
from tests.support.notes import settings_with

AT_ONCE = RetryPolicy(max_attempts=3, base=0.01, ceiling=0.01)
ONE_ATTEMPT = RetryPolicy(max_attempts=1)


async def put(database: Database, kind: JobKind[Any], payload: BaseModel | None = None, **options: Any) -> UUID:
    async with database.session() as session:
        return (await enqueue(session, kind, payload or Number(), **options)).id


async def request_cancel(jobs: Jobs, job_id: UUID) -> None:
    """The flag alone, without the doorbell: the heartbeat has to find it."""
    await jobs.all("UPDATE job SET cancel_requested_at = now() WHERE id = $1", job_id)


class TestOrder:
    async def test_jobs_run_by_priority_then_by_time_across_queues_and_kinds(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        order: list[int] = []

        @job("test.a")
        async def a(ctx: JobContext, payload: Number) -> None:
            order.append(payload.n)

        @job("test.b", queue="other")
        async def b(ctx: JobContext, payload: Number) -> None:
            order.append(payload.n)

        await put(database, a, Number(n=4))
        await put(database, b, Number(n=5))
        await put(database, b, Number(n=3), priority=-1)
        await put(database, a, Number(n=1), priority=-2)
        await put(database, a, Number(n=2), priority=-2)
        await put(database, a, Number(n=6), priority=1)
        async with working(settings, a, b, queues=["default", "other"], concurrency=1):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 5"))
        assert order == [1, 2, 3, 4, 5, 6]

    async def test_worker_runs_only_its_own_queues_and_kinds(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.known")
        async def known(ctx: JobContext, payload: Number) -> None:
            pass

        @job("test.new")
        async def new(ctx: JobContext, payload: Number) -> None:
            raise AssertionError

        unknown = await put(database, new)
        elsewhere = await put(database, known, queue="elsewhere")
        mine = await put(database, known)
        async with working(settings, known):
            await jobs.end_of(mine)
            await asyncio.sleep(0.3)
        for untouched in (unknown, elsewhere):
            row = await jobs.live(untouched)
            assert (row["state"], row["attempt"], row["run_lease"]) == ("available", 0, 0)

    async def test_scheduled_job_runs_soon_after_its_time_and_not_before(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.later")
        async def later(ctx: JobContext, payload: Number) -> None:
            pass

        early = await put(database, later, delay=0.3)
        async with working(settings, later):
            row = await jobs.end_of(early)
        assert row["started_at"] >= row["run_at"]

    async def test_paused_queue_is_not_claimed(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        @job("test.paused")
        async def paused(ctx: JobContext, payload: Number) -> None:
            pass

        await jobs.all("INSERT INTO job_queue (name) VALUES ('default')")
        waiting = await put(database, paused)
        other = await put(database, paused, queue="other")
        async with working(settings, paused, queues=["default", "other"]):
            await jobs.end_of(other)
            await asyncio.sleep(0.3)
            assert await jobs.state(waiting) == "available"
            await jobs.all("DELETE FROM job_queue")
            await jobs.end_of(waiting)

    async def test_worker_runs_no_more_jobs_at_once_than_it_has_slots(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        running, most = 0, 0

        @job("test.slots")
        async def slots(ctx: JobContext, payload: Number) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1

        async with database.session() as session:
            await enqueue_many(session, slots, [Number(n=n) for n in range(40)])
        async with working(settings, slots, concurrency=4):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 39"))
        assert most == 4

    @pytest.mark.parametrize("slots", [1, 4])
    async def test_owner_with_many_jobs_does_not_keep_another_waiting(
        self, settings: Settings, database: Database, jobs: Jobs, slots: int
    ) -> None:
        order: list[str | None] = []

        @job("test.fair")
        async def fair(ctx: JobContext, payload: Number) -> None:
            order.append(ctx.owner)
            await asyncio.sleep(0.005)

        for owner, count in (("many", 300), ("some", 30), ("few", 1), ("also", 2)):
            await enqueue_many(database, fair, [Number()] * count, owner=owner)
        await enqueue(database, fair, Number())  # of no owner, last in line
        async with working(settings, fair, concurrency=slots):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 333"))
        assert len(order) == 334
        assert order.index("few") < 8 * slots
        assert order.index("also") < 8 * slots
        assert order[:100].count("some") >= 10
        assert order[:100].count("many") >= 20

    async def test_turn_of_an_owner_is_for_no_worse_priority_than_the_line_s(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        order: list[str | None] = []

        @job("test.fair")
        async def fair(ctx: JobContext, payload: Number) -> None:
            order.append(ctx.owner)

        await enqueue_many(database, fair, [Number()] * 50, owner="many")
        await enqueue(database, fair, Number(), owner="worse", priority=1)
        await enqueue(database, fair, Number(), owner="better", priority=-1)
        async with working(settings, fair, concurrency=2):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 51"))
        assert (order[0], order[-1]) == ("better", "worse")

    async def test_turns_respect_paused_queues_other_kinds_and_limits(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        running, most = 0, 0

        @job("test.fair")
        async def fair(ctx: JobContext, payload: Number) -> None:
            await asyncio.sleep(0.001)

        @job("test.limited", max_running=1)
        async def limited(ctx: JobContext, payload: Number) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1

        @job("test.foreign")
        async def foreign(ctx: JobContext, payload: Number) -> None:
            raise AssertionError

        await enqueue_many(database, fair, [Number()] * 60, owner="many")
        for owner in "abc":
            await enqueue_many(database, limited, [Number()] * 3, owner=owner)
            await enqueue(database, foreign, Number(), owner=owner)
            await enqueue(database, fair, Number(), owner=owner, queue="paused")
        await jobs.all("INSERT INTO job_queue (name) VALUES ('paused')")
        async with working(settings, fair, limited, concurrency=4, queues=["default", "paused"]):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 68"))
        assert most == 1
        left = await jobs.all("SELECT kind, queue, state FROM job ORDER BY kind, queue")
        assert [tuple(row) for row in left] == [("test.fair", "paused", "available")] * 3 + [
            ("test.foreign", "default", "available")
        ] * 3

    async def test_next_claim_is_sent_before_the_second_half_of_a_claim_runs(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[str] = []
        claim = Store.claim

        async def observed(self: Store, *arguments: Any, **options: Any) -> list[ClaimedJob]:
            events.append("claim")
            return await claim(self, *arguments, **options)

        @job("test.short")
        async def short(ctx: JobContext, payload: Number) -> None:
            events.append("run")

        monkeypatch.setattr(Store, "claim", observed)
        async with database.session() as session:
            await enqueue_many(session, short, [Number(n=n) for n in range(8)])
        async with working(settings, short, concurrency=4):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 7"))
        assert events[:8] == ["claim", "run", "run", "claim", "run", "run", "run", "claim"]
        assert events.count("run") == 8

    async def test_long_job_does_not_keep_the_second_half_of_its_claim_from_running(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        everyone = asyncio.Barrier(4)

        @job("test.together")
        async def together(ctx: JobContext, payload: Number) -> None:
            await everyone.wait()

        async with database.session() as session:
            await enqueue_many(session, together, [Number(n=n) for n in range(8)])
        async with working(settings, together, concurrency=4):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 7"))

    async def test_max_running_holds_for_all_workers_together(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        running, most = 0, 0

        @job("test.limited", max_running=2)
        async def limited(ctx: JobContext, payload: Number) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1

        async with database.session() as session:
            await enqueue_many(session, limited, [Number(n=n) for n in range(40)])
        async with working(settings, limited), working(settings, limited), working(settings, limited):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 39"))
        assert most == 2


class TestFailures:
    async def test_failed_job_is_retried_with_its_error_recorded(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        attempts: list[int] = []

        @job("test.flaky", retry=AT_ONCE)
        async def flaky(ctx: JobContext, payload: Number) -> None:
            attempts.append(ctx.attempt)
            if ctx.attempt < 3:
                raise ValueError(f"secret\0 {ctx.attempt}")

        flaky_id = await put(database, flaky)
        with capture_logs():
            async with working(settings, flaky):
                row = await jobs.end_of(flaky_id)
        assert attempts == [1, 2, 3]
        assert (row["state"], row["attempt"], row["run_lease"]) == ("succeeded", 3, 3)
        first, second = row["errors"]
        assert (first["outcome"], first["attempt"], first["run"]) == ("error", 1, 1)
        assert first["error"] == "ValueError"  # what the owner may read
        assert first["detail"] == "ValueError: secret\\0 1"
        assert 'raise ValueError(f"secret' in first["traceback"]
        assert second["attempt"] == 2
        assert first["at"] < second["at"]  # the database's time

    async def test_snoozed_job_runs_again_without_spending_an_attempt(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        runs: list[int] = []

        @job("test.snoozes", retry=ONE_ATTEMPT)
        async def snoozes(ctx: JobContext, payload: Number) -> None:
            runs.append(ctx.attempt)
            if len(runs) == 1:
                raise Snooze(0)
            if len(runs) == 2:
                raise Snooze(3600)

        made = await put(database, snoozes)
        with capture_logs() as lines:
            async with working(settings, snoozes):
                await until(lambda: jobs.all("SELECT FROM job WHERE run_at > now() + interval '59 minutes'"))
                waiting = await jobs.live(made)
                assert (waiting["state"], waiting["attempt"], waiting["errors"]) == ("scheduled", 0, [])
                await jobs.all("UPDATE job SET run_at = now()")
                ended = await jobs.end_of(made)
        assert (ended["state"], ended["attempt"], ended["errors"], runs) == ("succeeded", 1, [], [1, 1, 1])
        assert [line["outcome"] for line in lines if line["event"] == "job"] == ["snoozed", "snoozed", "succeeded"]

    async def test_retry_after_decides_when_the_next_attempt_comes(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.busy", retry=RetryPolicy(max_attempts=2, base=0.01, ceiling=0.01))
        async def busy(ctx: JobContext, payload: Number) -> None:
            try:
                raise ConnectionError("429")
            except ConnectionError as error:
                raise Retry(after=1800) from error

        made = await put(database, busy)
        with capture_logs():
            async with working(settings, busy):
                await until(lambda: jobs.all("SELECT FROM job WHERE run_at > now() + interval '29 minutes'"))
                waiting = await jobs.live(made)
                assert (waiting["state"], waiting["attempt"]) == ("retryable", 1)
                assert waiting["errors"][0]["detail"] == "ConnectionError: 429"
                await jobs.all("UPDATE job SET run_at = now()")
                ended = await jobs.end_of(made)
        assert (ended["state"], ended["attempt"]) == ("discarded", 2)

    @pytest.mark.parametrize("make", [lambda: Snooze(-1), lambda: Snooze(float("inf")), lambda: Retry(after=1e9)])
    def test_delay_that_makes_no_sense_is_refused(self, make: Callable[[], Exception]) -> None:
        with pytest.raises(ValueError, match="0 seconds to a year"):
            make()

    async def test_failed_last_attempt_makes_a_dead_letter(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.broken", retry=AT_ONCE)
        async def broken(ctx: JobContext, payload: Number) -> None:
            raise RuntimeError

        broken_id = await put(database, broken)
        with capture_logs():
            async with working(settings, broken):
                row = await jobs.end_of(broken_id)
        assert (row["state"], row["attempt"], len(row["errors"])) == ("discarded", 3, 3)

    @pytest.mark.parametrize(
        "exception",
        [
            SystemExit(1),
            KeyboardInterrupt(),
            GeneratorExit(),
            StopIteration(),
            asyncio.CancelledError(),
            BaseExceptionGroup("x", [ValueError()]),
        ],
    )
    @pytest.mark.parametrize("plain", [False, True])
    async def test_no_exception_of_a_handler_ends_the_worker(
        self, settings: Settings, database: Database, jobs: Jobs, exception: BaseException, plain: bool
    ) -> None:
        async def in_the_loop(ctx: JobContext, payload: Number) -> None:
            raise exception

        def in_a_thread(ctx: JobContext, payload: Number) -> None:
            raise exception

        wild = job("test.wild", retry=ONE_ATTEMPT)(in_a_thread if plain else in_the_loop)

        @job("test.tame")
        async def tame(ctx: JobContext, payload: Number) -> None:
            pass

        with capture_logs():
            async with working(settings, wild, tame):
                assert (await jobs.end_of(await put(database, wild)))["state"] == "discarded"
                assert (await jobs.end_of(await put(database, tame)))["state"] == "succeeded"

    async def test_discard_ends_the_job_with_its_message_for_the_owner(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.hopeless")
        async def hopeless(ctx: JobContext, payload: Number) -> None:
            raise Discard("There is no such account.")

        with capture_logs():
            async with working(settings, hopeless):
                row = await jobs.end_of(await put(database, hopeless))
        assert (row["state"], row["attempt"]) == ("discarded", 1)
        assert row["errors"][0]["error"] == "There is no such account."

    @pytest.mark.parametrize(
        ("decision", "state", "error"),
        [
            (Discard("There is no such account."), "discarded", "There is no such account."),
            (Snooze(3600), "scheduled", None),
            (Retry(after=3600), "retryable", "Retry"),
        ],
        ids=["discard", "snooze", "retry"],
    )
    async def test_what_a_task_of_a_group_decides_is_what_the_handler_does(
        self,
        settings: Settings,
        database: Database,
        jobs: Jobs,
        decision: Exception,
        state: str,
        error: str | None,
    ) -> None:
        async def part() -> None:
            raise decision

        @job("test.group", retry=AT_ONCE)
        async def together(ctx: JobContext, payload: Number) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(part())
                group.create_task(asyncio.sleep(60))

        job_id = await put(database, together)
        with capture_logs():
            async with working(settings, together):
                await until(lambda: jobs.all("SELECT FROM job_status WHERE run = 1 AND state NOT IN ('running')"))
        row = await jobs.live(job_id) or await jobs.ended(job_id)
        assert (row["state"], row["attempt"]) == (state, int(error is not None))
        assert [entry["error"] for entry in row["errors"]] == ([] if error is None else [error])

    async def test_payload_that_no_version_can_read_is_discarded_without_its_values(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_module, "UNREADABLE_TRIES", 2)
        monkeypatch.setattr(run_module, "UNREADABLE_RETRY", AT_ONCE)

        @job("test.strict", retry=ONE_ATTEMPT)
        async def strict(ctx: JobContext, payload: Number) -> None:
            raise AssertionError

        strict_id = await put(database, strict)
        await jobs.all("""UPDATE job SET payload = '{"n": "hunter2"}'""")
        with capture_logs() as entries:
            async with working(settings, strict):
                row = await jobs.end_of(strict_id)
        assert row["state"] == "discarded"
        assert [error["outcome"] for error in row["errors"]] == ["invalid_payload"] * 3
        assert row["errors"][0]["error"] == "This version cannot read the payload: n"
        assert "hunter2" not in f"{row['errors']} {entries}"

    async def test_payload_whose_validator_fails_spends_no_attempt(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pydantic hands on a validator's KeyError as it is."""
        monkeypatch.setattr(run_module, "UNREADABLE_TRIES", 1)
        monkeypatch.setattr(run_module, "UNREADABLE_RETRY", AT_ONCE)

        class Renamed(BaseModel):
            n: int

            @model_validator(mode="before")
            @classmethod
            def _old_name(cls, data: dict[str, int]) -> dict[str, int]:
                return {"n": data["n"]}

        @job("test.renamed", retry=ONE_ATTEMPT)
        async def renamed(ctx: JobContext, payload: Renamed) -> None:
            raise AssertionError

        renamed_id = await put(database, renamed, Renamed(n=1))
        await jobs.all("""UPDATE job SET payload = '{"number": 1}'""")
        with capture_logs():
            async with working(settings, renamed):
                row = await jobs.end_of(renamed_id)
        assert row["state"] == "discarded"
        assert [(error["outcome"], error["error"]) for error in row["errors"]] == [
            ("invalid_payload", "This version cannot read the payload: KeyError")
        ] * 2

    @pytest.mark.parametrize(
        "payload", ['{"n": 1, "dry_run": true}', '{"n": 1, "extra": {"deep": 1}}', '{"n": "1e3", "dry_run": true}']
    )
    async def test_payload_of_a_newer_version_waits_for_a_newer_worker(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, payload: str
    ) -> None:
        """An old worker neither runs it without its new field nor discards it, even at its last attempt."""
        monkeypatch.setattr(run_module, "UNREADABLE_RETRY", RetryPolicy(base=0.2, ceiling=0.2))
        ran: list[str] = []

        class Newer(BaseModel):
            n: int | str
            dry_run: bool = False
            extra: dict[str, int] = {}

        @job("test.changing", retry=ONE_ATTEMPT)
        async def old(ctx: JobContext, payload: Number) -> None:
            ran.append("old")

        async def newer_function(ctx: JobContext, payload: Newer) -> None:
            ran.append("new")

        newer = JobKind("test.changing", newer_function, Newer, old.queue, 0, 60.0, ONE_ATTEMPT, None)
        changed = await put(database, old)
        await jobs.all("UPDATE job SET payload = $1", payload)
        with capture_logs() as entries:
            async with working(settings, old):
                await until(lambda: jobs.all("SELECT FROM job WHERE jsonb_array_length(errors) >= 2"))
                row = await jobs.live(changed)
                assert row["attempt"] - (row["state"] == "running") == 0
                async with working(settings, newer):
                    row = await jobs.end_of(changed)
        assert (row["state"], row["attempt"], ran) == ("succeeded", 1, ["new"])
        assert "a job is left to a newer version" in [entry["event"] for entry in entries]

    async def test_model_may_say_that_it_takes_unknown_fields(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        class Lenient(BaseModel):
            model_config = ConfigDict(extra="ignore")

        @job("test.lenient")
        async def lenient(ctx: JobContext, payload: Lenient) -> None: ...

        lenient_id = await put(database, lenient, Lenient())
        await jobs.all("""UPDATE job SET payload = '{"more": 1}'""")
        async with working(settings, lenient):
            assert (await jobs.end_of(lenient_id))["state"] == "succeeded"

    async def test_timeout_is_a_failed_attempt(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        @job("test.slow", time_limit=0.05, retry=AT_ONCE)
        async def slow(ctx: JobContext, payload: Number) -> None:
            if ctx.attempt == 1:
                await asyncio.sleep(60)

        with capture_logs():
            async with working(settings, slow):
                row = await jobs.end_of(await put(database, slow))
        assert (row["state"], row["attempt"]) == ("succeeded", 2)
        assert row["errors"][0]["outcome"] == "timeout"
        assert row["errors"][0]["error"] == "The attempt took longer than 0.05 s."


class TestCancel:
    @pytest.fixture
    def quick(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"JOBS_SESSION_TIMEOUT": 2.0})  # a heartbeat each half second

    async def test_handler_that_checks_for_cancellation_ends_in_its_own_way(
        self, quick: Settings, database: Database, jobs: Jobs
    ) -> None:
        tidy = asyncio.Event()

        @job("test.polite")
        async def polite(ctx: JobContext, payload: Number) -> None:
            try:
                while True:
                    await asyncio.sleep(0.01)
                    ctx.raise_if_cancelled()
            except JobCancelled:
                tidy.set()
                raise

        polite_id = await put(database, polite)
        async with working(quick, polite):
            await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
            await request_cancel(jobs, polite_id)
            row = await jobs.end_of(polite_id)
        assert tidy.is_set()
        assert (row["state"], row["errors"]) == ("cancelled", [])

    async def test_handler_that_does_not_check_is_cancelled_as_a_task(
        self, quick: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_module, "CANCEL_GRACE", 0.05)

        @job("test.deaf")
        async def deaf(ctx: JobContext, payload: Number) -> None:
            await asyncio.sleep(60)

        deaf_id = await put(database, deaf)
        async with working(quick, deaf):
            await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
            await request_cancel(jobs, deaf_id)
            assert (await jobs.end_of(deaf_id))["state"] == "cancelled"

    @pytest.mark.parametrize("heard", [False, True])
    @pytest.mark.parametrize(
        ("error", "retry"), [(ValueError(), AT_ONCE), (ValueError(), ONE_ATTEMPT), (Discard("no"), AT_ONCE)]
    )
    async def test_failure_after_a_cancel_request_makes_no_retry_and_no_dead_letter(
        self, settings: Settings, database: Database, jobs: Jobs, error: Exception, retry: RetryPolicy, heard: bool
    ) -> None:
        """Whether the worker has heard of the request or not."""
        go_on = asyncio.Event()

        @job("test.fails", retry=retry)
        async def fails(ctx: JobContext, payload: Number) -> None:
            await go_on.wait()
            ctx.cancelled = heard
            raise error

        fails_id = await put(database, fails)
        with capture_logs():
            async with working(settings.model_copy(update={"JOBS_SESSION_TIMEOUT": 300.0}), fails):
                await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
                await request_cancel(jobs, fails_id)
                go_on.set()
                row = await jobs.end_of(fails_id)
        assert (row["state"], row["attempt"], len(row["errors"])) == ("cancelled", 1, 1)

    async def test_job_cancelled_raised_without_a_request_is_a_failure(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.pretends", retry=ONE_ATTEMPT)
        async def pretends(ctx: JobContext, payload: Number) -> None:
            raise JobCancelled

        with capture_logs():
            async with working(settings, pretends):
                assert (await jobs.end_of(await put(database, pretends)))["state"] == "discarded"


class TestStoppedHandlers:
    """A handler that is stopped may let its cancellation through, swallow it and return, or raise what it likes."""

    @pytest.fixture(params=["lets it through", "returns", "raises"])
    def stopped(self, request: pytest.FixtureRequest) -> Callable[[], Any]:
        async def sleep() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if request.param == "raises":
                    raise ValueError from None
                if request.param != "returns":
                    raise

        return sleep

    async def test_at_its_time_limit_it_has_timed_out(
        self, settings: Settings, database: Database, jobs: Jobs, stopped: Callable[[], Any]
    ) -> None:
        @job("test.slow", time_limit=0.05, retry=ONE_ATTEMPT)
        async def slow(ctx: JobContext, payload: Number) -> None:
            await stopped()

        with capture_logs():
            async with working(settings, slow):
                row = await jobs.end_of(await put(database, slow))
        assert (row["state"], row["errors"][0]["outcome"]) == ("discarded", "timeout")

    async def test_after_a_cancel_request_it_is_cancelled(
        self,
        settings: Settings,
        database: Database,
        jobs: Jobs,
        stopped: Callable[[], Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(run_module, "CANCEL_GRACE", 0.05)

        @job("test.unwanted", retry=ONE_ATTEMPT)
        async def unwanted(ctx: JobContext, payload: Number) -> None:
            await stopped()

        unwanted_id = await put(database, unwanted)
        with capture_logs():
            async with working(settings.model_copy(update={"JOBS_SESSION_TIMEOUT": 2.0}), unwanted):
                await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
                await request_cancel(jobs, unwanted_id)
                assert (await jobs.end_of(unwanted_id))["state"] == "cancelled"

    async def test_at_shutdown_it_is_released_and_spends_no_attempt(
        self, settings: Settings, database: Database, jobs: Jobs, stopped: Callable[[], Any]
    ) -> None:
        @job("test.interrupted", retry=ONE_ATTEMPT)
        async def interrupted(ctx: JobContext, payload: Number) -> None:
            await stopped()

        job_id = await put(database, interrupted)
        with capture_logs():
            async with working(settings, interrupted):
                await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
        row = await jobs.live(job_id)
        assert (row["state"], row["attempt"], row["errors"]) == ("available", 0, [])


class TestPlainFunctions:
    async def test_plain_function_runs_in_a_thread_with_its_context(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        threads: list[str] = []

        async def effect(ctx: JobContext) -> int:
            async with ctx.session() as session:
                await ctx.complete(session)
            return 7

        @job("test.plain")
        def plain(ctx: JobContext, payload: Number) -> None:
            threads.append(threading.current_thread().name)
            ctx.progress(3, 4)
            ctx.enqueue("test.next", Number())
            assert ctx.from_thread(effect(ctx)) == 7

        @job("test.next")
        def following(ctx: JobContext, payload: Number) -> None: ...

        async with working(settings, plain, following):
            row = await jobs.end_of(await put(database, plain))
            await until(lambda: jobs.all("SELECT FROM job_history WHERE kind = 'test.next'"))
        assert (row["state"], row["progress_done"], row["progress_total"]) == ("succeeded", 3, 4)
        assert threads != [threading.current_thread().name]

    async def test_coroutine_function_that_waits_as_a_thread_fails_and_blocks_nothing(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.mistaken", retry=ONE_ATTEMPT)
        async def mistaken(ctx: JobContext, payload: Number) -> None:
            ctx.from_thread(asyncio.sleep(0))

        with capture_logs():
            async with working(settings, mistaken):
                row = await jobs.end_of(await put(database, mistaken))
        assert row["errors"][0]["detail"].startswith("RuntimeError: ctx.from_thread is for plain functions")

    async def test_plain_function_that_gets_no_thread_in_time_is_not_called(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        called: list[int] = []
        free = threading.Event()

        @job("test.plain", time_limit=0.1, retry=ONE_ATTEMPT)
        def plain(ctx: JobContext, payload: Number) -> None:
            called.append(payload.n)

        loop = asyncio.get_running_loop()
        threads = ThreadPoolExecutor(1)
        loop.set_default_executor(threads)
        threads.submit(free.wait)
        with capture_logs() as entries:
            async with working(settings, plain):
                job_id = await put(database, plain)
                await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
                await asyncio.sleep(0.3)
                free.set()
                row = await jobs.end_of(job_id)
        loop.set_default_executor(ThreadPoolExecutor())  # other tests have the same loop
        assert (row["state"], row["errors"][0]["outcome"], called) == ("discarded", "timeout", []), entries

    async def test_failure_of_a_plain_function_is_recorded_with_its_traceback(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.plain", retry=ONE_ATTEMPT)
        def plain(ctx: JobContext, payload: Number) -> None:
            raise ValueError("no")

        with capture_logs():
            async with working(settings, plain):
                row = await jobs.end_of(await put(database, plain))
        assert row["errors"][0]["detail"] == "ValueError: no"
        assert 'raise ValueError("no")' in row["errors"][0]["traceback"]

    @pytest.mark.parametrize("raises", [False, True])
    async def test_plain_function_that_looks_ends_at_its_time_limit(
        self, settings: Settings, database: Database, jobs: Jobs, raises: bool
    ) -> None:
        @job("test.plain", time_limit=0.05, retry=ONE_ATTEMPT)
        def plain(ctx: JobContext, payload: Number) -> None:
            while not ctx.stopping:
                time.sleep(0.01)
            if raises:
                raise ValueError

        with capture_logs():
            async with working(settings, plain):
                row = await jobs.end_of(await put(database, plain))
        assert (row["state"], row["errors"][0]["outcome"]) == ("discarded", "timeout")

    async def test_worker_whose_slots_are_all_stuck_is_not_alive(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runner_module, "DEADLINE_MARGIN", timedelta(seconds=0.1))
        go_on = threading.Event()

        @job("test.stuck", time_limit=0.05)
        def stuck(ctx: JobContext, payload: Number) -> None:
            go_on.wait(20)

        async def says(worker: Worker, is_stuck: bool) -> bool:
            return worker.stuck is is_stuck

        await put(database, stuck)
        with capture_logs():
            async with working(settings, stuck, concurrency=2) as worker:
                await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
                await asyncio.sleep(0.3)
                assert not worker.stuck, "there is another slot"
                await put(database, stuck)
                await until(lambda: says(worker, True))
                go_on.set()
                await until(lambda: says(worker, False))


class TestProgress:
    async def test_progress_is_stored_while_the_job_runs_and_kept_at_its_end(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        go_on = asyncio.Event()

        @job("test.tells")
        async def tells(ctx: JobContext, payload: Number) -> None:
            for n in range(100):
                ctx.progress(n, 200, "counting")
            await go_on.wait()
            ctx.progress(200, 200, "done")

        tells_id = await put(database, tells)
        async with working(settings, tells):
            row = await until(lambda: jobs.all("SELECT * FROM job WHERE progress_done IS NOT NULL"))
            assert (row[0]["progress_done"], row[0]["progress_total"]) == (99, 200)
            go_on.set()
            row = await jobs.end_of(tells_id)
        assert (row["progress_done"], row["progress_total"], row["progress_message"]) == (200, 200, "done")

    async def test_last_progress_before_the_completion_is_stored(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.last-word")
        async def last_word(ctx: JobContext, payload: Number) -> None:
            async with ctx.session() as session:
                ctx.progress(7, 7, "done")
                await ctx.complete(session)

        async with working(settings, last_word):
            row = await jobs.end_of(await put(database, last_word))
        assert (row["progress_done"], row["progress_total"], row["progress_message"]) == (7, 7, "done")

    async def test_progress_written_amid_a_completion_does_not_cancel_the_run(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It waits for the row, and finds it gone."""
        monkeypatch.setattr(recorder_module, "PROGRESS_SECONDS", 0.05)
        ends: list[str] = []

        @job("test.both")
        async def both(ctx: JobContext, payload: Number) -> None:
            async with ctx.session() as session:
                await ctx.complete(session)
                ctx.progress(1)
                await asyncio.sleep(0.3)
            await asyncio.sleep(0.1)
            ends.append("undisturbed")

        with capture_logs() as entries:
            async with working(settings, both):
                await jobs.end_of(await put(database, both))
                await until(lambda: _is(lambda: ends))
        assert "the lease is lost; the run is cancelled" not in [entry["event"] for entry in entries]

    async def test_progress_write_without_the_lease_cancels_the_run(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        ended: list[type[BaseException]] = []

        @job("test.stale")
        async def stale(ctx: JobContext, payload: Number) -> None:
            try:
                while payload.n == 0:
                    ctx.progress(1)
                    await asyncio.sleep(0.01)
            except asyncio.CancelledError as error:
                ended.append(type(error))
                raise

        stale_id = await put(database, stale)
        with capture_logs() as entries:
            async with working(settings, stale):
                await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
                await jobs.all(
                    "UPDATE job SET run_lease = run_lease + 1, session_id = NULL, state = 'available',"
                    """ payload = '{"n": 1}' WHERE id = $1""",
                    stale_id,
                )
                assert (await jobs.end_of(stale_id))["run_lease"] == 3
                await until(lambda: _is(lambda: ended))
        assert ended == [asyncio.CancelledError]
        assert "the lease is lost; the run is cancelled" in [entry["event"] for entry in entries]


async def note_effect(session: AsyncSession, ctx: JobContext) -> None:
    connection = await session.connection()
    await connection.exec_driver_sql("INSERT INTO job_queue (name) VALUES ($1)", (f"effect-{ctx.id}-{ctx.run}",))


class TestCompletion:
    """`job_queue` serves as the ledger of effects: a name in it is an effect."""

    async def test_effect_and_completion_commit_together(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.effect")
        async def effect(ctx: JobContext, payload: Number) -> None:
            async with ctx.session() as session:
                await note_effect(session, ctx)
                await ctx.complete(session)
            assert ctx.completed

        row = None
        async with working(settings, effect):
            row = await jobs.end_of(await put(database, effect))
        assert (row["state"], row["run_lease"]) == ("succeeded", 1)
        assert len(await jobs.all("SELECT FROM job_queue")) == 1

    async def test_rolled_back_transaction_completes_no_job(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.undone", retry=AT_ONCE)
        async def undone(ctx: JobContext, payload: Number) -> None:
            async with ctx.session() as session:
                await note_effect(session, ctx)
                await ctx.complete(session)
                if ctx.attempt < 3:
                    raise ValueError

        with capture_logs():
            async with working(settings, undone):
                row = await jobs.end_of(await put(database, undone))
        assert (row["state"], row["attempt"]) == ("succeeded", 3)
        assert len(await jobs.all("SELECT FROM job_queue")) == 1

    async def test_run_without_the_lease_leaves_no_effect(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        raised: list[type[BaseException]] = []
        go_on = asyncio.Event()

        @job("test.late")
        async def late(ctx: JobContext, payload: Number) -> None:
            if ctx.run == 1:
                await go_on.wait()
            try:
                async with ctx.session() as session:
                    await note_effect(session, ctx)
                    await ctx.complete(session)
            except LeaseLost as error:
                raised.append(type(error))
                raise

        late_id = await put(database, late)
        async with working(settings, late):
            await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
            await jobs.all("UPDATE job SET run_lease = run_lease + 1, session_id = NULL, state = 'available'")
            await jobs.end_of(late_id)
            go_on.set()
            await until(lambda: _is(lambda: raised))
        assert len(await jobs.all("SELECT FROM job_queue")) == 1
        assert (await jobs.ended(late_id))["run_lease"] == 3

    @pytest.mark.parametrize("own_transaction", [True, False])
    async def test_follow_ups_are_enqueued_only_with_the_completion(
        self, settings: Settings, database: Database, jobs: Jobs, own_transaction: bool
    ) -> None:
        @job("test.next")
        async def following(ctx: JobContext, payload: Number) -> None:
            pass

        @job("test.first", retry=AT_ONCE)
        async def first(ctx: JobContext, payload: Number) -> None:
            ctx.enqueue("test.next", Number(n=ctx.attempt), unique_key=f"after-{ctx.id}")
            if ctx.attempt == 1:
                raise ValueError
            if own_transaction:
                async with ctx.session() as session:
                    await ctx.complete(session)

        with capture_logs():
            async with working(settings, first, following):
                await jobs.end_of(await put(database, first, owner="alice"))
                rows = await until(lambda: jobs.all("SELECT * FROM job_history WHERE kind = 'test.next'"))
        assert [(row["payload"], row["owner"]) for row in rows] == [({"n": 2}, "alice")]

    async def test_invalid_follow_up_fails_the_handler(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.mistaken", retry=ONE_ATTEMPT)
        async def mistaken(ctx: JobContext, payload: Number) -> None:
            ctx.enqueue("test.nobody", Number())

        with capture_logs():
            async with working(settings, mistaken):
                row = await jobs.end_of(await put(database, mistaken))
        assert row["errors"][0]["error"] == "UnknownKindError"

    async def test_error_after_the_completion_changes_nothing(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.afterwards")
        async def afterwards(ctx: JobContext, payload: Number) -> None:
            async with ctx.session() as session:
                await ctx.complete(session)
            raise ValueError

        with capture_logs() as entries:
            async with working(settings, afterwards):
                row = await jobs.end_of(await put(database, afterwards))
        assert (row["state"], row["errors"]) == ("succeeded", [])
        assert "a job failed after it had completed" in [entry["event"] for entry in entries]

    async def test_follow_up_after_the_completion_is_an_error(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        """It would vanish: what is enqueued with the completion has been written."""
        refused: list[str] = []

        @job("test.late", retry=ONE_ATTEMPT)
        async def late(ctx: JobContext, payload: Number) -> None:
            async with ctx.session() as session:
                await ctx.complete(session)
                for _ in range(2):
                    try:
                        ctx.enqueue("test.late", Number())
                    except RuntimeError as error:
                        refused.append(str(error))
            ctx.enqueue("test.late", Number())

        with capture_logs() as entries:
            async with working(settings, late):
                row = await jobs.end_of(await put(database, late))
        assert (row["state"], len(refused)) == ("succeeded", 2)
        assert "a job failed after it had completed" in [entry["event"] for entry in entries]

    async def test_job_completes_once(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        @job("test.twice", retry=ONE_ATTEMPT)
        async def twice(ctx: JobContext, payload: Number) -> None:
            async with ctx.session() as session:
                await ctx.complete(session)
                await ctx.complete(session)

        with capture_logs():
            async with working(settings, twice):
                row = await jobs.end_of(await put(database, twice))
        assert (row["state"], row["errors"][0]["detail"]) == ("discarded", "RuntimeError: a job completes once")

    async def test_job_may_complete_after_a_rollback(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        @job("test.again", retry=ONE_ATTEMPT)
        async def again(ctx: JobContext, payload: Number) -> None:
            with suppress(ValueError):
                async with ctx.session() as session:
                    await ctx.complete(session)
                    raise ValueError
            ctx.enqueue("test.next", Number())
            async with ctx.session() as session:
                await ctx.complete(session)

        @job("test.next")
        async def following(ctx: JobContext, payload: Number) -> None:
            pass

        async with working(settings, again, following):
            assert (await jobs.end_of(await put(database, again)))["state"] == "succeeded"
            await until(lambda: jobs.all("SELECT FROM job_history WHERE kind = 'test.next'"))

    async def test_lost_lease_that_a_handler_makes_up_is_a_failure(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.pretends", retry=ONE_ATTEMPT)
        async def pretends(ctx: JobContext, payload: Number) -> None:
            raise LeaseLost

        with capture_logs():
            async with working(settings, pretends):
                row = await jobs.end_of(await put(database, pretends))
        assert (row["state"], row["errors"][0]["error"]) == ("discarded", "LeaseLost")


class TestShutdown:
    async def test_running_job_may_end_during_shutdown(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.short")
        async def short(ctx: JobContext, payload: Number) -> None:
            await asyncio.sleep(0.3)

        short_id = await put(database, short)
        waiting_id = None
        async with working(settings, short, concurrency=1) as worker:
            await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
            waiting_id = await put(database, short)
            worker.stop()
            row = await jobs.end_of(short_id)
        assert (row["state"], row["attempt"]) == ("succeeded", 1)
        assert (await jobs.live(waiting_id))["run_lease"] == 0
        assert await jobs.all("SELECT FROM worker_session") == []

    async def test_second_stop_releases_running_jobs_at_once(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.long")
        async def long(ctx: JobContext, payload: Number) -> None:
            await asyncio.sleep(60)

        long_id = await put(database, long)
        async with working(settings, long):
            await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
        row = await jobs.live(long_id)
        assert (row["state"], row["attempt"], row["session_id"], row["errors"]) == ("available", 0, None, [])
        assert row["run_lease"] == 2  # the run that was taken back can write nothing any more

    async def test_handler_that_ignores_cancellation_is_released_and_fenced_off(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        go_on = asyncio.Event()
        ended = asyncio.Event()

        @job("test.stubborn")
        async def stubborn(ctx: JobContext, payload: Number) -> None:
            while not go_on.is_set():
                try:
                    await go_on.wait()
                except asyncio.CancelledError:
                    continue
            ended.set()

        stubborn_id = await put(database, stubborn)
        with capture_logs():
            async with working(settings, stubborn):
                await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
            assert await jobs.state(stubborn_id) == "available"
            go_on.set()
            await ended.wait()
            await asyncio.sleep(0.1)
        assert await jobs.state(stubborn_id) == "available"

    async def test_swallowed_cancellation_in_a_library_does_not_block_shutdown(
        self, settings: Settings, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As redis-py does when it is cancelled while it connects."""
        swallowed: list[bool] = []

        async def listen(self: Doorbell) -> AsyncIterator[Any]:
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    if swallowed:
                        raise
                    swallowed.append(True)
                yield set(), set()

        monkeypatch.setattr(Doorbell, "listen", listen)
        async with asyncio.timeout(20):
            async with working(settings):
                await until(lambda: jobs.all("SELECT FROM worker_session"))
        assert swallowed == [True]

    async def test_worker_that_stops_while_redis_is_frozen_gives_its_jobs_back(
        self, database_url: str, database: Database, jobs: Jobs, own_servers: Servers
    ) -> None:
        @job("test.long")
        async def long(ctx: JobContext, payload: Number) -> None:
            await asyncio.sleep(600)

        settings = settings_with(DATABASE_URL=database_url, REDIS_URL=own_servers.redis.url())
        long_id = await put(database, long)
        with capture_logs() as entries:
            try:
                async with working(settings, long):
                    await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
                    own_servers.redis.pause()
            finally:
                own_servers.redis.resume()
        assert await jobs.state(long_id) == "available"
        assert await jobs.all("SELECT FROM worker_session") == []
        assert not [entry for entry in entries if "could not be closed" in entry["event"]]


class TestSessions:
    async def test_worker_with_a_lost_session_cancels_its_runs_and_opens_another(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        ends: list[str] = []

        @job("test.steady")
        async def steady(ctx: JobContext, payload: Number) -> None:
            try:
                await asyncio.sleep(60 if ctx.run == 1 else 0)
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise
            ends.append("done")

        steady_id = await put(database, steady)
        with capture_logs() as entries:
            async with working(settings.model_copy(update={"JOBS_SESSION_TIMEOUT": 2.0}), steady):
                await until(lambda: jobs.all("SELECT FROM job WHERE state = 'running'"))
                await jobs.all("UPDATE worker_session SET expires_at = now() - interval '1 second'")
                row = await jobs.end_of(steady_id)
        assert sorted(ends) == ["cancelled", "done"]
        assert (row["attempt"], row["crash_count"]) == (1, 0)
        assert "crash" not in [error["outcome"] for error in row["errors"]]
        assert "the worker session is lost; running jobs are cancelled" in [entry["event"] for entry in entries]

    async def test_jobs_of_an_interrupted_claim_are_released(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The connection broke after the claim had committed and before its answer came."""
        from plinth.jobs.engine.store import Store

        claim = Store.claim
        broken: list[Any] = []

        async def claim_and_break(self: Store, *arguments: Any, **options: Any) -> Any:
            claimed = await claim(self, *arguments, **options)
            if claimed and not broken:
                broken.append(claimed)
                raise DatabaseUnavailableError
            return claimed

        monkeypatch.setattr(Store, "claim", claim_and_break)

        @job("test.unseen")
        async def unseen(ctx: JobContext, payload: Number) -> None:
            pass

        unseen_id = await put(database, unseen)
        with capture_logs() as entries:
            async with working(settings, unseen):
                row = await jobs.end_of(unseen_id)
        assert (row["attempt"], row["crash_count"], row["run_lease"]) == (1, 0, 3)
        assert "released jobs of an interrupted claim" in [entry["event"] for entry in entries]

    async def test_jobs_of_a_claim_that_commits_late_are_released(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its connection broke while it waited for a lock: later claims come before it."""

        @job("test.unseen", queue="late")
        async def unseen(ctx: JobContext, payload: Number) -> None: ...

        monkeypatch.setattr(runner_module, "LATE_CLAIM_SECONDS", 0.5)
        claims: list[asyncio.Task[Any]] = []
        claim = Store.claim

        async def claim_late(self: Store, *arguments: Any, **options: Any) -> Any:
            if claims:
                return await claim(self, *arguments, **options) if claims[0].done() else []

            async def late() -> Any:
                await asyncio.sleep(0.2)
                return await claim(self, *arguments, **options)

            claims.append(asyncio.create_task(late()))
            raise DatabaseUnavailableError

        monkeypatch.setattr(Store, "claim", claim_late)
        unseen_id = await put(database, unseen)
        with capture_logs():
            async with working(settings, unseen, queues=["late"]):
                row = await jobs.end_of(unseen_id)
        assert (row["attempt"], row["crash_count"], row["run_lease"]) == (1, 0, 3)

    async def test_outcomes_are_kept_while_the_database_is_away(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from plinth.jobs.engine.store import Store

        finish, failures = Store.finish, 3

        async def sometimes(self: Store, outcomes: Any) -> Any:
            nonlocal failures
            if failures:
                failures -= 1
                if failures == 1:  # this one commits, and its answer is lost
                    await finish(self, outcomes)
                raise DatabaseUnavailableError
            return await finish(self, outcomes)

        monkeypatch.setattr(Store, "finish", sometimes)
        runs = 0

        @job("test.patient")
        async def patient(ctx: JobContext, payload: Number) -> None:
            nonlocal runs
            runs += 1

        patient_id = await put(database, patient)
        with capture_logs():
            async with working(settings, patient):
                await jobs.end_of(patient_id)
                await until(lambda: _is(lambda: failures == 0))
        assert runs == 1

    async def test_worker_session_shows_queues_kinds_concurrency_and_process(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.listed")
        async def listed(ctx: JobContext, payload: Number) -> None:
            pass

        async with working(settings, listed, queues=["a", "b"], concurrency=7):
            rows = await until(lambda: jobs.all("SELECT * FROM worker_session"))
        row = rows[0]
        assert (row["queues"], row["kinds"], row["concurrency"]) == (["a", "b"], ["test.listed"], 7)
        assert row["name"].endswith(f":{os.getpid()}")


async def _is(value: Callable[[], object]) -> bool:
    return bool(value())


class TestContext:
    async def test_effect_keys_are_the_same_in_every_run_of_a_job(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        keys: list[tuple[str, ...]] = []

        @job("test.keys", retry=AT_ONCE)
        async def keyed(ctx: JobContext, payload: Number) -> None:
            keys.append((ctx.effect_key(), ctx.effect_key("a", "b"), ctx.effect_key("ab"), ctx.effect_key("a", 1)))
            if ctx.attempt == 1:
                raise ValueError

        with capture_logs():
            async with working(settings, keyed):
                await jobs.end_of(await put(database, keyed))
                await jobs.end_of(await put(database, keyed))
        first, again, other, _ = keys
        assert first == again
        assert len({*first, *other}) == 8

    async def test_log_lines_of_a_job_name_the_job(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        @job("test.speaks")
        async def speaks(ctx: JobContext, payload: Number) -> None:
            ctx.log.info("hello")

        with capture_logs() as entries:
            async with working(settings, speaks):
                speaks_id = await put(database, speaks)
                await jobs.end_of(speaks_id)
        (line,) = [entry for entry in entries if entry["event"] == "hello"]
        assert (line["job_id"], line["kind"], line["attempt"]) == (str(speaks_id), "test.speaks", 1)


class TestFences:
    """The statements themselves: a session writes only for its current run."""

    @pytest.fixture
    async def claimed(self, database: Database) -> tuple[Any, Any]:
        @job("test.fenced")
        async def fenced(ctx: JobContext, payload: Number) -> None:
            pass

        await put(database, fenced)
        store = await open_store(database)
        (claimed,) = await store.claim(["default"], {"test.fenced": fenced}, 10)
        return store, claimed

    async def test_store_of_another_session_writes_nothing_for_a_run(
        self, database: Database, jobs: Jobs, claimed: tuple[Any, Any]
    ) -> None:
        _, run = claimed
        stranger = await open_store(database)
        assert await stranger.finish([Finish(run.id, run.lease, State.SUCCEEDED)]) == set()
        assert await stranger.write_progress([(run.id, run.lease, 1, None, None)]) == set()
        assert await jobs.state(run.id) == "running"

    async def test_older_run_writes_nothing(self, database: Database, jobs: Jobs, claimed: tuple[Any, Any]) -> None:
        store, run = claimed
        await jobs.all("UPDATE job SET run_lease = run_lease + 1")
        assert await store.finish([Finish(run.id, run.lease, State.SUCCEEDED)]) == set()
        assert await jobs.state(run.id) == "running"

    async def test_current_run_finishes_its_job_once(self, jobs: Jobs, claimed: tuple[Any, Any]) -> None:
        store, run = claimed
        assert await store.finish([Finish(run.id, run.lease, State.SUCCEEDED)]) == {run.id}
        assert await store.finish([Finish(run.id, run.lease, State.SUCCEEDED)]) == set()
        assert (await jobs.ended(run.id))["state"] == "succeeded"
