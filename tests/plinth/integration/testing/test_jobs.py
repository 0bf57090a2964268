"""Jobs run within a test."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from traceback import extract_tb
from typing import Any

import pytest
from pydantic import BaseModel

from plinth.database.engine import Database
from plinth.jobs import Discard, JobContext, JobKind, RetryPolicy, State, aes_gcm, enqueue
from plinth.settings import PlatformSettings
from plinth.testing import Jobs


class Parcel(BaseModel):
    number: int = 1
    tags: list[str] = []


Handler = Callable[[JobContext, Parcel], Awaitable[None]]


def kind(function: Handler, name: str = "parcels.send", **limits: Any) -> JobKind[Parcel]:
    values: dict[str, Any] = {"queue": "post", "priority": 0, "time_limit": 20, "retry": RetryPolicy(max_attempts=2)}
    return JobKind(name=name, function=function, payload=Parcel, max_running=None, **{**values, **limits})


async def put(database: Database, job_kind: JobKind[Parcel], payload: Parcel | None = None, **options: Any) -> None:
    async with database.session() as session:
        await enqueue(session, job_kind, payload or Parcel(), **options)


class Sent(list[int]):
    """Handles parcels, and keeps their numbers."""

    async def __call__(self, ctx: JobContext, payload: Parcel) -> None:
        self.append(payload.number)


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def send(sent: Sent) -> JobKind[Parcel]:
    return kind(sent)


@pytest.fixture
def jobs(database: Database, settings: PlatformSettings, send: JobKind[Parcel]) -> Jobs:
    return Jobs(database, settings, registered={send.name: send})


class TestRunDue:
    async def test_run_due_runs_due_jobs_in_order(
        self, jobs: Jobs, database: Database, send: JobKind[Parcel], sent: Sent
    ) -> None:
        await put(database, send, Parcel(number=1), priority=5)
        await put(database, send, Parcel(number=2), priority=1, queue="another")
        await put(database, send, Parcel(number=3), delay=60)

        done = await jobs.run_due()

        assert sent == [2, 1]
        assert [(job.payload["number"], job.state) for job in done] == [(2, State.SUCCEEDED), (1, State.SUCCEEDED)]
        assert [job.payload["number"] for job in await jobs.waiting()] == [3]
        assert await jobs.run_due() == []

    async def test_run_due_runs_jobs_that_become_due_within_a_time(
        self, jobs: Jobs, database: Database, send: JobKind[Parcel], sent: Sent
    ) -> None:
        await put(database, send, Parcel(number=1), delay=3500)
        await put(database, send, Parcel(number=2), delay=3700)

        await jobs.run_due(within=timedelta(hours=1))

        assert sent == [1]

    async def test_run_due_runs_follow_ups(self, database: Database, settings: PlatformSettings, sent: Sent) -> None:
        second = kind(sent, "parcels.second")

        async def begin(ctx: JobContext, payload: Parcel) -> None:
            ctx.enqueue(second, Parcel(number=payload.number + 1))

        first = kind(begin)
        await put(database, first)

        done = await Jobs(database, settings, registered={first.name: first, second.name: second}).run_due()

        assert [job.kind for job in done] == ["parcels.send", "parcels.second"]
        assert sent == [2]

    async def test_run_due_stops_at_a_job_that_enqueues_itself_for_ever(
        self, database: Database, settings: PlatformSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("plinth.testing.jobs.MAX_RUNS", 3)

        async def again(ctx: JobContext, payload: Parcel) -> None:
            ctx.enqueue(endless, payload)

        endless = kind(again)
        await put(database, endless)

        with pytest.raises(RuntimeError, match="3 jobs were run"):
            await Jobs(database, settings, registered={endless.name: endless}).run_due()

    async def test_run_due_keeps_progress(self, database: Database, settings: PlatformSettings) -> None:
        async def work(ctx: JobContext, payload: Parcel) -> None:
            ctx.progress(3, 4, "packed")

        told = kind(work)
        await put(database, told)

        (job,) = await Jobs(database, settings, registered={told.name: told}).run_due()

        assert job.progress is not None
        assert (job.progress.done, job.progress.total, job.progress.message) == (3, 4, "packed")


class TestFailure:
    async def test_failure_is_raised_with_only_the_handler_s_traceback(
        self, database: Database, settings: PlatformSettings
    ) -> None:
        def divide(number: int) -> float:
            return number / 0

        async def fail(ctx: JobContext, payload: Parcel) -> None:
            divide(payload.number)

        failing = kind(fail)
        jobs = Jobs(database, settings, registered={failing.name: failing})
        await put(database, failing)

        with pytest.raises(ZeroDivisionError) as caught:
            await jobs.run_due()

        names = [frame.name for frame in extract_tb(caught.value.__traceback__)]
        assert names[-2:] == ["fail", "divide"]
        assert "execute" not in names
        (job,) = await jobs.waiting()
        assert (job.state, job.attempt, job.errors[0]["detail"]) == (
            State.RETRYABLE,
            1,
            "ZeroDivisionError: division by zero",
        )

    async def test_retry_runs_once_its_time_has_come(self, database: Database, settings: PlatformSettings) -> None:
        attempts = []

        async def fail_once(ctx: JobContext, payload: Parcel) -> None:
            attempts.append(ctx.attempt)
            if ctx.attempt == 1:
                raise TimeoutError

        flaky = kind(fail_once)
        jobs = Jobs(database, settings, registered={flaky.name: flaky})
        await put(database, flaky)
        with pytest.raises(TimeoutError):
            await jobs.run_due()
        assert await jobs.run_due() == []

        (job,) = await jobs.run_due(within=timedelta(days=1))

        assert attempts == [1, 2]
        assert job.state is State.SUCCEEDED

    async def test_discarded_job_raises_nothing(self, database: Database, settings: PlatformSettings) -> None:
        async def give_up(ctx: JobContext, payload: Parcel) -> None:
            raise Discard("There is no such address.")

        hopeless = kind(give_up)
        job = await Jobs(database, settings).perform(hopeless, Parcel())

        assert (job.state, job.error) == (State.DISCARDED, "There is no such address.")

    async def test_job_that_a_task_of_a_group_discards_raises_nothing(
        self, database: Database, settings: PlatformSettings
    ) -> None:
        async def give_up() -> None:
            raise Discard("There is no such address.")

        async def send(ctx: JobContext, payload: Parcel) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(give_up())

        job = await Jobs(database, settings).perform(kind(send), Parcel())

        assert (job.state, job.error) == (State.DISCARDED, "There is no such address.")


class TestPerform:
    async def test_perform_runs_one_job_and_no_other(
        self, jobs: Jobs, database: Database, send: JobKind[Parcel], sent: Sent
    ) -> None:
        await put(database, send, Parcel(number=1))

        job = await jobs.perform(send, Parcel(number=2), owner="alice")

        assert sent == [2]
        assert (job.state, job.owner) == (State.SUCCEEDED, "alice")
        assert len(await jobs.waiting()) == 1

    async def test_perform_commits_effect_and_completion_together(
        self, database: Database, settings: PlatformSettings
    ) -> None:
        async def complete(ctx: JobContext, payload: Parcel) -> None:
            async with ctx.session() as session:
                await ctx.complete(session)

        job = await Jobs(database, settings).perform(kind(complete), Parcel())

        assert job.state is State.SUCCEEDED


class TestEnqueued:
    async def test_enqueued_finds_the_job_with_the_given_values(
        self, jobs: Jobs, database: Database, send: JobKind[Parcel]
    ) -> None:
        await put(database, send, Parcel(number=1, tags=["a"]))
        await put(database, send, Parcel(number=2, tags=["a"]), delay=60)

        assert (await jobs.enqueued(send, number=2)).state is State.SCHEDULED
        assert (await jobs.enqueued("parcels.send", number=1, tags=["a"])).state is State.AVAILABLE

    @pytest.mark.parametrize("wanted", [{"number": 3}, {"number": 1, "tags": []}, {"weight": 1}, {}])
    async def test_enqueued_lists_the_jobs_when_none_or_several_match(
        self, jobs: Jobs, database: Database, send: JobKind[Parcel], wanted: dict[str, Any]
    ) -> None:
        await put(database, send, Parcel(number=1, tags=["a"]))
        await put(database, send, Parcel(number=2))

        with pytest.raises(AssertionError) as caught:
            await jobs.enqueued(send, **wanted)

        assert "parcels.send {'tags': ['a'], 'number': 1}" in str(caught.value)

    async def test_enqueued_does_not_find_an_ended_job(
        self, jobs: Jobs, database: Database, send: JobKind[Parcel]
    ) -> None:
        await put(database, send)
        await jobs.run_due()

        with pytest.raises(AssertionError, match="none"):
            await jobs.enqueued(send)


class TestEncryptedJobs:
    async def test_encrypted_job_needs_no_setting_of_the_test(
        self, database: Database, settings: PlatformSettings, sent: Sent
    ) -> None:
        secret = kind(sent, codec=aes_gcm)
        jobs = Jobs(database, settings, registered={secret.name: secret})
        await put(database, secret, Parcel(number=7))
        assert (await jobs.enqueued(secret, number=7)).payload == {"number": 7, "tags": []}
        await jobs.run_due()
        assert sent == [7]
