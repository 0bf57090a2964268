"""Migrations, as a deployment runs them: wait for the database, one migrator at a time, never hold up traffic.

A migration waits for a lock for less time than a request waits for an answer, and tries again: every query that arrives
behind a waiting `ALTER TABLE` waits with it. Each revision is a transaction of its own. A database that is ahead of
this code, in the platform's branch or in the service's, is a success: that is what a rollback looks like.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import structlog
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from plinth.database.encoding import encoding_problem
from plinth.database.errors import database_reason, is_conflict, known_reason, sqlstate
from plinth.database.hosts import connect
from plinth.database.revisions import PLATFORM, SERVICE, VERSIONS, Revisions, branch_of, read_revisions
from plinth.settings import PlatformSettings

__all__ = ["MigrationError", "Migrator", "merge_sentence", "migration_engine", "wait_until_migrated"]

log = structlog.get_logger("plinth.migrations")

# Any number will do that no other program uses as an advisory lock in the same database.
LOCK_KEY = 0x706C696E7468  # "plinth"
# About two minutes for a long transaction to end: longer between two attempts, so that queries rarely wait at all.
LOCK_ATTEMPTS = 30
LOCK_PAUSE_SECONDS = 5
POLL_SECONDS = 0.5
_LOCK_NOT_AVAILABLE = "55P03"
# A ValueError: a host name that no resolver takes, or what asyncpg finds in the environment.
_NO_CONNECTION = (OSError, ValueError, DBAPIError, asyncpg.PostgresError, asyncpg.InternalClientError)


def alembic_config(settings: PlatformSettings) -> Config:
    """Alembic's configuration for the service of `settings`. No alembic.ini is read."""
    config = Config()
    migrations = settings.service.migrations
    options = {
        "script_location": str(migrations),
        "version_locations": f"{VERSIONS}\n{migrations / 'versions'}",
        "path_separator": "newline",
    }
    for name, value in options.items():
        config.set_main_option(name, value.replace("%", "%%"))
    return config


class MigrationError(Exception):
    """The migrations cannot be applied; the message says why."""


def merge_sentence(heads: list[str]) -> str:
    """How to merge revisions that were made beside each other."""
    return (
        f"The service has {len(heads)} newest revisions. Merge them: alembic merge -m merge {' '.join(sorted(heads))}"
    )


def migration_engine(settings: PlatformSettings) -> AsyncEngine:
    """An engine for migrations: one connection at a time, and no limit for a statement.

    Raises:
        MigrationError: the settings lead through a transaction pooler, where session locks do not hold.
    """
    if settings.DB_TRANSACTION_POOLER:
        raise MigrationError(
            "Migrations need a connection of their own to PostgreSQL, and DB_TRANSACTION_POOLER is on. "
            "Run them with DATABASE_URL naming the server itself and DB_TRANSACTION_POOLER=false."
        )
    arguments = dict(settings.database_connect_args)
    arguments.pop("command_timeout", None)
    unlimited = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}
    arguments["server_settings"] = {
        **arguments.get("server_settings", {}),
        **unlimited,
        # Half of a request's time, so that queries that queue behind the migration's lock are still answered.
        "lock_timeout": f"{round(min(settings.DB_STATEMENT_TIMEOUT, settings.DB_POOL_TIMEOUT) * 500)}ms",
    }
    return _engine(settings, arguments)


def _engine(settings: PlatformSettings, arguments: dict[str, Any]) -> AsyncEngine:
    arguments = {**arguments, "async_creator_fn": connect}
    return create_async_engine(
        settings.async_database_url, connect_args=arguments, poolclass=NullPool, hide_parameters=True
    )


class Migrator:
    """Brings the database of `settings` to a revision of this code."""

    def __init__(self, settings: PlatformSettings, *, wait_seconds: float = 60) -> None:
        """`wait_seconds`: how long to wait for the database, and for another migrator to finish.

        Raises:
            MigrationError: the settings lead through a transaction pooler, the service's folder of migrations is not
                there, or its revisions must be merged.
        """
        self._engine = migration_engine(settings)
        self._wait_seconds = wait_seconds
        self._revisions = _revisions_of(settings)
        self._config = alembic_config(settings)
        self._config.attributes["issuer"] = settings.issuers[0]
        self._scripts = ScriptDirectory.from_config(self._config)
        self._running: str | None = None
        if len(heads := self._revisions.heads(SERVICE)) > 1:
            raise MigrationError(merge_sentence(heads))

    async def upgrade(self, to: str = "heads") -> None:
        """Apply what is missing up to the revision `to`; for one of the service's, all of the platform's as well.

        Raises:
            MigrationError: the database does not answer or is not in UTF-8, another migrator does not finish, locks are
                not to be had, or a revision fails.
        """
        if to == "head":  # with two branches Alembic calls it ambiguous
            to = "heads"
        async with self._alone() as connection:
            rows = await self._rows(connection)
            if (unknown := self._revisions.unknown(rows)) and not self._revisions.missing(rows):
                log.info("the database is ahead of this code; nothing to do", revision=unknown)
                return
            # The platform's first: the service's may need any of them.
            targets = [to] if to.startswith(PLATFORM) else [f"{PLATFORM}@head", to]
            applied: list[str] = []
            for target in targets:
                applied += await self._attempt(connection, partial(self._upgrade_steps, target))
            log.info("migrated", applied=applied)

    async def downgrade(self, to: str) -> None:
        """Take revisions back, to the revision `to`; errors as for `upgrade`.

        `-1` and `base` speak of the service's revisions. The platform's are `plinth@-1` and `plinth@base`.
        """
        async with self._alone() as connection:
            rows = await self._rows(connection)
            if unknown := self._revisions.unknown(rows):
                raise MigrationError(f"The database has {', '.join(unknown)}, which only later code can take back.")
            if to == "base" or to.startswith("-"):
                own = [row for row in rows if branch_of(row) == SERVICE]
                if not own:
                    raise MigrationError("No revision of the service is applied: there is nothing to take back.")
                to = f"{own[0]}@{to}"
            taken_back = await self._attempt(connection, partial(self._scripts._downgrade_revs, to))
            log.info("downgraded", to=to, taken_back=taken_back)

    async def pending(self) -> list[str]:
        """The revisions that the database lacks, oldest first. A branch that is ahead of this code lacks none."""
        async with self._connected() as connection:
            return self._revisions.missing(await self._rows(connection))

    async def _rows(self, connection: AsyncConnection) -> list[str]:
        rows = await connection.run_sync(_version_rows)
        await connection.rollback()
        return rows

    def _upgrade_steps(self, to: str, rows: tuple[str, ...]) -> list[RevisionStep]:
        known: Any = tuple(row for row in rows if row in self._revisions.parents)
        missing = self._revisions.missing(rows)
        return [step for step in self._scripts._upgrade_revs(to, known) if step.revision.revision in missing]

    async def _attempt(self, connection: AsyncConnection, plan: Callable[[Any], Iterable[RevisionStep]]) -> list[str]:
        """Run what `plan` makes of the version rows, again while locks are held; returns the revisions run."""
        done: list[str] = []

        def steps(rows: tuple[str, ...], _: MigrationContext) -> Iterator[RevisionStep]:
            self._running = None
            for step in plan(rows):
                self._running = step.revision.revision
                yield step
                done.append(self._running)

        def run(sync: Connection) -> None:
            self._config.attributes["connection"] = sync
            with EnvironmentContext(self._config, self._scripts, fn=steps):
                self._scripts.run_env()

        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                await connection.run_sync(run)
                await connection.commit()
                return done
            except Exception as error:
                await connection.rollback()
                if sqlstate(error) != _LOCK_NOT_AVAILABLE and not is_conflict(error):
                    log.debug("the migration failed", exc_info=True)
                    raise MigrationError(self._sentence(error)) from error
                log.warning("a lock was not to be had", attempt=attempt, of=LOCK_ATTEMPTS)
                await asyncio.sleep(min(POLL_SECONDS * attempt, LOCK_PAUSE_SECONDS))
        raise MigrationError(
            f"A lock was not to be had in {LOCK_ATTEMPTS} attempts: a long transaction holds it. "
            "What was applied so far stays; run the migration again."
        )

    def _sentence(self, error: Exception) -> str:
        """What failed, and what the database or Alembic said."""
        if isinstance(error, DBAPIError):
            cause = error.orig.__cause__ if error.orig is not None else None
            said = f"{getattr(cause, 'message', None) or error.orig} ({sqlstate(error) or type(error.orig).__name__})"
            if (why := known_reason(error)) is not None:
                said += f". {why}"
        elif isinstance(error, CommandError):
            said = str(error)
        else:
            said = f"{type(error).__name__}: {error}"
        said = " ".join(said.split()).rstrip(".")
        if self._running is None:
            return f"The migration cannot begin: {said}."
        file = Path(self._scripts.get_revision(self._running).path).name
        return f"The revision {self._running} ({file}) failed and left nothing behind: {said}."

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[AsyncConnection]:
        async def lock() -> str | None:
            taken = await connection.scalar(text(f"SELECT pg_try_advisory_lock({LOCK_KEY})"))
            await connection.rollback()  # the lock is the session's and stays
            return None if taken else "Another migration runs"

        async with self._connected() as connection:
            await _repeat(lock, self._wait_seconds)
            yield connection
            await connection.rollback()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        connection = self._engine.connect()

        async def connect() -> None:
            await connection

        try:
            await _repeat(connect, self._wait_seconds)
            try:
                if (problem := await connection.run_sync(encoding_problem)) is not None:
                    raise MigrationError(f"{problem}.")
                yield connection
            finally:
                await connection.close()
        finally:
            await self._engine.dispose()


def _revisions_of(settings: PlatformSettings) -> Revisions:
    # Without its folder the service would pass for one that has no revisions.
    if not (folder := settings.service.migrations).is_dir():
        raise MigrationError(f"There is no folder {folder}, which the service's declaration names as `migrations`.")
    return read_revisions(folder)


def _version_rows(connection: Connection) -> list[str]:
    return list(MigrationContext.configure(connection).get_current_heads())


async def wait_until_migrated(settings: PlatformSettings, *, timeout: float) -> None:  # noqa: ASYNC109 - it says more than that
    """Wait until the database of `settings` answers and has every revision of this code, or one of later code.

    Asks through whatever way the service itself takes, a transaction pooler too, on one connection at a time.

    Raises:
        MigrationError: it did not come so far within `timeout` seconds; the message says how far it came. Or the
            service's folder of migrations is not there.
    """
    revisions = _revisions_of(settings)
    engine = _engine(settings, settings.database_connect_args)

    async def check() -> str | None:
        async with engine.connect() as connection:
            if (problem := await connection.run_sync(encoding_problem)) is not None:
                return problem
            missing = revisions.missing(await connection.run_sync(_version_rows))
        return f"The database lacks the migrations {', '.join(missing)}" if missing else None

    try:
        await _repeat(check, timeout)
    finally:
        await engine.dispose()


async def _repeat(check: Callable[[], Awaitable[str | None]], seconds: float) -> None:
    """Call `check` until it finds no problem and the database answers.

    Raises MigrationError with the problem that there is after so many seconds.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    said = None
    while True:
        try:
            problem = await check()
        except _NO_CONNECTION as error:
            problem = database_reason(error)
        if problem is None:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise MigrationError(f"{problem}: so it has been for {seconds:g} s.")
        if problem != said:
            log.info("waiting", because=problem)
            said = problem
        await asyncio.sleep(POLL_SECONDS)
