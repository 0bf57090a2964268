"""What owners and operators do with jobs: looking, cancelling, trying again, also while workers are at it."""

import asyncio
from dataclasses import asdict
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic_core import to_json

from notes.config import Settings
from plinth.api.schemas import OperatorJobRead
from plinth.database.engine import Database
from plinth.errors import ConflictError, NotFoundError
from plinth.jobs import Discard, JobContext, RetryPolicy, State, enqueue, job
from plinth.jobs.admin.jobs import JobView, get_job, list_jobs, request_cancel, retry_job
from plinth.jobs.claimed import ClaimedJob
from plinth.jobs.engine.store import Store
from plinth.jobs.kinds import JobKind
from plinth.jobs.outcome import Finish, error_entry
from tests.plinth.integration.jobs.conftest import Jobs, Number, open_store, until, working


@pytest.fixture
def task() -> JobKind[Number]:
    @job("test.task", retry=RetryPolicy(max_attempts=3))
    async def task(ctx: JobContext, payload: Number) -> None:
        pass

    return task


@pytest.fixture
async def store(database: Database) -> Store:
    return await open_store(database)


async def add(database: Database, kind: JobKind[Any], **options: Any) -> UUID:
    async with database.session() as session:
        return (await enqueue(session, kind, Number(n=1), **options)).id


async def claim(store: Store, kind: JobKind[Any]) -> ClaimedJob:
    (claimed,) = await store.claim([kind.queue], {kind.name: kind}, 1)
    return claimed


async def end(store: Store, claimed: ClaimedJob, state: State) -> None:
    error = None if state is State.SUCCEEDED else error_entry("error", run=claimed.lease, attempt=claimed.attempt)
    assert await store.finish([Finish(claimed.id, claimed.lease, state, error)])


async def added_and_ended(database: Database, store: Store, kind: JobKind[Any], state: State, **options: Any) -> UUID:
    job_id = await add(database, kind, **options)
    await end(store, await claim(store, kind), state)
    return job_id


async def get(database: Database, job_id: UUID, **options: Any) -> JobView:
    async with database.session() as session:
        return await get_job(session, job_id, **options)


async def cancel(database: Database, job_id: UUID, **options: Any) -> JobView:
    async with database.session() as session:
        return await request_cancel(session, job_id, **options)


async def retry(database: Database, job_id: UUID, **options: Any) -> JobView:
    async with database.session() as session:
        return await retry_job(session, job_id, **options)


async def listed(database: Database, **options: Any) -> list[UUID]:
    async with database.session() as session:
        return [view.id for view in await list_jobs(session, **options)]


class TestGet:
    async def test_waiting_job_is_read_with_its_fields(self, database: Database, task: JobKind[Number]) -> None:
        job_id = await add(database, task, owner="alice", unique_key="k", delay=60)
        view = await get(database, job_id)
        assert (view.id, view.kind, view.queue, view.state) == (job_id, "test.task", "default", State.SCHEDULED)
        assert (view.owner, view.payload, view.unique_key) == ("alice", {"n": 1}, "k")
        assert (view.attempt, view.max_attempts, view.run_lease, view.crash_count) == (0, 3, 0, 0)
        assert (view.started_at, view.finished_at, view.worker, view.errors) == (None, None, None, [])
        assert view.run_at > view.created_at

    async def test_running_job_names_its_worker_and_progress(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        job_id = await add(database, task)
        claimed = await claim(store, task)
        await store.write_progress([(job_id, claimed.lease, 3, 10, "reading")])
        view = await get(database, job_id)
        assert (view.state, view.attempt, view.run_lease, view.worker) == (State.RUNNING, 1, 1, "test")
        assert (view.progress_done, view.progress_total, view.progress_message) == (3, 10, "reading")
        assert view.started_at == claimed.started_at

    async def test_ended_job_is_read_with_its_errors(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        job_id = await added_and_ended(database, store, task, State.DISCARDED)
        view = await get(database, job_id)
        assert (view.state, view.attempt, view.worker) == (State.DISCARDED, 1, None)
        assert view.finished_at is not None
        assert [error["outcome"] for error in view.errors] == ["error"]

    @pytest.mark.parametrize("ended", [False, True])
    async def test_only_the_owner_and_operators_read_a_job(
        self, database: Database, store: Store, task: JobKind[Number], ended: bool
    ) -> None:
        job_id = await add(database, task, owner="alice")
        if ended:
            await end(store, await claim(store, task), State.SUCCEEDED)
        assert (await get(database, job_id)).id == job_id
        assert (await get(database, job_id, owner="alice")).id == job_id
        with pytest.raises(NotFoundError):
            await get(database, job_id, owner="bob")

    async def test_job_without_an_owner_is_read_by_operators_only(
        self, database: Database, task: JobKind[Number]
    ) -> None:
        job_id = await add(database, task)
        assert (await get(database, job_id)).owner is None
        with pytest.raises(NotFoundError):
            await get(database, job_id, owner="alice")

    @pytest.mark.parametrize(
        "payload",
        ["[1]", '"x"', "null", "[" * 300 + "]" * 300, '{"a":' * 3000 + "1" + "}" * 3000, '{"n": 1e5000}'],
        ids=["list", "text", "null", "300 levels", "3000 levels", "5000 digits"],
    )
    async def test_payload_that_only_sql_can_enqueue_hides_no_job(
        self, database: Database, jobs: Jobs, payload: str
    ) -> None:
        (row,) = await jobs.all("SELECT plinth_enqueue('test.odd', $1::text::jsonb) AS id", payload)
        OperatorJobRead.model_validate(await get(database, row["id"])).model_dump_json()
        async with database.session() as session:
            (seen,) = await list_jobs(session, payloads=True)
        assert to_json(asdict(seen))
        assert (await cancel(database, row["id"])).state is State.CANCELLED
        assert (await retry(database, row["id"])).state is State.AVAILABLE

    async def test_unknown_job_is_not_found(self, database: Database) -> None:
        with pytest.raises(NotFoundError):
            await get(database, uuid4())


class TestList:
    async def test_jobs_are_listed_newest_first_whether_live_or_ended(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        ended = [await added_and_ended(database, store, task, State.SUCCEEDED) for _ in range(2)]
        alive = [await add(database, task) for _ in range(2)]
        again = await added_and_ended(database, store, task, State.SUCCEEDED)  # the first in line ends
        assert await listed(database) == [again, *alive[::-1], *ended[::-1]]

    async def test_pages_of_jobs_hold_each_job_once(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        made = []
        for state in (State.SUCCEEDED, State.DISCARDED, State.SUCCEEDED):
            made += [await add(database, task, priority=9), await added_and_ended(database, store, task, state)]
        pages: list[UUID] = []
        while page := await listed(database, limit=2, before=pages[-1] if pages else None):
            assert len(page) == 2
            pages += page
        assert pages == made[::-1]

    async def test_jobs_are_filtered_by_owner_state_kind_and_queue(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        @job("test.other")
        async def other(ctx: JobContext, payload: Number) -> None:
            pass

        discarded = await added_and_ended(database, store, task, State.DISCARDED, owner="alice")
        succeeded = await added_and_ended(database, store, task, State.SUCCEEDED, owner="bob")
        waiting = await add(database, task, owner="alice", delay=60)
        elsewhere = await add(database, other, queue="side", owner="alice")

        assert await listed(database, owner="alice") == [elsewhere, waiting, discarded]
        assert await listed(database, owner="bob") == [succeeded]
        assert await listed(database, states=[State.DISCARDED]) == [discarded]
        assert await listed(database, states=[State.SCHEDULED, State.SUCCEEDED]) == [waiting, succeeded]
        assert await listed(database, states=[State.RUNNING]) == []
        assert await listed(database, kind="test.other") == [elsewhere]
        assert await listed(database, queue="side") == [elsewhere]
        assert await listed(database, owner="alice", states=list(State), kind="test.task", queue="default") == [
            waiting,
            discarded,
        ]

    async def test_listed_job_shows_its_last_error_only(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        job_id = await added_and_ended(database, store, task, State.DISCARDED)
        await retry(database, job_id)
        await end(store, await claim(store, task), State.DISCARDED)
        async with database.session() as session:
            (view,) = await list_jobs(session)
        assert [error["run"] for error in view.errors] == [3]
        assert [error["run"] for error in (await get(database, job_id)).errors] == [1, 3]

    async def test_job_that_moves_between_tables_is_listed_once(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        job_id = await add(database, task)
        looks: list[list[UUID]] = []
        done = asyncio.Event()

        async def look() -> None:
            while not done.is_set():
                looks.append(await listed(database))

        looking = asyncio.create_task(look())
        for _ in range(30):
            await end(store, await claim(store, task), State.DISCARDED)
            await retry(database, job_id)
        done.set()
        await looking
        assert len(looks) > 5
        assert all(found == [job_id] for found in looks)

    async def test_list_of_jobs_reads_one_page_of_a_long_history(
        self, database: Database, jobs: Jobs, task: JobKind[Number]
    ) -> None:
        await jobs.all(
            "INSERT INTO job_history (kind, queue, priority, owner, payload, max_attempts, run_at, state, finished_at) "
            "SELECT 'test.task', CASE WHEN n <= 10 THEN 'rare' ELSE 'default' END, 0, 'alice', '{}', 1, now(), "
            "'succeeded', now() FROM generate_series(1, 20000) AS n"
        )
        await jobs.all("ANALYZE job_history")
        filters: list[dict[str, Any]] = [{}, {"owner": "alice"}, {"queue": "rare"}, {"kind": "test.task"}]
        for options in filters:
            before = await _rows_read(jobs)
            assert len(await listed(database, **options, limit=10)) == 10
            assert await _rows_read(jobs) - before < 1000

    @pytest.mark.parametrize("state", [State.AVAILABLE, State.DISCARDED])
    async def test_list_of_jobs_reads_no_payloads(
        self, database: Database, store: Store, task: JobKind[Number], state: State
    ) -> None:
        """They may have megabytes each."""
        job_id = await add(database, task)
        if state.terminal:
            await end(store, await claim(store, task), state)
        async with database.session() as session:
            assert [view.payload for view in await list_jobs(session)] == [{}]
            assert [view.payload for view in await list_jobs(session, payloads=True)] == [{"n": 1}]
        assert (await get(database, job_id)).payload == {"n": 1}


async def _rows_read(jobs: Jobs) -> int:
    # What this backend has read counts when it says so; the pool may have used any.
    await jobs.all("SELECT pg_stat_force_next_flush()")
    row = await jobs.one(
        "SELECT seq_tup_read + idx_tup_fetch AS read FROM pg_stat_user_tables WHERE relname = 'job_history'"
    )
    return int(row["read"])


class TestCancel:
    @pytest.mark.parametrize("state", [State.AVAILABLE, State.SCHEDULED, State.RETRYABLE])
    async def test_waiting_job_is_cancelled_at_once(
        self, database: Database, jobs: Jobs, task: JobKind[Number], state: State
    ) -> None:
        job_id = await add(database, task, owner="alice", unique_key="k")
        await jobs.all("UPDATE job SET state = $2 WHERE id = $1", job_id, state.value)
        view = await cancel(database, job_id, owner="alice")
        assert (view.id, view.state) == (job_id, State.CANCELLED)
        assert view.finished_at is not None
        assert await jobs.live(job_id) is None
        assert (await get(database, await add(database, task, unique_key="k"))).state is State.AVAILABLE

    async def test_running_job_is_asked_to_stop(
        self, settings: Settings, database: Database, jobs: Jobs, task: JobKind[Number]
    ) -> None:
        started = asyncio.Event()

        @job("test.long")
        async def long(ctx: JobContext, payload: Number) -> None:
            started.set()
            while True:
                ctx.raise_if_cancelled()
                await asyncio.sleep(0.01)

        job_id = await add(database, long)
        # The heartbeat would tell the worker as well, some seconds later: with this timeout, later than the test waits.
        deaf = settings.model_copy(update={"JOBS_SESSION_TIMEOUT": 300.0})
        async with working(deaf, long):
            await started.wait()
            # Before the worker listens, or after: it looks once it does.
            view = await cancel(database, job_id)
            assert view.state is State.RUNNING
            assert view.cancel_requested_at is not None
            row = await jobs.end_of(job_id)
        assert row["state"] == "cancelled"

    async def test_cancelling_a_job_twice_changes_nothing_more(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        job_id = await add(database, task)
        claimed = await claim(store, task)
        first, second = await cancel(database, job_id), await cancel(database, job_id)
        assert first == second
        await end(store, claimed, State.CANCELLED)
        third = await cancel(database, job_id)
        assert (third.state, await cancel(database, job_id)) == (State.CANCELLED, third)

    @pytest.mark.parametrize("state", [State.SUCCEEDED, State.DISCARDED])
    async def test_ended_job_cannot_be_cancelled(
        self, database: Database, store: Store, task: JobKind[Number], state: State
    ) -> None:
        job_id = await added_and_ended(database, store, task, state)
        with pytest.raises(ConflictError) as refused:
            await cancel(database, job_id)
        assert refused.value.code == "job_ended"
        assert (await get(database, job_id)).state is state

    @pytest.mark.parametrize("running", [False, True])
    async def test_cancelling_another_owner_s_job_is_not_found(
        self, database: Database, store: Store, task: JobKind[Number], running: bool
    ) -> None:
        job_id = await add(database, task, owner="alice")
        if running:
            await claim(store, task)
        before = await get(database, job_id)
        with pytest.raises(NotFoundError):
            await cancel(database, job_id, owner="bob")
        assert await get(database, job_id) == before

    async def test_claim_skips_a_job_that_is_being_cancelled(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        job_id = await add(database, task)
        async with database.session() as session:
            await request_cancel(session, job_id)
            assert await store.claim(["default"], {"test.task": task}, 1) == []
        assert await store.claim(["default"], {"test.task": task}, 1) == []
        assert (await get(database, job_id)).state is State.CANCELLED

    async def test_job_that_ends_first_cannot_be_cancelled(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        job_id = await add(database, task)
        claimed = await claim(store, task)
        async with database.session() as session:
            assert await store.finish_in(session, Finish(job_id, claimed.lease, State.SUCCEEDED))
            cancelling = asyncio.create_task(cancel(database, job_id))
            await until(lambda: _a_lock_is_awaited(database))
        with pytest.raises(ConflictError):
            await cancelling
        assert (await get(database, job_id)).state is State.SUCCEEDED

    async def test_job_cancelled_amid_its_run_ends_in_the_history_once(
        self, settings: Settings, database: Database, jobs: Jobs, task: JobKind[Number]
    ) -> None:
        ids = [await add(database, task) for _ in range(60)]
        async with working(settings, task):
            answers = await asyncio.gather(*(cancel(database, job_id) for job_id in ids), return_exceptions=True)
            rows = [await jobs.end_of(job_id) for job_id in ids]
        assert await jobs.all("SELECT FROM job") == []
        for row, answer in zip(rows, answers, strict=True):
            if isinstance(answer, ConflictError):
                assert row["state"] == "succeeded"
            else:
                assert isinstance(answer, JobView), answer
                assert row["state"] in (
                    ["cancelled"] if answer.state is State.CANCELLED else ["cancelled", "succeeded"]
                )


async def _a_lock_is_awaited(database: Database) -> bool:
    async with database.connection() as connection:
        return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))


class TestRetry:
    @pytest.mark.parametrize("state", [State.DISCARDED, State.CANCELLED])
    async def test_retried_job_runs_again_with_all_its_attempts(
        self, settings: Settings, database: Database, jobs: Jobs, state: State
    ) -> None:
        refuse = True

        @job("test.moody", retry=RetryPolicy(max_attempts=1))
        async def moody(ctx: JobContext, payload: Number) -> None:
            if refuse:
                raise Discard("not today")

        job_id = await add(database, moody, owner="alice", unique_key="k", delay=0 if state is State.DISCARDED else 60)
        # Only the doorbell can explain that the job runs again.
        deaf = settings.model_copy(update={"JOBS_POLL_INTERVAL": 3600.0})
        async with working(deaf, moody):
            if state is State.CANCELLED:
                await cancel(database, job_id)
            await jobs.end_of(job_id)
            await jobs.all("UPDATE job_history SET crash_count = 1, progress_done = 1 WHERE id = $1", job_id)
            before = await get(database, job_id)
            assert before.state is state
            refuse = False
            view = await retry(database, job_id, owner="alice")
            assert (view.id, view.state, view.attempt, view.crash_count) == (job_id, State.AVAILABLE, 0, 1)
            assert (view.run_lease, view.finished_at, view.progress_done) == (before.run_lease + 1, None, None)
            assert (view.errors, view.created_at, view.unique_key) == (before.errors, before.created_at, "k")
            row = await jobs.end_of(job_id)
        assert (row["state"], row["attempt"]) == ("succeeded", 1)

    async def test_run_from_before_a_retry_writes_nothing(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        job_id = await add(database, task)
        claimed = await claim(store, task)
        await end(store, claimed, State.DISCARDED)
        await retry(database, job_id)
        assert await store.finish([Finish(job_id, claimed.lease, State.SUCCEEDED)]) == set()
        assert (await get(database, job_id)).state is State.AVAILABLE

    @pytest.mark.parametrize("state", [State.AVAILABLE, State.RUNNING, State.SUCCEEDED])
    async def test_job_that_has_not_failed_cannot_be_retried(
        self, database: Database, store: Store, task: JobKind[Number], state: State
    ) -> None:
        job_id = await add(database, task)
        if state is not State.AVAILABLE:
            claimed = await claim(store, task)
        if state is State.SUCCEEDED:
            await end(store, claimed, state)
        with pytest.raises(ConflictError) as refused:
            await retry(database, job_id)
        assert refused.value.code == "job_not_failed"
        assert (await get(database, job_id)).state is state

    async def test_retry_is_refused_while_the_unique_key_is_taken(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        job_id = await added_and_ended(database, store, task, State.DISCARDED, unique_key="k")
        await add(database, task, unique_key="k")
        async with database.session() as session:
            with pytest.raises(ConflictError) as refused:
                await retry_job(session, job_id)
            # The refusal has changed nothing, even for a caller that goes on and commits.
        assert refused.value.code == "unique_key_taken"
        assert (await get(database, job_id)).state is State.DISCARDED

    async def test_concurrent_retries_bring_a_job_back_once(
        self, database: Database, store: Store, jobs: Jobs, task: JobKind[Number]
    ) -> None:
        job_id = await added_and_ended(database, store, task, State.DISCARDED)
        answers = await asyncio.gather(*(retry(database, job_id) for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(answer, JobView) for answer in answers) == 1
        assert all(isinstance(answer, JobView | ConflictError) for answer in answers), answers
        assert (await jobs.one("SELECT run_lease FROM job"))["run_lease"] == 2

    async def test_retrying_another_owner_s_job_is_not_found(
        self, database: Database, store: Store, task: JobKind[Number]
    ) -> None:
        job_id = await added_and_ended(database, store, task, State.DISCARDED, owner="alice")
        with pytest.raises(NotFoundError):
            await retry(database, job_id, owner="bob")
        assert (await get(database, job_id)).state is State.DISCARDED


async def test_job_that_moves_between_tables_is_always_found(database: Database, task: JobKind[Number]) -> None:
    job_id = await add(database, task)
    found = 0

    async def again(change: Any) -> None:
        nonlocal found
        for _ in range(60):
            try:
                assert (await change(database, job_id)).id == job_id
                found += 1
            except ConflictError:
                pass

    await asyncio.gather(*(again(change) for change in (cancel, retry, cancel, retry)))
    assert found >= 60
