"""The jobs behind exports: cancelled, failed, replaced or expired, and what they leave behind."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import asyncpg
import pytest

from app.business import export_file, exports
from app.core.config import Settings
from app.jobs import exports as tasks
from plinth.database.engine import Database
from plinth.errors import NotFoundError
from plinth.jobs import Discard, JobCancelled, JobContext, JobKind, LeaseLost, RetryPolicy, State
from plinth.jobs.engine.worker import Worker
from plinth.jobs.schedules import schedules
from plinth.testing import Jobs, until
from tests.support.transaction_pooler import transaction_pooler

ITEMS = 40
DAY = timedelta(days=1)

Export = dict[str, Any]
Happening = Callable[[], Awaitable[Any]]


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(REDIS_URL=None, JOBS_POLL_INTERVAL=0.05, JOBS_SESSION_TIMEOUT=2, JOBS_SHUTDOWN_GRACE=6)


@pytest.fixture
async def _items(sql: asyncpg.Connection) -> None:
    await sql.execute(
        "INSERT INTO item (owner, name, tags) SELECT 'alice', 'item ' || n, ARRAY['t'] FROM generate_series(1, $1) n",
        ITEMS,
    )


@pytest.fixture
async def export(database: Database, _items: None, monkeypatch: pytest.MonkeyPatch) -> Export:
    """An export of forty items that was asked for. Its file has many chunks."""
    monkeypatch.setattr(export_file, "CHUNK_BYTES", 500)
    monkeypatch.setattr(exports, "BATCH_ITEMS", 3)
    return await requested(database)


async def requested(database: Database, owner: str = "alice") -> Export:
    async with database.session() as session:
        return await exports.request_export(session, owner, format="ndjson", tag=None, keep=DAY)


class Builds(list[JobContext]):
    """Makes exports as `app.jobs` does, and keeps the context of each run. Tries again at once."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[type[BaseException]] = []

    @property
    def kind(self) -> JobKind[exports.ExportBuild]:
        return replace(tasks.build, function=self._run, retry=RetryPolicy(base=0.01, ceiling=0.01))

    async def _run(self, ctx: JobContext, payload: exports.ExportBuild) -> None:
        self.append(ctx)
        try:
            await tasks.build(ctx, payload)
        except BaseException as error:
            self.failures.append(type(error))
            raise

    async def failed(self) -> bool:
        return bool(self.failures)


@asynccontextmanager
async def working(settings: Settings, *kinds: JobKind[Any]) -> AsyncIterator[None]:
    """A worker with one slot, for as long as the block lasts."""
    worker = Worker(settings, concurrency=1, registered={kind.name: kind for kind in kinds})
    running = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        worker.stop()
        await running


async def status_of(database: Database, export: Export) -> Export:
    async with database.connection() as connection:
        return await exports.get_export(connection, "alice", export["id"])


async def end_of(database: Database, export: Export) -> Export:
    """The export when its job has ended."""

    async def ended() -> Export | None:
        found = await status_of(database, export)
        return None if found["status"] in ("pending", "running") else found

    ended_export: Export = await until(ended)
    return ended_export


async def content_of(database: Database, export: Export) -> bytes:
    pieces = await exports.read_content(database, export["id"], run=export["run"], start=0, stop=export["size"])
    return b"".join([piece async for piece in pieces])


async def assert_whole(database: Database, export: Export) -> None:
    """It is ready, and its file is whole."""
    assert export["status"] == "ready"
    content = await content_of(database, export)
    names = [json.loads(line)["name"] for line in content.splitlines()]
    assert sorted(names) == sorted(f"item {n}" for n in range(1, ITEMS + 1))
    assert (export["item_count"], export["size"]) == (ITEMS, len(content))
    assert export["digest"] == sha256(content).hexdigest()


async def runs_with_chunks(sql: asyncpg.Connection, export: Export) -> set[int]:
    return {row["run"] for row in await sql.fetch("SELECT run FROM export_chunk WHERE export_id = $1", export["id"])}


@pytest.fixture
def before_chunk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Happening], None]:
    """Have something happen in the first run, right before it writes a chunk (0 is its first)."""

    def arrange(number: int, happens: Happening) -> None:
        write, left = exports._write_chunk, [number]

        async def write_chunk(database: Database, export_id: UUID, run: int, chunk: export_file.Chunk) -> None:
            if run == 1:
                left[0] -= 1
                if left[0] == -1:
                    await happens()
            await write(database, export_id, run, chunk)

        monkeypatch.setattr(exports, "_write_chunk", write_chunk)

    return arrange


async def take_away(sql: asyncpg.Connection, export: Export) -> None:
    """What the reaper does with a run whose worker is lost."""
    await sql.execute(
        "UPDATE job SET state = 'available', session_id = NULL, deadline_at = NULL, run_lease = run_lease + 1, "
        "attempt = attempt - 1, crash_count = crash_count + 1 WHERE id = $1",
        export["job_id"],
    )


class TestBuild:
    async def test_build_reports_progress(
        self, settings: Settings, database: Database, export: Export, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = []
        monkeypatch.setattr(JobContext, "progress", lambda self, done, total, message: told.append((done, total)))
        async with working(settings, Builds().kind):
            await end_of(database, export)

        assert told == [(done, ITEMS) for done in (*range(0, ITEMS, 3), ITEMS)]

    async def test_export_is_a_snapshot_of_the_items(
        self,
        settings: Settings,
        database: Database,
        sql: asyncpg.Connection,
        export: Export,
        before_chunk: Callable[[int, Happening], None],
    ) -> None:
        async def change_everything() -> None:
            await sql.execute("UPDATE item SET name = 'changed' WHERE name LIKE '%1'")
            await sql.execute("DELETE FROM item WHERE name LIKE '%2'")
            await sql.execute("INSERT INTO item (owner, name) SELECT 'alice', 'new' FROM generate_series(1, 9)")

        before_chunk(2, change_everything)
        async with working(settings, Builds().kind):
            ready = await end_of(database, export)

        await assert_whole(database, ready)

    async def test_item_count_is_of_the_same_snapshot(
        self, database: Database, sql: asyncpg.Connection, export: Export
    ) -> None:
        async with exports._snapshot(database) as connection:
            before = await connection.fetchval("SELECT count(*) FROM item")
            await sql.execute("DELETE FROM item")
            assert await connection.fetchval("SELECT count(*) FROM item") == before == ITEMS

    async def test_retention_of_a_file_begins_when_it_is_ready(
        self, settings: Settings, database: Database, sql: asyncpg.Connection, export: Export
    ) -> None:
        await sql.execute("UPDATE export SET expires_at = now() + interval '1 minute'")
        async with working(settings, Builds().kind):
            ready = await end_of(database, export)

        assert ready["expires_at"] - ready["ready_at"] == timedelta(days=settings.EXPORTS_KEEP_DAYS)


class TestCancel:
    async def test_cancelled_build_stops_at_the_next_chunk(
        self,
        settings: Settings,
        database: Database,
        sql: asyncpg.Connection,
        export: Export,
        before_chunk: Callable[[int, Happening], None],
    ) -> None:
        builds = Builds()

        async def told() -> bool:
            return builds[0].cancelled

        async def cancel() -> None:
            await sql.execute("UPDATE job SET cancel_requested_at = now() WHERE id = $1", export["job_id"])
            await until(told)

        before_chunk(2, cancel)
        async with working(settings, builds.kind):
            ended = await end_of(database, export)

        assert (ended["status"], ended["run"], ended["ready_at"]) == ("cancelled", None, None)
        assert builds.failures == [JobCancelled]
        # It stopped at once: the third chunk was its last.
        assert await sql.fetchval("SELECT count(*) FROM export_chunk") <= 4


class TestFailedRun:
    async def test_run_after_a_failure_starts_over(
        self,
        settings: Settings,
        database: Database,
        sql: asyncpg.Connection,
        export: Export,
        before_chunk: Callable[[int, Happening], None],
    ) -> None:
        async def crash() -> None:
            assert await runs_with_chunks(sql, export) == {1}
            raise ZeroDivisionError

        before_chunk(3, crash)
        builds = Builds()
        async with working(settings, builds.kind):
            ready = await end_of(database, export)

        assert [ctx.run for ctx in builds] == [1, 2]
        assert builds.failures == [ZeroDivisionError]
        await assert_whole(database, ready)
        assert ready["run"] == 2
        assert await runs_with_chunks(sql, export) == {2}


class TestReplacedRun:
    @pytest.fixture(autouse=True)
    def _tells_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run that writes down its progress may hear that way, and early, that it was replaced."""
        monkeypatch.setattr(JobContext, "progress", lambda *arguments: None)

    @pytest.fixture
    async def second_run(
        self, settings: Settings, database: Database, sql: asyncpg.Connection, export: Export
    ) -> Happening:
        """The export's job is taken away from its run, and another worker does it."""

        async def happens() -> None:
            await take_away(sql, export)
            async with working(settings, Builds().kind):
                await end_of(database, export)

        return happens

    async def assert_it_did_no_harm(
        self, database: Database, sql: asyncpg.Connection, export: Export, builds: Builds
    ) -> None:
        assert builds.failures == [LeaseLost]
        ready = await end_of(database, export)
        assert ready["run"] == 3  # taken away, and taken up
        await assert_whole(database, ready)
        assert await runs_with_chunks(sql, export) == {3}
        assert await sql.fetchval("SELECT count(*) FROM job_history WHERE state = 'succeeded'") == 1

    async def test_replaced_run_cannot_write_chunks(
        self,
        settings: Settings,
        database: Database,
        sql: asyncpg.Connection,
        export: Export,
        second_run: Happening,
        before_chunk: Callable[[int, Happening], None],
    ) -> None:
        builds = Builds()
        before_chunk(3, second_run)
        async with working(settings, builds.kind):
            await until(builds.failed)

        await self.assert_it_did_no_harm(database, sql, export, builds)

    async def test_replaced_run_cannot_publish_its_file(
        self,
        settings: Settings,
        database: Database,
        sql: asyncpg.Connection,
        export: Export,
        second_run: Happening,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        publish = exports.publish

        async def publish_late(*arguments: Any, run: int, keep: timedelta) -> None:
            if run == 1:
                await second_run()
            await publish(*arguments, run=run, keep=keep)

        monkeypatch.setattr(exports, "publish", publish_late)
        builds = Builds()
        async with working(settings, builds.kind):
            await until(builds.failed)

        await self.assert_it_did_no_harm(database, sql, export, builds)

    async def test_replaced_run_raises_lease_lost(
        self, database: Database, sql: asyncpg.Connection, export: Export
    ) -> None:
        await sql.execute("UPDATE job SET run_lease = 2")

        with pytest.raises(LeaseLost):
            await exports.write_file(database, export["id"], run=1, report=lambda done, total: None)
        assert await runs_with_chunks(sql, export) == set()

    async def test_replaced_run_does_not_delete_chunks_of_later_runs(
        self, database: Database, sql: asyncpg.Connection, export: Export
    ) -> None:
        await sql.execute("UPDATE job SET run_lease = 2")
        await exports.write_file(database, export["id"], run=2, report=lambda done, total: None)

        with pytest.raises(LeaseLost):
            await exports.write_file(database, export["id"], run=1, report=lambda done, total: None)
        assert await runs_with_chunks(sql, export) == {2}


class TestExpiredExport:
    @pytest.mark.parametrize("how", ["DELETE FROM export", "UPDATE export SET expires_at = now()"])
    async def test_expired_export_is_not_built(
        self, settings: Settings, database: Database, sql: asyncpg.Connection, export: Export, how: str
    ) -> None:
        await sql.execute(how)
        builds = Builds()
        async with working(settings, builds.kind):
            ended = await until(lambda: sql.fetchrow("SELECT state, errors FROM job_history"))

        assert ended["state"] == "discarded"
        (error,) = json.loads(ended["errors"])
        assert error["error"] == "The export has expired before it was ready."
        assert await sql.fetchval("SELECT count(*) FROM export_chunk") == 0

    async def test_build_ends_when_its_export_is_deleted(
        self,
        database: Database,
        sql: asyncpg.Connection,
        export: Export,
        before_chunk: Callable[[int, Happening], None],
    ) -> None:
        await sql.execute("UPDATE job SET run_lease = 1")
        before_chunk(3, lambda: sql.execute("DELETE FROM export"))

        with pytest.raises(Discard):
            await exports.write_file(database, export["id"], run=1, report=lambda done, total: None)

    async def test_expired_export_is_not_published(
        self, database: Database, sql: asyncpg.Connection, export: Export
    ) -> None:
        await sql.execute("UPDATE job SET run_lease = 1")
        file = await exports.write_file(database, export["id"], run=1, report=lambda done, total: None)
        await sql.execute("UPDATE export SET expires_at = now()")

        with pytest.raises(Discard):
            async with database.session() as session:
                await exports.publish(session, export["id"], file, run=1, keep=DAY)
        assert await sql.fetchval("SELECT ready_at FROM export") is None

    async def test_reading_an_export_that_is_deleted_meanwhile_is_an_error(
        self, settings: Settings, database: Database, sql: asyncpg.Connection, export: Export
    ) -> None:
        async with working(settings, Builds().kind):
            ready = await end_of(database, export)
        pieces = await exports.read_content(database, ready["id"], run=ready["run"], start=0, stop=ready["size"])

        assert len(await anext(pieces)) == 500
        await sql.execute("DELETE FROM export")
        with pytest.raises(NotFoundError):
            await anext(pieces)


class TestExpiryJob:
    async def test_expiry_job_deletes_expired_exports_only(
        self, jobs: Jobs, database: Database, sql: asyncpg.Connection, export: Export
    ) -> None:
        old = [await requested(database, f"owner {number}") for number in range(2 * exports.BATCH_EXPORTS + 1)]
        await sql.execute(
            "UPDATE job SET run_lease = 1 WHERE id = ANY ($1::uuid[])", [export["job_id"], old[0]["job_id"]]
        )
        for written in (export, old[0]):
            await exports.write_file(database, written["id"], run=1, report=lambda done, total: None)
        await sql.execute("UPDATE export SET expires_at = now() WHERE id <> $1", export["id"])

        assert (await jobs.perform(tasks.expire, tasks.Expiry())).state is State.SUCCEEDED

        assert [row["id"] for row in await sql.fetch("SELECT id FROM export")] == [export["id"]]
        assert await runs_with_chunks(sql, export) == {1}
        assert await runs_with_chunks(sql, old[0]) == set()

    async def test_expiry_job_skips_locked_exports(
        self, database: Database, sql: asyncpg.Connection, export: Export
    ) -> None:
        await sql.execute("UPDATE export SET expires_at = now()")
        async with sql.transaction():
            await sql.execute("SELECT FROM export FOR UPDATE")
            assert await exports.delete_expired_exports(database) == 0
        assert await exports.delete_expired_exports(database) == 1

    def test_expiry_job_is_scheduled_every_ten_minutes(self) -> None:
        made = schedules()["exports.expire"]
        assert (made.kind, made.cron) == (tasks.expire, "*/10 * * * *")


async def test_export_is_built_through_a_transaction_pooler(
    make_settings: Callable[..., Settings],
    database_url: str,
    sql: asyncpg.Connection,
    export: Export,
    tmp_path: Path,
) -> None:
    parts = urlsplit(database_url)
    server = Path(parse_qs(parts.query)["host"][0]) / ".s.PGSQL.5432"
    await sql.execute("UPDATE job SET run_lease = 1")
    async with transaction_pooler(server, tmp_path) as folder:
        url = f"postgresql://{parts.username}@{parts.path}?host={folder}"
        pooled = Database(make_settings(DATABASE_URL=url, DB_TRANSACTION_POOLER=True))
        file = await exports.write_file(pooled, export["id"], run=1, report=lambda done, total: None)
        async with pooled.session() as session:
            await exports.publish(session, export["id"], file, run=1, keep=DAY)
        await assert_whole(pooled, await status_of(pooled, export))
        await pooled.aclose()


async def test_chunks_are_stored_compressed(database: Database, sql: asyncpg.Connection, export: Export) -> None:
    await sql.execute("UPDATE job SET run_lease = 1")
    file = await exports.write_file(database, export["id"], run=1, report=lambda done, total: None)

    rows = await sql.fetch("SELECT start, size, data FROM export_chunk ORDER BY start")
    assert b"".join(zlib.decompress(row["data"]) for row in rows).count(b"\n") == ITEMS
    assert sum(len(row["data"]) for row in rows) < file.size / 2
