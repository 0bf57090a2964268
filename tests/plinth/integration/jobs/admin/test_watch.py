"""One query for all watchers of a process, and none without watchers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.errors import ConcurrencyLimitError, ServiceUnavailableError
from plinth.jobs import JobContext, State, enqueue_many, job
from plinth.jobs.admin import watch
from plinth.jobs.admin.jobs import JobView, get_job
from plinth.jobs.admin.watch import JobWatch, Watcher
from plinth.jobs.kinds import JobKind
from tests.plinth.integration.jobs.conftest import PATIENCE, Jobs, Number, open_store, until


class CountingWatch(JobWatch):
    """Notes what it looks for; `failing` says how often it has to fail first."""

    failing = 0

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.looks: list[set[UUID]] = []

    async def _look(self, ids: Sequence[UUID]) -> dict[UUID, JobView]:
        self.looks.append(set(ids))
        if len(self.looks) <= self.failing:
            raise DatabaseUnavailableError
        return await super()._look(ids)


@pytest.fixture
async def job_watch(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CountingWatch]:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.05)
    job_watch = CountingWatch(database)
    yield job_watch
    await job_watch.aclose()


@pytest.fixture
def task() -> JobKind[Number]:
    @job("test.watched")
    async def task(ctx: JobContext, payload: Number) -> None:
        pass

    return task


@pytest.fixture
async def snapshots(database: Database, task: JobKind[Number]) -> list[JobView]:
    """Three jobs that wait."""
    async with database.session() as session:
        made = await enqueue_many(session, task, [Number()] * 3)
        return [(await get_job(session, one.id)).summary() for one in made]


async def next_of(watcher: Watcher) -> JobView | None:
    async with asyncio.timeout(PATIENCE):
        return await watcher.next()


async def test_all_watchers_share_one_query(
    job_watch: CountingWatch, database: Database, task: JobKind[Number], snapshots: list[JobView]
) -> None:
    await (await open_store(database)).claim(["default"], {task.name: task}, 3)

    async def one(number: int, snapshot: JobView) -> tuple[JobView | None, int]:
        with job_watch.watching(snapshot, f"caller {number}") as watcher:
            return await next_of(watcher), len(job_watch.looks)

    told = await asyncio.gather(*(one(*each) for each in enumerate(snapshots * 20)))

    assert [snapshot.id for snapshot, _ in told if snapshot] == [snapshot.id for snapshot in snapshots * 20]
    assert {snapshot.state for snapshot, _ in told if snapshot} == {State.RUNNING}
    assert {looks for _, looks in told} == {1}
    assert job_watch.looks[0] == {snapshot.id for snapshot in snapshots}


async def test_watcher_is_told_only_of_changes(job_watch: CountingWatch, jobs: Jobs, snapshots: list[JobView]) -> None:
    with job_watch.watching(snapshots[0], "alice") as watcher:
        waiting = asyncio.create_task(watcher.next())

        async def looked() -> bool:
            return len(job_watch.looks) > 2

        await until(looked)
        assert not waiting.done()
        await jobs.all('UPDATE job SET progress_done = 7, errors = \'[{"error": "no"}]\'')
        async with asyncio.timeout(PATIENCE):
            told = await waiting
    assert told is not None
    assert told.progress is not None
    assert (told.progress.done, told.error) == (7, "no")


async def test_no_query_is_made_without_watchers(job_watch: CountingWatch, snapshots: list[JobView]) -> None:
    with job_watch.watching(snapshots[0], "alice"):
        pass
    polling = job_watch._polling
    assert polling is not None
    async with asyncio.timeout(PATIENCE):
        await polling
    assert job_watch.looks == []
    assert not job_watch._watchers
    with job_watch.watching(snapshots[0], "alice"):
        assert job_watch._polling is not polling


async def test_deleting_a_job_ends_its_watch(job_watch: CountingWatch, jobs: Jobs, snapshots: list[JobView]) -> None:
    with job_watch.watching(snapshots[0], "alice") as watcher:
        await jobs.all("DELETE FROM job")
        assert await next_of(watcher) is None


async def test_watch_survives_an_outage_of_the_database(
    job_watch: CountingWatch, jobs: Jobs, snapshots: list[JobView]
) -> None:
    job_watch.failing = 3
    await jobs.all("UPDATE job SET progress_done = 7")
    with capture_logs() as logs, job_watch.watching(snapshots[0], "alice") as watcher:
        assert await next_of(watcher) is not None
    assert [line["event"] for line in logs] == ["the database is away: jobs cannot be watched"]


async def test_number_of_watchers_is_limited(
    job_watch: CountingWatch, snapshots: list[JobView], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MAX_WATCHERS", 2)
    with job_watch.watching(snapshots[0], "alice"):
        with job_watch.watching(snapshots[0], "alice"), pytest.raises(ServiceUnavailableError):
            job_watch.watching(snapshots[1], "alice").__enter__()
        with job_watch.watching(snapshots[1], "alice"):
            pass


async def test_number_of_watchers_of_one_caller_is_limited(
    job_watch: CountingWatch, snapshots: list[JobView], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MAX_WATCHERS_EACH", 1)
    with job_watch.watching(snapshots[0], "alice"):
        with pytest.raises(ConcurrencyLimitError):
            job_watch.watching(snapshots[1], "alice").__enter__()
        with job_watch.watching(snapshots[0], "bob"):
            pass
    with job_watch.watching(snapshots[1], "alice"):
        pass


async def test_stopping_ends_every_watch_at_once(job_watch: CountingWatch, snapshots: list[JobView]) -> None:
    with job_watch.watching(snapshots[0], "alice") as one, job_watch.watching(snapshots[1], "alice") as two:
        job_watch.stop()
        job_watch.stop()
        assert [await next_of(one), await next_of(two)] == [None, None]
        with job_watch.watching(snapshots[2], "alice") as late:
            assert await next_of(late) is None
