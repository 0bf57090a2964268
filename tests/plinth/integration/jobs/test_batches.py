"""Batches: jobs that are enqueued together, and what is enqueued when all of them have ended."""

import asyncio
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from pydantic import BaseModel

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import (
    BatchEndedError,
    Discard,
    EndedBatch,
    JobContext,
    RetryPolicy,
    batch,
    ended_batch,
    enqueue,
    job,
    member_results,
)
from plinth.jobs.admin.bulk import Selection, act_on_many
from plinth.jobs.admin.jobs import request_cancel, retry_job
from plinth.jobs.engine.batches import Batches
from plinth.jobs.outcome import State
from tests.plinth.integration.jobs.conftest import OLGA, Jobs, Number, open_store, until, working


class Done(BaseModel):
    of: str = "all"


ENDED: list[EndedBatch] = []


@pytest.fixture(autouse=True)
def _ended() -> None:
    ENDED.clear()


def member_kind(**options: Any) -> Any:
    @job("test.member", retry=RetryPolicy(max_attempts=1), **options)
    async def member(ctx: JobContext, payload: Number) -> int:
        if payload.n < 0:
            raise Discard("less than nothing")
        if payload.n == 99:
            async with ctx.session() as session:
                await ctx.complete(session, result=99)
        return payload.n

    return member


def last_kind() -> Any:
    @job("test.last", queue="last", priority=7)
    async def last(ctx: JobContext, payload: Done) -> None:
        ENDED.append(await ended_batch(ctx))

    return last


async def made(database: Database, member: Any, *numbers: int, last: Any = None, **options: Any) -> UUID:
    """Enqueue a batch of members with these numbers."""
    on_end = None if last is None else (last, Done())
    async with database.session() as session, batch(session, on_end=on_end, **options) as made:
        await made.enqueue_many(member, [Number(n=n) for n in numbers])
    return made.id


async def ended(jobs: Jobs, batch_id: UUID) -> Any:
    """Wait for the end of a batch; its row."""

    async def row() -> Any:
        found = await jobs.one("SELECT * FROM job_batch WHERE id = $1", batch_id)
        return found if found["finished_at"] is not None else None

    return await until(row)


async def is_open(jobs: Jobs, batch_id: UUID) -> bool:
    return (await jobs.one("SELECT finished_at FROM job_batch WHERE id = $1", batch_id))["finished_at"] is None


class TestEnd:
    async def test_last_job_runs_once_when_every_member_has_ended(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        member, last = member_kind(), last_kind()
        batch_id = await made(database, member, 1, 2, 99, -1, last=last, owner="alice")
        async with working(settings, member, last, queues=["default", "last"]):
            row = await ended(jobs, batch_id)
            done = await jobs.end_of(row["on_end_id"])
        assert (done["kind"], done["queue"], done["priority"], done["owner"]) == ("test.last", "last", 7, "alice")
        assert (done["payload"], done["max_attempts"], done["state"]) == ({"of": "all"}, 25, "succeeded")
        assert [EndedBatch(batch_id, 3, 0, 1)] == ENDED
        owners = await jobs.all("SELECT DISTINCT owner FROM job_history")
        assert [row["owner"] for row in owners] == ["alice"]

    async def test_results_of_the_members_are_read(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        member = member_kind()
        batch_id = await made(database, member, 1, -1, 99)
        async with working(settings, member):
            await ended(jobs, batch_id)
        async with database.session() as session:
            found = [result async for result in member_results(session, batch_id)]
        seen = sorted((result.state, result.result, result.error) for result in found)
        assert seen == [("discarded", None, "less than nothing"), ("succeeded", 1, None), ("succeeded", 99, None)]

    async def test_members_are_kept_until_the_last_job_has_read_them(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        """Their kind may remember its jobs for less time than the last job waits, or is a dead letter."""
        member, last = member_kind(keep=0), last_kind()
        batch_id = await made(database, member, 1, 2, last=last)
        store = await open_store(database)
        async with working(settings, member):
            on_end = (await ended(jobs, batch_id))["on_end_id"]

        async def pruned() -> tuple[int, int]:
            return await store.prune(State.SUCCEEDED, 0), await store.prune_batches(0)

        assert await pruned() == (0, 0), "it waits"
        async with database.session() as session:
            await request_cancel(session, on_end)
        await jobs.all("UPDATE job_history SET state = 'discarded' WHERE id = $1", on_end)
        assert await pruned() == (0, 0), "it may be retried"
        await jobs.all("UPDATE job_history SET state = 'succeeded' WHERE id = $1", on_end)
        assert await pruned() == (3, 1)

    async def test_members_of_many_batches_end_them_all(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        member, last = member_kind(), last_kind()
        made_ids = [await made(database, member, *range(5), last=last) for _ in range(20)]
        async with (
            working(settings, member, last, queues=["default", "last"], concurrency=50),
            working(settings, member, last, queues=["default", "last"], concurrency=50),
        ):
            for batch_id in made_ids:
                await jobs.end_of((await ended(jobs, batch_id))["on_end_id"])
        assert sorted(one.id for one in ENDED) == sorted(made_ids)
        assert {one[1:] for one in ENDED} == {(5, 0, 0)}

    async def test_last_job_belongs_to_the_trace_that_made_the_batch(self, database: Database, jobs: Jobs) -> None:
        caller = SpanContext(trace_id=0xABC, span_id=7, is_remote=True, trace_flags=TraceFlags(0))
        with use_span(NonRecordingSpan(caller)):
            batch_id = await made(database, member_kind(), 1, last=last_kind())
        async with database.session() as session:
            await act_on_many(session, "delete", Selection(batch=batch_id), by=OLGA)
        row = await jobs.one("SELECT trace_context FROM job WHERE kind = 'test.last'")
        assert row["trace_context"]["traceparent"] == f"00-{0xABC:032x}-{7:016x}-00"

    async def test_empty_batch_ends_at_once(self, database: Database, jobs: Jobs) -> None:
        batch_id = await made(database, member_kind(), last=last_kind())
        assert not await is_open(jobs, batch_id)
        assert (await jobs.one("SELECT kind, state FROM job"))["state"] == "available"

    async def test_batch_whose_jobs_were_there_already_is_empty(self, database: Database, jobs: Jobs) -> None:
        member = member_kind()
        await enqueue(database, member, Number(), unique_key="k")
        async with database.session() as session, batch(session) as made:
            assert not (await made.enqueue(member, Number(), unique_key="k")).created
        assert not await is_open(jobs, made.id)
        assert (await jobs.one("SELECT batch_id FROM job"))["batch_id"] is None

    async def test_batch_of_a_database_commits_at_the_end_of_its_block(self, database: Database, jobs: Jobs) -> None:
        member = member_kind()

        async def make(part: int) -> UUID:
            async with batch(database) as made:
                await made.enqueue(member, Number(n=12 // part))
                await made.enqueue(member, Number(n=12 // (part - 1)))
            return made.id

        with pytest.raises(ZeroDivisionError):
            await make(1)
        assert await jobs.all("SELECT FROM job_batch") == []
        batch_id = await make(2)
        assert {row["batch_id"] for row in await jobs.all("SELECT batch_id FROM job")} == {batch_id}

    async def test_nothing_remains_of_a_batch_whose_block_raises(self, database: Database, jobs: Jobs) -> None:
        member = member_kind()
        async with database.session() as session:
            with suppress(ConnectionError):
                async with batch(session) as made:
                    await made.enqueue(member, Number())
                    raise ConnectionError
        assert await jobs.all("SELECT id FROM job UNION ALL SELECT id FROM job_batch") == []

    async def test_job_at_the_end_of_no_batch_is_told_so(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        last = last_kind()
        alone = await enqueue(database, last, Done(), queue="default")
        async with working(settings, last):
            await until(lambda: jobs.all("SELECT id FROM job WHERE state = 'retryable'"))
        assert "at the end of no batch" in (await jobs.live(alone.id))["errors"][0]["detail"]


class TestMembersThatJoin:
    async def test_follow_up_keeps_its_batch_open(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        @job("test.splits")
        async def splits(ctx: JobContext, payload: Number) -> None:
            if payload.n:
                ctx.enqueue(splits, Number(n=payload.n - 1), batch=ctx.batch)

        batch_id = await made(database, splits, 3)
        async with working(settings, splits):
            row = await ended(jobs, batch_id)
        assert row["succeeded"] == 4

    async def test_follow_up_joins_no_other_batch(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        @job("test.splits", retry=RetryPolicy(max_attempts=1))
        async def splits(ctx: JobContext, payload: Number) -> None:
            ctx.enqueue(splits, payload, batch=uuid4())

        alone = await enqueue(database, splits, Number())
        async with working(settings, splits):
            row = await jobs.end_of(alone.id)
        assert "join the batch of their own job" in row["errors"][0]["detail"]

    async def test_job_joins_an_open_batch_and_no_other(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        member = member_kind()
        batch_id = await made(database, member, 1)
        assert (await enqueue(database, member, Number(n=2), batch=batch_id)).created
        async with working(settings, member):
            assert (await ended(jobs, batch_id))["succeeded"] == 2
        for unknown in (batch_id, uuid4()):
            with pytest.raises(BatchEndedError) as refused:
                await enqueue(database, member, Number(), batch=unknown)
            assert (refused.value.status, refused.value.code) == (409, "batch_ended")

    async def test_batch_waits_for_the_transaction_of_a_job_that_joins(self, database: Database, jobs: Jobs) -> None:
        member = member_kind()
        batch_id = await made(database, member, 1)
        async with database.session() as joining:
            joined = await enqueue(joining, member, Number(n=2), batch=batch_id)
            async with database.session() as session:
                ending = asyncio.create_task(act_on_many(session, "delete", Selection(batch=batch_id), by=OLGA))
                await asyncio.sleep(0.2)
                assert not ending.done()
                await joining.commit()
                assert await ending == 1
        assert await is_open(jobs, batch_id)
        assert await jobs.live(joined.id) is not None

    async def test_dead_letter_that_is_retried_keeps_an_open_batch_open(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        member = member_kind()
        async with database.session() as session, batch(session) as made:
            dead = await made.enqueue(member, Number(n=-1))
            late = await made.enqueue(member, Number(n=1), delay=3600)
        async with working(settings, member):
            await jobs.end_of(dead.id)
        async with database.session() as session:
            await retry_job(session, dead.id)
        async with database.session() as session:
            await request_cancel(session, late.id)
        assert await is_open(jobs, made.id)
        async with database.session() as session:
            await request_cancel(session, dead.id)
        assert (await ended(jobs, made.id))["cancelled"] == 2

    async def test_batch_that_has_ended_stays_so_when_a_member_is_retried(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        member, last = member_kind(), last_kind()
        async with database.session() as session, batch(session, on_end=(last, Done())) as made:
            dead = await made.enqueue(member, Number(n=-1))
        async with working(settings, member, last, queues=["default", "last"]):
            first = await ended(jobs, made.id)
            await jobs.end_of(first["on_end_id"])
            async with database.session() as session:
                await retry_job(session, dead.id)
            await jobs.end_of(dead.id)
            await asyncio.sleep(0.2)
        assert await ended(jobs, made.id) == first
        assert len(ENDED) == 1


class TestActs:
    """What operators and owners do to members."""

    async def test_cancelling_the_last_member_ends_the_batch(self, database: Database, jobs: Jobs) -> None:
        member = member_kind()
        async with database.session() as session, batch(session, on_end=(last_kind(), Done())) as made:
            first, second = await made.enqueue_many(member, [Number(), Number()])
        for one, still_open in ((first, True), (second, False)):
            async with database.session() as session:
                await request_cancel(session, one.id)
            assert await is_open(jobs, made.id) is still_open
        assert (await ended(jobs, made.id))["cancelled"] == 2
        assert (await jobs.one("SELECT kind FROM job"))["kind"] == "test.last"

    @pytest.mark.parametrize("action", ["cancel", "delete"])
    async def test_many_at_once_end_the_batch(self, database: Database, jobs: Jobs, action: Any) -> None:
        member = member_kind()
        batch_id, other = await made(database, member, 1, 2, 3), await made(database, member, 1)
        async with database.session() as session:
            assert await act_on_many(session, action, Selection(batch=batch_id), by=OLGA) == 3
        assert (await ended(jobs, batch_id))["cancelled"] == (3 if action == "cancel" else 0)
        assert await is_open(jobs, other)

    async def test_last_two_members_that_are_cancelled_at_the_same_time_end_the_batch(
        self, database: Database, jobs: Jobs
    ) -> None:
        member = member_kind()
        for _ in range(5):
            async with database.session() as session, batch(session) as made:
                pair = await made.enqueue_many(member, [Number(), Number()])

            async def cancel(job_id: UUID) -> None:
                async with database.session() as session:
                    await request_cancel(session, job_id)

            await asyncio.gather(*(cancel(one.id) for one in pair))
            assert not await is_open(jobs, made.id)

    async def test_running_member_that_is_cancelled_ends_the_batch(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.sleeper")
        async def sleeper(ctx: JobContext, payload: Number) -> None:
            while True:
                ctx.raise_if_cancelled()
                await asyncio.sleep(0.01)

        batch_id = await made(database, sleeper, 1)
        async with working(settings, sleeper):
            await until(lambda: jobs.all("SELECT id FROM job WHERE state = 'running'"))
            async with database.session() as session:
                assert await act_on_many(session, "cancel", Selection(batch=batch_id), by=OLGA) == 1
            assert (await ended(jobs, batch_id))["cancelled"] == 1


class TestLostWorkers:
    async def test_member_that_is_taken_away_from_a_lost_worker_ends_the_batch(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        member = member_kind()
        batch_id = await made(database, member, 1)
        store = await open_store(database)
        await store.claim(["default"], {member.name: member}, 1)
        await jobs.all("UPDATE job SET cancel_requested_at = now()")
        await jobs.all("UPDATE worker_session SET expires_at = now() - interval '1 second'")
        async with working(settings, member):
            assert (await ended(jobs, batch_id))["cancelled"] == 1


class TestTend:
    async def test_batch_that_a_lost_worker_left_behind_is_ended(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        member, last = member_kind(), last_kind()
        batch_id = await made(database, member, 1, last=last)
        waiting = await made(database, member, 2)
        await jobs.all("DELETE FROM job WHERE batch_id = $1", batch_id)
        batches = Batches(database)
        running = asyncio.create_task(batches.lane.run())
        await batches.tend()
        await ended(jobs, batch_id)
        running.cancel()
        assert await is_open(jobs, waiting)
        assert len(await jobs.all("SELECT id FROM job WHERE kind = 'test.last'")) == 1

    async def test_one_locked_batch_keeps_no_other_waiting(self, database: Database, jobs: Jobs) -> None:
        member = member_kind()
        held, free = await made(database, member, 1), await made(database, member, 1)
        await jobs.all("DELETE FROM job")
        batches = Batches(database)
        async with database.session() as session:
            await (await session.connection()).exec_driver_sql(
                "SELECT id FROM job_batch WHERE id = $1 FOR UPDATE", (held,)
            )
            running = asyncio.create_task(batches.lane.run())
            batches.look_at([held, free])
            await ended(jobs, free)
            assert await is_open(jobs, held)
        await ended(jobs, held)
        running.cancel()
