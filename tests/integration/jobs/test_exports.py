"""The jobs behind exports: cancelled, failed, replaced or expired, and what they leave behind."""

import asyncio
import json
import os
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, AsyncMock
from urllib.parse import parse_qs, urlsplit

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
PART = 6
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
    """An export of forty items that was asked for. Its file has parts of six items, each of some chunks."""
    monkeypatch.setattr(export_file, "CHUNK_BYTES", 500)
    monkeypatch.setattr(exports, "BATCH_ITEMS", 3)
    monkeypatch.setattr(exports, "PART_ITEMS", PART)
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
    # A process of its own would not be in the session of another run.
    running = asyncio.create_task(worker.run(), context=Context())
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


class Parts(list[int]):
    """The parts that are written: each by the number of items before it. Something may happen before one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.happenings: dict[int, Happening] = {}

    def before(self, number: int, happens: Happening) -> None:
        """Have something happen, once, right before a part is written (0 is the first)."""
        self.happenings[number] = happens

    def by_number(self) -> list[int]:
        return [item_count // PART for item_count in self]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    write, parts = exports.write_part, Parts()

    @wraps(write)
    async def write_part(*arguments: Any) -> exports.Written:
        written: exports.Written = arguments[-1]
        parts.append(written.item_count)
        if happens := parts.happenings.pop(written.item_count // PART, None):
            await happens()
        return await write(*arguments)

    monkeypatch.setattr(exports, "write_part", write_part)
    return parts


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

        assert told == [(done, ITEMS) for done in (*range(0, ITEMS, PART), ITEMS)]

    async def test_export_has_the_items_that_are_there_from_its_begin_to_its_end(
        self,
        settings: Settings,
        database: Database,
        sql: asyncpg.Connection,
        export: Export,
        parts: Parts,
    ) -> None:
        names = [row["name"] for row in await sql.fetch("SELECT name FROM item ORDER BY created_at, id")]

        async def change_everything() -> None:
            await sql.execute("UPDATE item SET name = 'changed' WHERE name LIKE '%1'")
            await sql.execute("DELETE FROM item WHERE name LIKE '%2'")
            await sql.execute("INSERT INTO item (owner, name) SELECT 'alice', 'new' FROM generate_series(1, 9)")

        parts.before(2, change_everything)
        async with working(settings, Builds().kind):
            ready = await end_of(database, export)

        content = await content_of(database, ready)
        later = ["changed" if name.endswith("1") else name for name in names[12:] if not name.endswith("2")]
        assert [json.loads(line)["name"] for line in content.splitlines()] == names[:12] + later
        assert ready["item_count"] == 12 + len(later)

    async def test_large_export_has_larger_parts(
        self,
        settings: Settings,
        database: Database,
        export: Export,
        parts: Parts,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A job has a thousand steps at most."""
        monkeypatch.setattr(exports, "PART_ITEMS", 3)
        monkeypatch.setattr(exports, "MAX_PARTS", 4)
        async with working(settings, Builds().kind):
            ready = await end_of(database, export)

        await assert_whole(database, ready)
        assert parts == [0, 12, 24, 36]

    async def test_retention_of_a_file_begins_when_it_is_ready(
        self, settings: Settings, database: Database, sql: asyncpg.Connection, export: Export
    ) -> None:
        await sql.execute("UPDATE export SET expires_at = now() + interval '1 minute'")
        async with working(settings, Builds().kind):
            ready = await end_of(database, export)

        assert ready["expires_at"] - ready["ready_at"] == timedelta(days=settings.EXPORTS_KEEP_DAYS)


class TestCancel:
    async def test_cancelled_build_stops_at_the_next_part(
        self,
        settings: Settings,
        database: Database,
        sql: asyncpg.Connection,
        export: Export,
        parts: Parts,
    ) -> None:
        builds = Builds()

        async def told() -> bool:
            return builds[0].cancelled

        async def cancel() -> None:
            await sql.execute("UPDATE job SET cancel_requested_at = now() WHERE id = $1", export["job_id"])
            await until(told)

        parts.before(2, cancel)
        async with working(settings, builds.kind):
            ended = await end_of(database, export)

        assert (ended["status"], ended["run"], ended["ready_at"]) == ("cancelled", None, None)
        assert builds.failures == [JobCancelled]
        assert parts.by_number() == [0, 1, 2]


class TestNextRun:
    async def test_run_after_a_failure_goes_on_behind_the_last_part(
        self,
        settings: Settings,
        database: Database,
        sql: asyncpg.Connection,
        export: Export,
        parts: Parts,
    ) -> None:
        async def fail() -> None:
            raise ZeroDivisionError

        parts.before(3, fail)
        builds = Builds()
        async with working(settings, builds.kind):
            ready = await end_of(database, export)

        assert [ctx.run for ctx in builds] == [1, 2]
        assert builds.failures == [ZeroDivisionError]
        assert parts.by_number() == [0, 1, 2, 3, 3, 4, 5, 6]
        await assert_whole(database, ready)
        assert ready["run"] == 1
        assert await runs_with_chunks(sql, export) == {1}

    async def test_run_after_a_failure_at_the_end_writes_nothing_again(
        self, settings: Settings, database: Database, export: Export, parts: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish = AsyncMock(side_effect=[ZeroDivisionError, DEFAULT], wraps=exports.publish)
        digest = AsyncMock(wraps=exports.digest_of)
        monkeypatch.setattr(exports, "publish", publish)
        monkeypatch.setattr(exports, "digest_of", digest)
        async with working(settings, Builds().kind):
            ready = await end_of(database, export)

        await assert_whole(database, ready)
        assert parts.by_number() == [0, 1, 2, 3, 4, 5, 6]
        assert (publish.await_count, digest.await_count) == (2, 1)

    async def test_run_after_a_killed_worker_goes_on_behind_the_last_part(
        self,
        settings: Settings,
        database: Database,
        database_url: str,
        sql: asyncpg.Connection,
        parts: Parts,
    ) -> None:
        """A worker as it runs in a pod, with parts of their real size."""
        await sql.execute("INSERT INTO item (owner, name) SELECT 'alice', n::text FROM generate_series(1, 5000) n")
        await sql.execute(
            """
            CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END $$;
            CREATE TRIGGER slow BEFORE INSERT ON export_chunk FOR EACH ROW EXECUTE FUNCTION wait();
            """
        )
        export = await requested(database)
        environment = {"ENVIRONMENT": "test", "DATABASE_URL": database_url, "METRICS_PORT": "0"}
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "plinth.cli", "worker"),
            env=os.environ | environment | {"JOBS_POLL_INTERVAL": "0.1", "JOBS_SESSION_TIMEOUT": "2"},
            stdout=asyncio.subprocess.DEVNULL,
        )

        async def written() -> bool:
            return bool(await sql.fetchval("SELECT count(*) >= 2 FROM export_chunk"))

        try:
            await until(written)
        finally:
            worker.kill()
            await worker.wait()
            await sql.execute("DROP FUNCTION wait CASCADE")
        async with working(settings, Builds().kind):
            ready = await end_of(database, export)

        assert ready["status"] == "ready"
        assert min(parts) >= 2000
        content = await content_of(database, ready)
        assert len({json.loads(line)["name"] for line in content.splitlines()}) == content.count(b"\n") == 5000
        assert ready["digest"] == sha256(content).hexdigest()


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
        await assert_whole(database, ready)
        assert await runs_with_chunks(sql, export) == {1}
        assert await sql.fetchval("SELECT count(*) FROM job_history WHERE state = 'succeeded'") == 1

    async def test_replaced_run_cannot_write_its_part(
        self,
        settings: Settings,
        database: Database,
        sql: asyncpg.Connection,
        export: Export,
        second_run: Happening,
        parts: Parts,
    ) -> None:
        builds = Builds()
        parts.before(3, second_run)
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

        async def publish_late(*arguments: Any, **options: Any) -> None:
            monkeypatch.setattr(exports, "publish", publish)
            await second_run()
            await publish(*arguments, **options)

        monkeypatch.setattr(exports, "publish", publish_late)
        builds = Builds()
        async with working(settings, builds.kind):
            await until(builds.failed)

        await self.assert_it_did_no_harm(database, sql, export, builds)


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

    @pytest.mark.parametrize("step", ["write_part", "digest_of", "publish"])
    async def test_build_ends_when_its_export_expires(
        self,
        settings: Settings,
        database: Database,
        sql: asyncpg.Connection,
        export: Export,
        step: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        function = getattr(exports, step)

        @wraps(function)
        async def expired(*arguments: Any, **options: Any) -> Any:
            await sql.execute("DELETE FROM export")
            return await function(*arguments, **options)

        monkeypatch.setattr(exports, step, expired)
        builds = Builds()
        async with working(settings, builds.kind):
            await until(builds.failed)

        assert builds.failures == [Discard]

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
        await sql.execute("INSERT INTO item (owner, name) VALUES ('owner 0', 'old')")
        await jobs.run_due()
        assert await runs_with_chunks(sql, old[0]) == {1}
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
    async with transaction_pooler(server, tmp_path) as folder:
        url = f"postgresql://{parts.username}@{parts.path}?host={folder}"
        settings = make_settings(DATABASE_URL=url, DB_TRANSACTION_POOLER=True)
        pooled = Database(settings)
        await Jobs(pooled, settings).run_due()
        await assert_whole(pooled, await status_of(pooled, export))
        await pooled.aclose()


async def test_chunks_are_stored_compressed(jobs: Jobs, sql: asyncpg.Connection, export: Export) -> None:
    await jobs.run_due()

    rows = await sql.fetch("SELECT start, size, data FROM export_chunk ORDER BY start")
    assert b"".join(zlib.decompress(row["data"]) for row in rows).count(b"\n") == ITEMS
    assert sum(len(row["data"]) for row in rows) < sum(row["size"] for row in rows) / 2
