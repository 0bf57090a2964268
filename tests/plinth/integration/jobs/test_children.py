"""Child jobs: a job that waits for jobs of its own, and goes on with their results."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import ChildFailed, Discard, JobContext, JobKind, RetryPolicy, enqueue, job, run_jobs
from plinth.jobs import children as children_module
from plinth.jobs.admin.bulk import Selection, act_on_many
from plinth.jobs.admin.jobs import request_cancel, retry_job
from plinth.jobs.engine.batches import Batches
from plinth.jobs.outcome import State
from tests.plinth.integration.jobs.conftest import OLGA, Jobs, Number, open_store, until, working

ONCE = RetryPolicy(max_attempts=1)


class Square(BaseModel):
    of: int
    is_: int


@job("test.square.outside")
async def outside(ctx: JobContext, payload: Number) -> None:
    """No child."""


def square_kind() -> JobKind[Number]:
    @job("test.square", retry=ONCE)
    async def square(ctx: JobContext, payload: Number) -> Square:
        if payload.n < 0:
            raise Discard("less than nothing")
        return Square(of=payload.n, is_=payload.n**2)

    return square


def parent_kind(child: JobKind[Number], numbers: list[int], **options: Any) -> tuple[JobKind[Number], list[Any]]:
    """A kind whose jobs run a child for each number, and what they were given."""
    given: list[Any] = []

    @job("test.parent", retry=options.pop("retry", ONCE))
    async def parent(ctx: JobContext, payload: Number) -> int:
        given.append(await run_jobs(ctx, "squares", child, [Number(n=n) for n in numbers], **options))
        return len(given[-1])

    return parent, given


async def waits(jobs: Jobs, parent: UUID) -> None:
    """Wait until the job waits for its children."""
    await until(lambda: jobs.all("SELECT FROM job_step WHERE job_id = $1 AND state = 'waiting'", parent))


class TestRunJobs:
    async def test_results_come_in_the_order_of_the_payloads(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        child = square_kind()
        parent, given = parent_kind(child, [*range(20)])
        made = await enqueue(database, parent, Number(), owner="alice")
        async with working(settings, parent, child, concurrency=1):  # the parent holds no slot
            ended = await jobs.end_of(made.id)
        assert (ended["state"], ended["result"], ended["attempt"]) == ("succeeded", 20, 1)
        assert given == [[Square(of=n, is_=n**2) for n in range(20)]]
        owners = await jobs.all("SELECT DISTINCT owner FROM job_history UNION SELECT owner FROM job_batch")
        assert [row["owner"] for row in owners] == ["alice"]
        steps = await jobs.all("SELECT name, kind, state FROM job_step ORDER BY started_at, name")
        assert [tuple(row) for row in steps] == [
            ("squares", "step", "done"),
            ("squares.ended", "event", "done"),
            ("squares.results", "step", "done"),
        ]

    async def test_no_payloads_have_no_results(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        child = square_kind()
        parent, given = parent_kind(child, [])
        made = await enqueue(database, parent, Number())
        async with working(settings, parent, child):
            assert (await jobs.end_of(made.id))["state"] == "succeeded"
        assert given == [[]]

    async def test_children_and_parent_are_kept_while_the_other_needs_them(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        child = square_kind()
        parent, _ = parent_kind(child, [1, 2])
        made = await enqueue(database, parent, Number())
        store = await open_store(database)
        async with working(settings, parent):  # and not the children
            await waits(jobs, made.id)
        await jobs.all("UPDATE job SET queue = 'later' WHERE id = $1", made.id)
        async with working(settings, child):
            await until(lambda: jobs.all("SELECT FROM job_batch WHERE finished_at IS NOT NULL"))
        assert await store.prune(State.SUCCEEDED, 0) == 0, "the parent has not read them"

        async with database.session() as session:
            await request_cancel(session, made.id)
        await jobs.all("UPDATE job_history SET state = 'succeeded'")
        await jobs.all("UPDATE job_batch SET finished_at = NULL")
        assert await store.prune(State.SUCCEEDED, 0) == 0, "children whose parent is gone would be cancelled"
        await jobs.all("UPDATE job_batch SET finished_at = now()")
        assert await store.prune(State.SUCCEEDED, 0) == 3

    async def test_later_run_finds_the_same_results_though_the_children_are_gone(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        child, seen = square_kind(), []

        @job("test.parent", retry=RetryPolicy(max_attempts=2, base=0.01))
        async def parent(ctx: JobContext, payload: Number) -> None:
            seen.append(await run_jobs(ctx, "square", child, [Number(n=2)]))
            seen.append(await run_jobs(ctx, "square", child, [Number(n=3)]))
            await jobs.all("DELETE FROM job_history")
            if ctx.attempt == 1:
                raise ConnectionError

        made = await enqueue(database, parent, Number())
        async with working(settings, parent, child):
            assert (await jobs.end_of(made.id))["state"] == "succeeded"
        both = [[Square(of=2, is_=4)], [Square(of=3, is_=9)]]
        assert seen == [both[0], *both, *both]
        assert len(await jobs.all("SELECT id FROM job_batch")) == 2

    async def test_children_without_a_return_type_give_nothing(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        parent, given = parent_kind(outside, [1, 2])
        made = await enqueue(database, parent, Number())
        async with working(settings, parent, outside):
            await jobs.end_of(made.id)
        assert given == [[None, None]]

    async def test_more_children_or_larger_results_than_allowed_are_refused(
        self, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        child = square_kind()
        monkeypatch.setattr(children_module, "MAX_CHILDREN", 2)
        monkeypatch.setattr(children_module, "MAX_RESULTS", 10)
        for numbers, said in ([1, 2, 3], "2 child jobs at most"), ([1], "'squares' have more than 10 bytes"):
            monkeypatch.setattr("plinth.jobs.kinds._kinds", {})
            parent, _ = parent_kind(child, numbers)
            made = await enqueue(database, parent, Number())
            async with working(settings, parent, child):
                assert said in (await jobs.end_of(made.id))["errors"][0]["detail"]

    async def test_job_does_not_wait_for_children_within_a_session(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        child = square_kind()

        @job("test.parent", retry=ONCE)
        async def parent(ctx: JobContext, payload: Number) -> None:
            async with ctx.session():
                await run_jobs(ctx, "squares", child, [Number()])

        made = await enqueue(database, parent, Number())
        async with working(settings, parent, child):
            assert "within `ctx.session()`" in (await jobs.end_of(made.id))["errors"][0]["detail"]
        assert len(await jobs.all("SELECT id FROM job_history")) == 1


class TestFailures:
    async def test_failed_child_is_named(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        child = square_kind()
        parent, given = parent_kind(child, [1, -1, 2])
        made = await enqueue(database, parent, Number())
        async with working(settings, parent, child):
            error = (await jobs.end_of(made.id))["errors"][0]
        failed = await jobs.one("SELECT id FROM job_history WHERE kind = 'test.square' AND state = 'discarded'")
        assert error["error"] == "ChildFailed"
        assert error["detail"] == (
            f"ChildFailed: The child job {failed['id']} of the kind test.square is discarded: less than nothing"
        )
        assert given == []

    async def test_failed_children_are_among_the_results_when_asked_for(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        child = square_kind()
        parent, given = parent_kind(child, [1, -1], return_exceptions=True)
        made = await enqueue(database, parent, Number())
        async with working(settings, parent, child):
            assert (await jobs.end_of(made.id))["state"] == "succeeded"
        ((good, bad),) = given
        assert good == Square(of=1, is_=1)
        assert isinstance(bad, ChildFailed)
        assert (bad.kind, bad.state, bad.error) == ("test.square", "discarded", "less than nothing")

    async def test_child_that_is_retried_and_succeeds_lets_its_parent_go_on(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        broken = True

        @job("test.child", retry=ONCE)
        async def child(ctx: JobContext, payload: Number) -> int:
            if broken:
                raise ConnectionError
            return payload.n

        parent, given = parent_kind(child, [7])
        made = await enqueue(database, parent, Number())
        async with working(settings, parent, child):
            assert (await jobs.end_of(made.id))["state"] == "discarded"
            broken = False
            dead = (await jobs.one("SELECT id FROM job_history WHERE kind = 'test.child'"))["id"]
            for job_id in (dead, made.id):
                async with database.session() as session:
                    await retry_job(session, job_id)
                assert (await jobs.end_of(job_id))["state"] == "succeeded"
        assert given == [[7]]

    async def test_child_whose_result_could_not_be_kept_has_failed(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.child", retry=ONCE)
        async def child(ctx: JobContext, payload: Number) -> Any:
            return object()

        parent, _ = parent_kind(child, [7])
        made = await enqueue(database, parent, Number())
        async with working(settings, parent, child):
            error = (await jobs.end_of(made.id))["errors"][0]
        assert error["detail"].endswith("is succeeded: The job is done, and its result could not be kept.")

    async def test_deleted_children_are_told(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        child = square_kind()
        parent, _ = parent_kind(child, [7, 8])
        made = await enqueue(database, parent, Number())
        async with working(settings, parent):
            await waits(jobs, made.id)
            async with database.session() as session:
                await act_on_many(session, "delete", Selection(kind=child.name), by=OLGA)
            error = (await jobs.end_of(made.id))["errors"][0]
        assert "Of the child jobs of 'squares', 2 were deleted or are being done again." in error["detail"]


class TestCancel:
    @pytest.fixture
    def child(self) -> JobKind[Number]:
        @job("test.sleeper")
        async def sleeper(ctx: JobContext, payload: Number) -> None:
            while True:
                ctx.raise_if_cancelled()
                await asyncio.sleep(0.01)

        return sleeper

    async def cancelled(self, jobs: Jobs, number: int) -> None:
        """Wait until every job has ended so, and every batch has ended."""

        async def all_are() -> bool:
            states = [row["state"] for row in await jobs.all("SELECT state FROM job_history")]
            still_open = await jobs.all("SELECT id FROM job_batch WHERE finished_at IS NULL")
            return states == ["cancelled"] * number and not still_open

        await until(all_are)

    @pytest.mark.parametrize("concurrency", [1, 5], ids=["one runs", "all run"])
    async def test_cancelled_parent_cancels_its_children(
        self, settings: Settings, database: Database, jobs: Jobs, child: JobKind[Number], concurrency: int
    ) -> None:
        parent, given = parent_kind(child, [1, 2, 3])
        made = await enqueue(database, parent, Number())
        async with working(settings, parent, child, concurrency=concurrency):
            await until(lambda: jobs.all("SELECT id FROM job WHERE kind = 'test.sleeper' AND state = 'running'"))
            async with database.session() as session:
                await request_cancel(session, made.id)
            await self.cancelled(jobs, 4)
        assert given == []

    async def test_parent_and_its_last_child_are_cancelled_at_the_same_time(
        self, settings: Settings, database: Database, jobs: Jobs, child: JobKind[Number]
    ) -> None:
        parent, _ = parent_kind(child, [1])
        made = [await enqueue(database, parent, Number()) for _ in range(10)]
        async with working(settings, parent):
            for one in made:
                await waits(jobs, one.id)

        async def cancel(job_id: UUID) -> None:
            async with database.session() as session:
                await request_cancel(session, job_id)

        for one in made:
            batch_id = (await jobs.one("SELECT id FROM job_batch WHERE parent_id = $1", one.id))["id"]
            last = (await jobs.one("SELECT id FROM job WHERE batch_id = $1", batch_id))["id"]
            await asyncio.gather(cancel(one.id), cancel(last))
        await Batches(database).tend()
        states = await jobs.all("SELECT state, count(*) AS number FROM job_history GROUP BY state")
        assert [tuple(row) for row in states] == [("cancelled", 20)]

    async def test_parents_that_are_cancelled_at_once_cancel_their_children(
        self, settings: Settings, database: Database, jobs: Jobs, child: JobKind[Number]
    ) -> None:
        parent, _ = parent_kind(child, [1, 2])
        made = [await enqueue(database, parent, Number()) for _ in range(2)]
        async with working(settings, parent):
            for one in made:
                await waits(jobs, one.id)
        async with database.session() as session:
            await act_on_many(session, "cancel", Selection(kind=parent.name), by=OLGA)
        await self.cancelled(jobs, 6)

    async def test_children_of_children_are_cancelled_with_them(
        self, settings: Settings, database: Database, jobs: Jobs, child: JobKind[Number]
    ) -> None:
        @job("test.grandparent")
        async def grandparent(ctx: JobContext, payload: Number) -> None:
            await run_jobs(ctx, "parents", parent, [Number()])

        parent, _ = parent_kind(child, [1, 2])
        made = await enqueue(database, grandparent, Number())
        async with working(settings, grandparent, parent):
            await until(lambda: jobs.all("SELECT id FROM job WHERE kind = 'test.sleeper'"))
            await until(lambda: jobs.all("SELECT FROM job_step WHERE state = 'waiting' OFFSET 1"))
        async with database.session() as session:
            await request_cancel(session, made.id)
        await self.cancelled(jobs, 4)

    async def test_children_that_a_cancellation_missed_are_cancelled_within_a_minute(
        self, settings: Settings, database: Database, jobs: Jobs, child: JobKind[Number]
    ) -> None:
        parent, _ = parent_kind(child, [1, 2])
        made = [await enqueue(database, parent, Number()) for _ in range(2)]
        async with working(settings, parent):
            for one in made:
                await waits(jobs, one.id)
        await jobs.all("DELETE FROM job WHERE id = $1", made[0].id)
        await Batches(database).tend()
        assert len(await jobs.all("SELECT id FROM job_history WHERE state = 'cancelled'")) == 2
        assert len(await jobs.all("SELECT id FROM job")) == 3, "the other parent waits on"
