"""The examples of arq's documentation, on this engine: each a WorkerSettings and what enqueues to it."""

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from httpx import AsyncClient, MockTransport, Response
from structlog.testing import capture_logs

from notes.config import Settings
from plinth.database.engine import Database, bind_default_database
from plinth.database.uuid7 import python_uuid7
from plinth.jobs import hooks, schedules
from plinth.jobs.arq import ArqRedis, Retry, create_pool, cron, func, register, registry
from plinth.jobs.arq.connections import RedisSettings
from plinth.jobs.arq.jobs import Job, JobDef, JobResult, JobStatus, ResultNotFound
from plinth.jobs.arq.registry import known
from plinth.jobs.arq.worker import JobExecutionFailed
from plinth.jobs.engine.worker import Worker
from plinth.testing import Jobs as JobsUnderTest
from tests.plinth.integration.jobs.conftest import Jobs, until, working

seen: list[Any] = []


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[None]:
    monkeypatch.setattr(registry, "_functions", {})
    monkeypatch.setattr(hooks, "_lifespans", [])
    seen.clear()
    with bind_default_database(database):  # as in the API and in a worker
        yield


@asynccontextmanager
async def arq_worker(settings: Settings, worker_settings: Any) -> AsyncIterator[Worker]:
    """What `arq module.WorkerSettings` is: a worker that knows its functions."""
    if not known():
        register(worker_settings)
    async with working(settings, *(function.kind for function in known())) as worker:
        yield worker


async def end_of(job: Job | None) -> JobResult:
    assert job is not None
    found = await until(job.result_info)
    assert isinstance(found, JobResult)
    return found


class TestMainDemo:
    """Startup and shutdown, and functions that use what startup has made."""

    async def test_functions_have_the_client_that_startup_made(self, settings: Settings) -> None:
        async def download_content(ctx: dict[str, Any], url: str) -> int:
            session: AsyncClient = ctx["session"]
            response = await session.get(url)
            seen.append(f"{url}: {response.text:.80}")
            return len(response.text)

        async def startup(ctx: dict[str, Any]) -> None:
            seen.append("startup")
            ctx["session"] = AsyncClient(transport=MockTransport(lambda request: Response(200, text="hello")))

        async def shutdown(ctx: dict[str, Any]) -> None:
            await ctx["session"].aclose()
            seen.append("shutdown")

        async def main() -> list[Job | None]:
            redis = await create_pool(RedisSettings())
            urls = ("https://one.example.com", "https://two.example.com", "https://three.example.com")
            return [await redis.enqueue_job("download_content", url) for url in urls]

        class WorkerSettings:
            functions = [func(download_content, name="download_content")]  # noqa: RUF012
            on_startup = startup
            on_shutdown = shutdown
            redis_settings = RedisSettings()

        register(WorkerSettings)
        made = await main()
        async with arq_worker(settings, WorkerSettings):
            for job in made:
                assert (await end_of(job)).success
        assert (seen[0], seen[-1]) == ("startup", "shutdown")
        assert sorted(seen[1:-1]) == [f"https://{n}.example.com: hello" for n in ("one", "three", "two")]


async def the_task(ctx: dict[str, Any], *args: Any, **kwargs: Any) -> int:
    seen.append((ctx["job_id"], ctx["job_try"], args, kwargs))
    return 42


class TheTask:
    functions = [the_task]  # noqa: RUF012


class TestDeferred:
    async def test_jobs_are_due_after_a_duration_or_at_a_time(self, jobs: Jobs) -> None:
        register(TheTask)
        redis = await create_pool(RedisSettings())
        await redis.enqueue_job("the_task", _defer_by=10)
        await redis.enqueue_job("the_task", _defer_by=timedelta(minutes=1))
        last = await redis.enqueue_job("the_task", _defer_until=datetime(2032, 1, 28))  # noqa: DTZ001 - as arq has it
        rows = await jobs.all(
            "SELECT run_at, extract(epoch FROM run_at - created_at) AS delay FROM job ORDER BY run_at"
        )
        assert [round(row["delay"]) for row in rows[:2]] == [10, 60]
        assert rows[2]["run_at"] == datetime(2032, 1, 28).astimezone(UTC)
        assert last is not None
        assert await last.status() == JobStatus.deferred

    async def test_function_reads_for_how_long_it_waited(self, settings: Settings) -> None:
        async def delayed(ctx: dict[str, Any]) -> None:
            seen.append(
                (datetime.now(UTC) - ctx["enqueue_time"], ctx["score"] - ctx["enqueue_time"].timestamp() * 1000)
            )

        class WorkerSettings:
            functions = [func(delayed, name="delayed")]  # noqa: RUF012

        register(WorkerSettings)
        job = await ArqRedis().enqueue_job("delayed", _defer_by=0.2)
        async with arq_worker(settings, WorkerSettings):
            await end_of(job)
        ((waited, deferred),) = seen
        assert waited >= timedelta(seconds=0.2)
        assert round(deferred) == 200


class TestJobIds:
    async def test_id_is_one_job_s_until_it_has_ended_and_its_result_is_cleared(
        self, settings: Settings, jobs: Jobs
    ) -> None:
        register(TheTask)
        redis = await create_pool(RedisSettings())
        job1 = await redis.enqueue_job("the_task")
        job2 = await redis.enqueue_job("the_task")
        assert job1 is not None
        assert job2 is not None
        assert job1.job_id != job2.job_id
        assert len(job1.job_id) == 32
        job3 = await redis.enqueue_job("the_task", _job_id="foobar")
        assert repr(job3) == "<arq job foobar>"
        assert await redis.enqueue_job("the_task", _job_id="foobar") is None
        assert (await Job(job_id="foobar", redis=redis).status()) == JobStatus.queued

        async with arq_worker(settings, TheTask):
            await end_of(Job("foobar", redis))
            await end_of(job1)
            await end_of(job2)
            assert await redis.enqueue_job("the_task", _job_id="foobar") is None
            async with jobs._database.connection() as connection:
                await connection.execute("UPDATE job_history SET finished_at = now() - interval '3601 s'")
            again = await redis.enqueue_job("the_task", _job_id="foobar")
            await end_of(again)
        assert sorted(job_id for job_id, *_ in seen) == sorted([job1.job_id, job2.job_id, "foobar", "foobar"])

    async def test_without_a_kept_result_the_id_is_free_at_the_end(self, settings: Settings) -> None:
        class WorkerSettings:
            functions = [func(the_task, keep_result=0)]  # noqa: RUF012

        redis = ArqRedis()
        async with arq_worker(settings, WorkerSettings):
            for _ in range(2):
                await end_of(await redis.enqueue_job("the_task", _job_id="again"))
        assert [job_id for job_id, *_ in seen] == ["again", "again"]

    async def test_of_many_enqueues_of_one_id_at_the_same_time_one_makes_the_job(self, jobs: Jobs) -> None:
        register(TheTask)
        made = await asyncio.gather(*(ArqRedis().enqueue_job("the_task", n, _job_id="hot") for n in range(30)))
        assert sum(job is not None for job in made) == 1
        assert len(await jobs.all("SELECT id FROM job")) == 1

    async def test_job_of_a_session_is_there_when_its_transaction_commits(self, database: Database, jobs: Jobs) -> None:
        register(TheTask)
        async with database.session() as session:
            assert await ArqRedis(session).enqueue_job("the_task", _job_id="one") is not None
            assert await ArqRedis(session).enqueue_job("the_task", _job_id="one") is None
            assert await jobs.all("SELECT id FROM job") == []
        assert len(await jobs.all("SELECT id FROM job")) == 1

    async def test_chosen_id_that_looks_like_one_of_the_database_is_found(
        self, settings: Settings, database: Database
    ) -> None:
        register(TheTask)
        chosen = python_uuid7().hex
        assert await ArqRedis().enqueue_job("the_task", _job_id=chosen) is not None
        job = Job(chosen, ArqRedis())
        assert await job.status() is JobStatus.queued
        async with arq_worker(settings, TheTask):
            assert await job.result(timeout=20, poll_delay=0.05) == 42
        assert await Job(python_uuid7().hex, ArqRedis()).status() is JobStatus.not_found

    async def test_empty_id_is_none(self, database: Database) -> None:
        register(TheTask)
        made = [await ArqRedis().enqueue_job("the_task", _job_id="") for _ in range(2)]
        assert len({job.job_id for job in made if job is not None}) == 2


class TestJobResults:
    async def test_job_tells_what_it_calls_its_state_and_its_end(self, settings: Settings, jobs: Jobs) -> None:
        register(TheTask)
        redis = await create_pool(RedisSettings())
        job = await redis.enqueue_job("the_task", 1, to={"a"})
        assert job is not None
        info = await job.info()
        assert isinstance(info, JobDef)
        assert (info.function, info.args, info.kwargs, info.job_try) == ("the_task", (1,), {"to": {"a"}}, None)
        assert (info.job_id, await job.status(), await job.result_info()) == (job.job_id, JobStatus.queued, None)
        with pytest.raises(TimeoutError):
            await job.result(timeout=0, poll_delay=0)
        async with arq_worker(settings, TheTask):
            result = await job.result(timeout=20, poll_delay=0.05)
        assert result == (42 if await _results_are_kept(jobs) else None)
        assert await job.status() == JobStatus.complete
        ended = await end_of(job)
        assert (ended.success, ended.job_try, ended.queue_name) == (True, 1, "default")

    async def test_error_of_the_function_is_raised(self, settings: Settings) -> None:
        async def fails(ctx: dict[str, Any]) -> None:
            seen.append(ctx["job_try"])
            raise ValueError("no such thing")

        class WorkerSettings:
            functions = [func(fails, name="fails")]  # noqa: RUF012

        register(WorkerSettings)
        job = await ArqRedis().enqueue_job("fails")
        assert job is not None
        with capture_logs():
            async with arq_worker(settings, WorkerSettings):
                with pytest.raises(JobExecutionFailed, match=r"^ValueError: no such thing$"):
                    await job.result(timeout=20, poll_delay=0.05)
        assert seen == [1]  # arq tries again only what raises Retry

    async def test_job_that_there_is_not_is_told(self) -> None:
        job = Job("nothing", ArqRedis())
        assert await job.status() == JobStatus.not_found
        assert await job.info() is None
        assert not await job.abort()
        with pytest.raises(ResultNotFound):
            await job.result()


async def _results_are_kept(jobs: Jobs) -> bool:
    return bool(
        await jobs.all("SELECT 1 FROM pg_attribute WHERE attrelid = 'job_history'::regclass AND attname = 'result'")
    )


class TestSlowJob:
    async def test_job_of_a_worker_that_is_stopped_runs_again(self, settings: Settings) -> None:
        async def slow(ctx: dict[str, Any]) -> None:
            seen.append(ctx["job_try"])
            if len(seen) == 1:
                await asyncio.sleep(60)

        class WorkerSettings:
            functions = [func(slow, name="slow")]  # noqa: RUF012

        register(WorkerSettings)
        job = await ArqRedis().enqueue_job("slow")
        async with arq_worker(settings, WorkerSettings):
            await until(_anything)
        async with arq_worker(settings, WorkerSettings):
            assert (await end_of(job)).success
        assert seen == [1, 1]  # a stop spends no try here


async def _anything() -> bool:
    return bool(seen)


class TestRetry:
    async def test_job_is_tried_again_with_growing_pauses_until_max_tries(
        self, settings: Settings, database: Database
    ) -> None:
        async def download_content(ctx: dict[str, Any], url: str) -> int:
            response = await ctx["session"].get(url)
            seen.append(ctx["job_try"])
            if response.status_code != 200:
                raise Retry(defer=ctx["job_try"] * 5)
            return len(response.text)

        async def startup(ctx: dict[str, Any]) -> None:
            ctx["session"] = AsyncClient(transport=MockTransport(lambda request: Response(503)))

        async def shutdown(ctx: dict[str, Any]) -> None:
            await ctx["session"].aclose()

        class WorkerSettings:
            functions = [func(download_content, name="download_content")]  # noqa: RUF012
            on_startup = startup
            on_shutdown = shutdown

        register(WorkerSettings)
        made = await ArqRedis().enqueue_job("download_content", "https://example.com/status/503")
        jobs = JobsUnderTest(database, settings, registered={function.kind.name: function.kind for function in known()})
        pauses = []
        with capture_logs():
            for number in range(1, 6):
                (job,) = await jobs.run_due(within=timedelta(seconds=5 * number))
                pauses.append((job.run_at - datetime.fromisoformat(job.errors[-1]["at"])).total_seconds())
        assert pauses[:4] == pytest.approx([5, 10, 15, 20], abs=0.1)
        assert seen == [1, 2, 3, 4, 5]
        assert made is not None
        with pytest.raises(JobExecutionFailed, match="tried 5 times"):
            await made.result()

    async def test_first_try_may_have_another_number(self, settings: Settings) -> None:
        async def tries(ctx: dict[str, Any]) -> None:
            seen.append(ctx["job_try"])
            raise Retry

        class WorkerSettings:
            functions = [func(tries, name="tries", max_tries=3)]  # noqa: RUF012

        redis = ArqRedis()
        with capture_logs():
            async with arq_worker(settings, WorkerSettings):
                for first in (2, 4):
                    assert not (await end_of(await redis.enqueue_job("tries", _job_try=first))).success
        assert seen == [2, 3]

    async def test_try_that_takes_longer_than_its_timeout_fails_the_job(self, settings: Settings) -> None:
        async def slow(ctx: dict[str, Any]) -> None:
            seen.append(ctx["job_try"])
            await asyncio.sleep(60)

        class WorkerSettings:
            functions = [func(slow, name="slow", timeout=0.05)]  # noqa: RUF012

        with capture_logs():
            async with arq_worker(settings, WorkerSettings):
                ended = await end_of(await ArqRedis().enqueue_job("slow"))
        assert (ended.success, str(ended.result), seen) == (False, "TimeoutError", [1])

    async def test_job_that_is_not_started_in_time_is_dropped(self, settings: Settings) -> None:
        register(TheTask)
        job = await ArqRedis().enqueue_job("the_task", _expires=0.01)
        await asyncio.sleep(0.02)
        with capture_logs():
            async with arq_worker(settings, TheTask):
                ended = await end_of(job)
        assert (ended.success, str(ended.result), seen) == (False, "The job expired before it was started.", [])

    @pytest.mark.parametrize(
        ("defer", "state", "errors"),
        [(-5, "succeeded", ["Retry"]), (timedelta(days=500), "discarded", ["Retry: a delay is 0 seconds to a year"])],
    )
    async def test_time_that_no_job_waits_for(
        self,
        settings: Settings,
        database: Database,
        jobs: Jobs,
        defer: int | timedelta,
        state: str,
        errors: list[str],
    ) -> None:
        """Each failed as another error, and was tried again when the engine would."""

        async def later(ctx: dict[str, Any]) -> None:
            if ctx["job_try"] == 1:
                raise Retry(defer=defer)

        class WorkerSettings:
            functions = [func(later, name="later")]  # noqa: RUF012

        register(WorkerSettings)
        job = await ArqRedis().enqueue_job("later")
        with capture_logs():
            async with arq_worker(settings, WorkerSettings):
                await end_of(job)
        row = await jobs.one("SELECT state, errors FROM job_history")
        assert (row["state"], [entry["error"] for entry in row["errors"]]) == (state, errors)


class TestAbort:
    async def test_running_job_is_aborted_and_a_waiting_one_is_not_run(self, settings: Settings) -> None:
        async def do_stuff(ctx: dict[str, Any]) -> str:
            seen.append("doing stuff")
            await asyncio.sleep(60)
            return "stuff done"

        class WorkerSettings:
            functions = [func(do_stuff, name="do_stuff")]  # noqa: RUF012
            allow_abort_jobs = True

        redis = await create_pool(RedisSettings())
        async with arq_worker(settings, WorkerSettings):
            job = await redis.enqueue_job("do_stuff")
            later = await redis.enqueue_job("do_stuff", _defer_by=60)
            assert job is not None
            assert later is not None
            await until(_anything)
            assert await later.abort(poll_delay=0.01)
            assert await job.abort(poll_delay=0.05)
            assert not await job.abort(poll_delay=0.01) or await job.status() == JobStatus.complete
        assert seen == ["doing stuff"]


class TestCron:
    async def test_function_runs_at_its_times(self, settings: Settings) -> None:
        async def run_regularly(ctx: dict[str, Any]) -> None:
            seen.append(ctx["job_id"])

        class WorkerSettings:
            cron_jobs = [cron(run_regularly, name="cron:run_regularly", second=set(range(60)))]  # noqa: RUF012

        async with arq_worker(settings, WorkerSettings):
            await until(_anything)
        assert seen[0].startswith("cron:run_regularly:")
        assert int(seen[0].rpartition(":")[2]) % 1000 == 0
        (schedule,) = schedules.schedules().values()
        assert schedule.cron == "* * * * * *"

    async def test_function_runs_at_startup(self, settings: Settings) -> None:
        async def warm(ctx: dict[str, Any]) -> None:
            seen.append("warm")

        class WorkerSettings:
            cron_jobs = [cron(warm, name="cron:warm", month=1, day=1, hour=0, minute=0, run_at_startup=True)]  # noqa: RUF012

        async with arq_worker(settings, WorkerSettings):
            await until(_anything)
        assert seen == ["warm"]


class TestSyncJob:
    async def test_blocking_function_runs_in_a_pool(self, settings: Settings) -> None:
        def sync_task(t: float) -> float:
            time.sleep(t)
            return t

        async def blocks(ctx: dict[str, Any], t: float) -> float:
            loop = asyncio.get_running_loop()
            seen.append(await loop.run_in_executor(ctx["pool"], functools.partial(sync_task, t)))
            return t

        async def startup(ctx: dict[str, Any]) -> None:
            ctx["pool"] = futures.ThreadPoolExecutor()

        async def shutdown(ctx: dict[str, Any]) -> None:
            ctx["pool"].shutdown()

        class WorkerSettings:
            functions = [func(blocks, name="blocks")]  # noqa: RUF012
            on_startup = startup
            on_shutdown = shutdown

        async with arq_worker(settings, WorkerSettings):
            assert (await end_of(await ArqRedis().enqueue_job("blocks", 0.01))).success
        assert seen == [0.01]


def pack(data: dict[str, Any]) -> bytes:
    """Stands in for MessagePack: tuples become lists."""
    return json.dumps(data).encode()


class TestCustomSerializer:
    async def test_arguments_and_results_go_through_it(self, settings: Settings, jobs: Jobs) -> None:
        class WorkerSettings:
            functions = [the_task]  # noqa: RUF012
            job_serializer = pack
            job_deserializer = json.loads

        register(WorkerSettings)
        redis = await create_pool(RedisSettings(), job_serializer=pack, job_deserializer=json.loads)
        job = await redis.enqueue_job("the_task", (1, 2))
        assert job is not None
        async with arq_worker(settings, WorkerSettings):
            result = await job.result(timeout=20, poll_delay=0.05)
        assert seen == [(job.job_id, 1, ([1, 2],), {})]
        assert result == (42 if await _results_are_kept(jobs) else None)


class TestHooks:
    async def test_hooks_run_around_each_job_and_share_its_ctx(self, settings: Settings) -> None:
        async def begin(ctx: dict[str, Any]) -> None:
            ctx["began"] = True
            seen.append(f"start {ctx['extra']}")

        async def end(ctx: dict[str, Any]) -> None:
            seen.append(f"end {ctx['began']}")

        async def after(ctx: dict[str, Any]) -> None:
            seen.append("after")

        async def enqueues(ctx: dict[str, Any], left: int) -> None:
            seen.append(left)
            if left:
                await ctx["redis"].enqueue_job("enqueues", left - 1, _job_id="next")
                raise ValueError

        class WorkerSettings:
            functions = [func(enqueues, name="enqueues")]  # noqa: RUF012
            ctx = {"extra": 7}  # noqa: RUF012
            on_job_start = begin
            on_job_end = end
            after_job_end = after

        redis = ArqRedis()
        with capture_logs():
            async with arq_worker(settings, WorkerSettings):
                await end_of(await redis.enqueue_job("enqueues", 1))
                await until(Job("next", redis).result_info)
        assert seen[:5] == ["start 7", 1, "end True", "after", "start 7"]
        assert seen[5:] == [0, "end True", "after"]

    async def test_result_that_cannot_be_kept_is_logged_and_the_job_succeeds(self, settings: Settings) -> None:
        async def gives(ctx: dict[str, Any]) -> object:
            return object()

        class WorkerSettings:
            functions = [func(gives, name="gives")]  # noqa: RUF012

        with capture_logs() as lines:
            async with arq_worker(settings, WorkerSettings):
                assert (await end_of(await ArqRedis().enqueue_job("gives"))).success
        assert [line["kind"] for line in lines if line["event"] == "a result is not kept"] == ["gives"]

    async def test_context_of_this_engine_is_there_for_durable_steps(self, settings: Settings) -> None:
        async def steps(ctx: dict[str, Any]) -> None:
            seen.append(await ctx["plinth"].step("once", len, "abc"))

        class WorkerSettings:
            functions = [func(steps, name="steps")]  # noqa: RUF012

        async with arq_worker(settings, WorkerSettings):
            assert (await end_of(await ArqRedis().enqueue_job("steps"))).success
        assert seen == [3]
