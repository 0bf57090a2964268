"""Reads that may lag: on the replica while it can be used, else on the primary.

    reads = state_of(request)["reads"]
    orders = await reads.run(lambda connection: list_orders(connection, owner))

In an endpoint that works with a session take `ReadSessionDep` (`plinth.api.dependencies`).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.engine import READ_ONLY, Database, DatabaseUnavailableError, TransactionConflictError
from plinth.database.errors import READ_ONLY_STATE, TIMED_OUT_STATE, sqlstate
from plinth.database.replica import Replica
from plinth.settings import PlatformSettings

__all__ = ["ReadOnlyError", "Reads", "open_reads"]

T = TypeVar("T")


class ReadOnlyError(Exception):
    """Code that was to read has tried to write."""

    def __init__(self) -> None:
        super().__init__("Reads take no write: use SessionDep, or a session or connection of the database.")


class Reads:
    """Reads of an application. Those of sessions, and all where there is a replica, are in read-only transactions.

    `checks`: readiness checks by name, which have to run for the replica to be used.

    `strict`: whether `run` refuses writes. Without a replica it does not, since that takes two round trips. A test sets
    it, as the client of `plinth.testing` does: code that writes shows it there and not on the day of the replica.
    """

    def __init__(self, primary: Database, replica: Replica | None = None) -> None:
        self._primary = primary
        self._replica = replica
        self.strict = replica is not None
        self.checks: Mapping[str, Callable[[], Awaitable[None]]] = {} if replica is None else {"replica": replica.look}

    async def run(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Return what `work` returns. It is called again, on the primary, if the replica fails in between.

        Raises:
            ReadOnlyError: it writes, and this is `strict`.
            DatabaseUnavailableError: the primary is away too, or a statement of `work` takes too long.
            TransactionConflictError: a serialization failure on the primary.
        """
        if (replica := self._usable) is not None:
            try:
                return await _run(replica.database, work)  # it refuses writes by itself
            except (DatabaseUnavailableError, TransactionConflictError) as error:
                if sqlstate(error) == TIMED_OUT_STATE:  # by the server, which is there: it is no quicker elsewhere
                    raise
                _note(replica, error)
        return await _run(self._primary, work, read_only=self.strict)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session. Once it has begun it stays where it is: a replica that fails after that fails the block.

        Raises:
            ReadOnlyError: the block writes.
            DatabaseUnavailableError, TransactionConflictError: as for `Database.session`.
        """
        async with AsyncExitStack() as opened:
            session = None
            if (replica := self._usable) is not None:
                try:
                    session = await opened.enter_async_context(_session(replica.database, standby=True))
                except (DatabaseUnavailableError, TransactionConflictError) as error:
                    _note(replica, error)
            if session is None:
                session = await opened.enter_async_context(_session(self._primary))
            yield session

    @property
    def _usable(self) -> Replica | None:
        return self._replica if self._replica is not None and self._replica.usable else None


@asynccontextmanager
async def open_reads(settings: PlatformSettings, primary: Database) -> AsyncIterator[Reads]:
    """Open the replica of the settings, if there is one. Whether it is there is no condition."""
    if (of_replica := settings.of_replica) is None:
        yield Reads(primary)
        return
    replica = Replica(of_replica)
    try:
        await replica.database.warm()
        yield Reads(primary, replica)
    finally:
        await replica.aclose()


async def _run(database: Database, work: Callable[[asyncpg.Connection], Awaitable[T]], *, read_only: bool = False) -> T:
    async with database.connection() as connection:
        try:
            if not read_only:
                return await work(connection)
            if connection.is_in_transaction():  # behind a transaction pooler
                await connection.execute("SET TRANSACTION READ ONLY")
                return await work(connection)
            async with connection.transaction(readonly=True):
                return await work(connection)
        except asyncpg.ReadOnlySQLTransactionError as error:
            raise ReadOnlyError from error


@asynccontextmanager
async def _session(database: Database, *, standby: bool = False) -> AsyncIterator[AsyncSession]:
    async with database.session() as session:
        connection = await session.connection(execution_options={READ_ONLY: True})
        if standby:
            await connection.exec_driver_sql("SELECT 1")  # whether it is still there, while another can be asked
        try:
            yield session
            await session.flush()  # here, for the error of what is to be written
        except DBAPIError as error:
            if sqlstate(error) == READ_ONLY_STATE:
                raise ReadOnlyError from error
            raise


def _note(replica: Replica, error: DatabaseUnavailableError | TransactionConflictError) -> None:
    # A conflict is one with what is replayed, and a full pool is no outage: the next read may be lucky.
    if isinstance(error, DatabaseUnavailableError) and not isinstance(error.__cause__, PoolTimeoutError):
        replica.leave_alone(error.reason)
