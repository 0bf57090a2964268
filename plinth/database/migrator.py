"""Migrations, as a deployment runs them: wait for the database, one migrator at a time, never hold up traffic.

A migration waits for a lock for less time than a request waits for an answer, and tries again: every query that arrives
behind a waiting `ALTER TABLE` waits with it. Each revision is a transaction of its own. A database that is ahead of
this code is a success: that is what a rollback looks like.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from plinth.settings import PlatformSettings

__all__ = ["MigrationError", "Migrator", "migration_engine", "wait_until_migrated"]

log = structlog.get_logger("plinth.migrations")

# Any number will do that no other program uses as an advisory lock in the same database.
LOCK_KEY = 0x706C696E7468  # "plinth"
# About two minutes for a long transaction to end: longer between two attempts, so that queries rarely wait at all.
LOCK_ATTEMPTS = 30
LOCK_PAUSE_SECONDS = 5
POLL_SECONDS = 0.5
_LOCK_NOT_AVAILABLE = "55P03"


def alembic_config(settings: PlatformSettings) -> Config:
    """Alembic's configuration for the service of `settings`. No alembic.ini is read."""
    config = Config()
    config.set_main_option("script_location", str(settings.service.migrations).replace("%", "%%"))
    return config


class MigrationError(Exception):
    """The migrations cannot be applied; the message says why."""


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
        # Half of what a request has, so that those who wait behind this one get their answer still.
        "lock_timeout": f"{round(min(settings.DB_STATEMENT_TIMEOUT, settings.DB_POOL_TIMEOUT) * 500)}ms",
    }
    return create_async_engine(
        settings.async_database_url, connect_args=arguments, poolclass=NullPool, hide_parameters=True
    )


class Migrator:
    """Brings the database of `settings` to a revision of this code."""

    def __init__(self, settings: PlatformSettings, *, wait_seconds: float = 60) -> None:
        """`wait_seconds`: how long to wait for the database, and for another migrator to finish."""
        self._engine = migration_engine(settings)
        self._wait_seconds = wait_seconds
        self._config = alembic_config(settings)
        self._scripts = ScriptDirectory.from_config(self._config)
        # What is done is said here, in lines of ours.
        logging.getLogger("alembic").setLevel(logging.WARNING)

    async def upgrade(self, revision: str = "head") -> None:
        """Apply what is missing.

        Raises:
            MigrationError: the database does not answer, another migrator does not finish, or locks are not to be had.
        """
        async with self._alone() as connection:
            if await self._is_ahead(connection):
                return
            pending = await connection.run_sync(self._pending)
            await self._attempt(connection, lambda: command.upgrade(self._config, revision))
            log.info("migrated", applied=pending)

    async def downgrade(self, revision: str) -> None:
        """Take revisions back, to `revision` (an id, `-1`, or `base`); errors as for `upgrade`."""
        async with self._alone() as connection:
            await self._attempt(connection, lambda: command.downgrade(self._config, revision))
            log.info("downgraded", to=revision)

    async def pending(self) -> list[str]:
        """The revisions that the database lacks, oldest first; none if it is ahead of this code."""
        async with self._connected() as connection:
            if await self._is_ahead(connection):
                return []
            return await connection.run_sync(self._pending)

    def _pending(self, connection: Connection) -> list[str]:
        return _pending(self._scripts, connection)

    async def _is_ahead(self, connection: AsyncConnection) -> bool:
        unknown = await connection.run_sync(partial(_unknown, self._scripts))
        await connection.rollback()
        if unknown:
            log.info("the database is ahead of this code; nothing to do", revision=unknown)
        return bool(unknown)

    async def _attempt(self, connection: AsyncConnection, step: Callable[[], None]) -> None:
        def run(sync: Connection) -> None:
            self._config.attributes["connection"] = sync
            step()

        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                await connection.run_sync(run)
                await connection.commit()
                return
            except DBAPIError as error:
                await connection.rollback()
                if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                    raise
                log.warning("a lock was not to be had", attempt=attempt, of=LOCK_ATTEMPTS)
                await asyncio.sleep(min(POLL_SECONDS * attempt, LOCK_PAUSE_SECONDS))
        raise MigrationError(
            f"A lock was not to be had in {LOCK_ATTEMPTS} attempts: a long transaction holds it. "
            "What was applied so far stays; run the migration again."
        )

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[AsyncConnection]:
        async with self._connected() as connection:
            deadline = asyncio.get_running_loop().time() + self._wait_seconds
            while not await connection.scalar(text(f"SELECT pg_try_advisory_lock({LOCK_KEY})")):
                await connection.rollback()
                if asyncio.get_running_loop().time() > deadline:
                    raise MigrationError(f"Another migration did not finish within {self._wait_seconds:g} s.")
                await asyncio.sleep(POLL_SECONDS)
            await connection.rollback()  # the lock is the session's and stays
            yield connection
            await connection.rollback()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        deadline = asyncio.get_running_loop().time() + self._wait_seconds
        waiting = False
        try:
            while True:
                try:
                    connection = await self._engine.connect()
                    break
                except (OSError, TimeoutError, DBAPIError) as error:
                    if asyncio.get_running_loop().time() > deadline:
                        raise MigrationError(
                            f"The database did not answer within {self._wait_seconds:g} s ({_kind(error)})."
                        ) from None
                    if not waiting:
                        log.info("waiting for the database")
                        waiting = True
                    await asyncio.sleep(POLL_SECONDS)
            try:
                yield connection
            finally:
                await connection.close()
        finally:
            await self._engine.dispose()


def _pending(scripts: ScriptDirectory, connection: Connection) -> list[str]:
    """The revisions that the database lacks, oldest first. It must have no unknown one."""
    current = MigrationContext.configure(connection).get_current_heads()
    return [script.revision for script in scripts.iterate_revisions("heads", current or "base")][::-1]


def _unknown(scripts: ScriptDirectory, connection: Connection) -> list[str]:
    """The revisions of the database that this code does not have: those of later code."""
    known = {script.revision for script in scripts.walk_revisions()}
    return [head for head in MigrationContext.configure(connection).get_current_heads() if head not in known]


async def wait_until_migrated(settings: PlatformSettings, *, timeout: float) -> None:  # noqa: ASYNC109 - it says more than that
    """Wait until the database of `settings` answers and has every revision of this code, or one of later code.

    Asks through whatever way the service itself takes, a transaction pooler too, on one connection at a time.

    Raises:
        MigrationError: it did not come so far within `timeout` seconds; the message says how far it came.
    """
    scripts = ScriptDirectory.from_config(alembic_config(settings))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    engine = create_async_engine(
        settings.async_database_url,
        connect_args=settings.database_connect_args,
        poolclass=NullPool,
        hide_parameters=True,
    )

    def lacking(connection: Connection) -> str | None:
        if _unknown(scripts, connection) or not (missing := _pending(scripts, connection)):
            return None
        return f"The database lacks the migrations {', '.join(missing)}"

    deadline = asyncio.get_running_loop().time() + timeout
    said = None
    try:
        while True:
            try:
                async with engine.connect() as connection:
                    problem = await connection.run_sync(lacking)
            except (OSError, TimeoutError, DBAPIError) as error:
                problem = f"The database does not answer ({_kind(error)})"
            if problem is None:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise MigrationError(f"{problem}: so it has been for {timeout:g} s.")
            if problem != said:
                log.info("waiting", because=problem)
                said = problem
            await asyncio.sleep(POLL_SECONDS)
    finally:
        await engine.dispose()


def _kind(error: Exception) -> str:
    return type(getattr(error, "orig", None) or error).__name__
