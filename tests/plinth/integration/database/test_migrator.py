"""Migrations as deployments run them."""

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, event
from structlog.testing import capture_logs

from notes.config import Settings
from plinth.database import migrator as migrations
from plinth.database.engine import Database
from plinth.database.migrator import MigrationError, Migrator, wait_until_migrated
from plinth.database.tables import PlatformTable
from plinth.testing.servers import superuser_url
from tests.support.forked import run_module
from tests.support.notes import FOLDER

PLATFORM_TABLES = {
    *("job", "job_history", "job_queue", "job_schedule", "worker_session", "duty"),
    *("idempotency_record", "first_issuer", "audit_record", "api_key", "job_step", "job_event", "job_start"),
    *("job_key_hold", "job_batch"),
}
# What indexes there are, and whether they are good.
SCHEMA = """
SELECT string_agg(pg_get_indexdef(indexrelid) || indisvalid, '\n' ORDER BY indexrelid::regclass::text)
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace = 'public'::regnamespace
"""
ENDED = """
(kind, queue, priority, payload, max_attempts, run_at, state, finished_at)
VALUES ('test', 'default', 0, '{}', 1, now(), 'succeeded', now())
"""
AHEAD = "UPDATE alembic_version SET version_num = version_num || '_from_the_future'"


@contextmanager
def logged() -> Iterator[list[str]]:
    events: list[str] = []
    with capture_logs() as entries:
        yield events
    events.extend(entry["event"] for entry in entries)


def migrator(url: str, **options: float) -> Migrator:
    return Migrator(Settings.isolated(DATABASE_URL=url), **options)


async def tables(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    return {row["tablename"] for row in rows}


async def fetch(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    found = await connection.fetchval(sql)
    await connection.close()
    return found


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(sql)
    await connection.close()


class TestUpgrade:
    async def test_upgrade_migrates_an_empty_database_to_the_head(self, empty_database_url: str) -> None:
        assert await migrator(empty_database_url).pending() != []
        await migrator(empty_database_url).upgrade()
        assert {"note", "idempotency_record"} <= await tables(empty_database_url)
        assert await migrator(empty_database_url).pending() == []

    async def test_head_means_the_newest_revisions_of_both_branches(self, empty_database_url: str) -> None:
        await migrator(empty_database_url).upgrade("head")
        assert await migrator(empty_database_url).pending() == []

    def test_alembic_check_finds_no_difference_between_models_and_migrations(self, fresh_database_url: str) -> None:
        # In a process of its own: SQLModel has one metadata for the models of every service in a process.
        environment = {**os.environ, "DATABASE_URL": fresh_database_url}
        done = run_module("alembic", "check", folder=FOLDER, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr

    async def test_platform_models_equal_the_migrated_tables(self, fresh_database_url: str) -> None:
        database = Database(Settings.isolated(DATABASE_URL=fresh_database_url))

        def differences(connection: Connection) -> list[object]:
            known = PlatformTable.metadata.tables
            options = {"include_name": lambda name, kind, _: kind != "table" or name in known}
            return list(compare_metadata(MigrationContext.configure(connection, opts=options), PlatformTable.metadata))

        async with database.engine.connect() as connection:
            assert await connection.run_sync(differences) == []
        await database.aclose()
        assert PlatformTable.metadata.tables.keys() == PLATFORM_TABLES

    async def test_create_tables_makes_the_same_view_as_the_migrations(
        self, fresh_database_url: str, empty_database_url: str
    ) -> None:
        database = Database(Settings.isolated(DATABASE_URL=empty_database_url))
        for _ in range(2):
            await database.create_tables()
        await database.aclose()
        view = "SELECT pg_get_viewdef('job_status'::regclass)"
        assert await fetch(empty_database_url, view) == await fetch(fresh_database_url, view)

    async def test_downgrade_to_base_and_upgrade_again(self, fresh_database_url: str) -> None:
        await migrator(fresh_database_url).downgrade("base")
        assert await tables(fresh_database_url) == {"alembic_version", *PLATFORM_TABLES}
        await migrator(fresh_database_url).downgrade("plinth@base")
        assert await tables(fresh_database_url) == {"alembic_version"}
        await migrator(fresh_database_url).upgrade()
        assert "note" in await tables(fresh_database_url)

    @pytest.mark.slow
    async def test_revision_that_is_broken_off_is_begun_again(self, fresh_database_url: str) -> None:
        """After each statement; an index that it built is invalid then, as when a lock was not to be had."""
        seen, broken = 0, 0

        def break_off(connection: Connection, cursor: object, statement: str, *_: object) -> None:
            nonlocal seen
            seen += statement.startswith(("ALTER", "CREATE", "DROP", "\nCREATE"))
            if seen > broken and not broken_off:
                broken_off.append(statement)
                raise OSError("broken off")

        before = await fetch(fresh_database_url, SCHEMA)
        await execute(fresh_database_url, "INSERT INTO job_history " + ENDED)
        event.listen(Engine, "after_cursor_execute", break_off)
        try:
            broken_off: list[str] = ["downgrade"]
            while broken_off:
                broken += 1
                await migrator(fresh_database_url).downgrade("plinth_0007")
                seen, broken_off = 0, []
                with suppress(MigrationError, OSError):
                    await migrator(fresh_database_url).upgrade()
                if broken_off and (half_built := re.match(r"CREATE INDEX CONCURRENTLY.* (ix_\w+) ON", broken_off[0])):
                    bad = f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{half_built[1]}'::regclass"
                    await execute(superuser_url(fresh_database_url), bad)
                await migrator(fresh_database_url).upgrade()
                assert await fetch(fresh_database_url, SCHEMA) == before, broken_off
        finally:
            event.remove(Engine, "after_cursor_execute", break_off)
        assert broken > 20

    async def test_concurrent_migrators_apply_each_revision_once(self, empty_database_url: str) -> None:
        with capture_logs() as entries:
            await asyncio.gather(*(migrator(empty_database_url).upgrade() for _ in range(3)))
        applied = [entry["applied"] for entry in entries if entry["event"] == "migrated"]
        assert sorted(map(len, applied))[:2] == [0, 0]
        assert "note" in await tables(empty_database_url)


class TestDatabaseAhead:
    async def test_upgrade_succeeds_on_a_database_ahead_of_this_code(self, fresh_database_url: str) -> None:
        await execute(fresh_database_url, AHEAD)
        with logged() as events:
            await migrator(fresh_database_url).upgrade()
        assert events == ["the database is ahead of this code; nothing to do"]
        with logged():
            assert await migrator(fresh_database_url).pending() == []


class TestLocks:
    async def test_held_table_lock_is_requested_again(
        self, fresh_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(migrations, "POLL_SECONDS", 0.05)
        reader = await asyncpg.connect(fresh_database_url)
        transaction = reader.transaction()
        await transaction.start()
        await reader.fetch("SELECT * FROM note")

        with logged() as events:
            running = asyncio.create_task(migrator(fresh_database_url).downgrade("base"))
            await asyncio.sleep(0.5)
            # While it waits for the reader it holds up no other: it lets go of its place in the line.
            other = await asyncpg.connect(fresh_database_url)
            assert await other.fetch("SELECT * FROM note", timeout=8) == []
            await other.close()
            await transaction.rollback()
            await running
        assert "a lock was not to be had" in events
        assert events[-1] == "downgraded"
        await reader.close()

    async def test_no_request_fails_behind_a_migration_that_waits(self, fresh_database_url: str) -> None:
        """A job may hold a snapshot for seconds; requests have `DB_STATEMENT_TIMEOUT`, here the default."""
        reader = await asyncpg.connect(fresh_database_url)
        transaction = reader.transaction()
        await transaction.start()
        await reader.fetch("SELECT * FROM note")
        database = Database(Settings.isolated(DATABASE_URL=fresh_database_url))
        with logged() as events:
            running = asyncio.create_task(migrator(fresh_database_url).downgrade("base"))
            for _ in range(40):
                async with database.connection() as connection:
                    await connection.fetch("SELECT * FROM note")
                await asyncio.sleep(0.05)
            await transaction.rollback()
            await running
        assert "a lock was not to be had" in events
        await database.aclose()
        await reader.close()

    async def test_migration_gives_up_on_a_held_lock_and_names_the_cause(
        self, fresh_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(migrations, "LOCK_ATTEMPTS", 2)
        monkeypatch.setattr(migrations, "POLL_SECONDS", 0.01)
        reader = await asyncpg.connect(fresh_database_url)
        transaction = reader.transaction()
        await transaction.start()
        await reader.fetch("SELECT * FROM note")
        with logged(), pytest.raises(MigrationError, match="a long transaction holds it"):
            await migrator(fresh_database_url).downgrade("base")
        await transaction.rollback()
        await reader.close()
        assert "note" in await tables(fresh_database_url)


class TestWaiting:
    async def test_wait_for_the_database_times_out(self, tmp_path: object) -> None:
        with logged() as events, pytest.raises(MigrationError, match=r"does not answer: .*: so it has been for 0\.1 s"):
            await migrator(f"postgresql://plinth@/plinth?host={tmp_path}", wait_seconds=0.1).upgrade()
        assert events == ["waiting"]

    async def test_wait_for_another_migrator_times_out(self, fresh_database_url: str) -> None:
        other = await asyncpg.connect(fresh_database_url)
        await other.fetch(f"SELECT pg_advisory_lock({migrations.LOCK_KEY})")
        with pytest.raises(MigrationError, match="Another migration runs: so it has been for 0 s"):
            await migrator(fresh_database_url, wait_seconds=0).upgrade()
        await other.close()

    def test_migrator_refuses_a_transaction_pooler_and_names_the_setting(self) -> None:
        with pytest.raises(MigrationError, match="DB_TRANSACTION_POOLER=false"):
            Migrator(Settings.isolated(DB_TRANSACTION_POOLER=True))


class TestWaitUntilMigrated:
    async def wait(self, url: str, seconds: float = 20, **values: object) -> list[str]:
        with capture_logs() as entries:
            await wait_until_migrated(Settings.isolated(DATABASE_URL=url, **values), timeout=seconds)
        return [entry["because"] for entry in entries]

    async def test_migrated_database_needs_no_wait(self, fresh_database_url: str) -> None:
        assert await self.wait(fresh_database_url, seconds=0) == []

    async def test_database_ahead_of_this_code_needs_no_wait(self, fresh_database_url: str) -> None:
        await execute(fresh_database_url, AHEAD)
        assert await self.wait(fresh_database_url, seconds=0) == []

    async def test_wait_ends_when_all_migrations_are_applied(
        self, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(migrations, "POLL_SECONDS", 0.01)

        async def heard(missing: list[str]) -> None:
            line = {"event": "waiting", "because": f"The database lacks the migrations {', '.join(missing)}"}
            for _ in range(2000):
                if any(line.items() <= entry.items() for entry in entries):
                    return
                await asyncio.sleep(0.01)
            raise AssertionError(entries)

        first, *others = await migrator(empty_database_url).pending()
        with capture_logs() as entries:
            settings = Settings.isolated(DATABASE_URL=empty_database_url)
            waiting = asyncio.create_task(wait_until_migrated(settings, timeout=60))
            await heard([first, *others])
            await migrator(empty_database_url).upgrade(first)
            await heard(others)
            assert not waiting.done()
            await migrator(empty_database_url).upgrade()
            await waiting
        lines = [entry["because"] for entry in entries if entry["event"] == "waiting"]
        assert len(lines) == len(set(lines)) >= 2, "a line for each change"

    async def test_wait_works_through_a_transaction_pooler(self, fresh_database_url: str) -> None:
        assert await self.wait(fresh_database_url, seconds=0, DB_TRANSACTION_POOLER=True) == []

    async def test_wait_for_an_unreachable_database_times_out(self, tmp_path: object) -> None:
        with pytest.raises(MigrationError, match=r"its socket does not exist: so it has been for 0 s"):
            await self.wait(f"postgresql://plinth@/plinth?host={tmp_path}", seconds=0)

    async def test_wait_for_missing_migrations_times_out(self, empty_database_url: str) -> None:
        with pytest.raises(MigrationError, match="The database lacks the migrations "):
            await self.wait(empty_database_url, seconds=0)
