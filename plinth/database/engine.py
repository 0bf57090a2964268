"""The database: one engine and one pool for a process, sessions for most code, bare connections for hot reads.

An application builds its `Database` in its lifespan and closes it there; nothing is opened at import.
In a request take `SessionDep` (`plinth.api.dependencies`).
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from importlib import import_module
from operator import add
from typing import Any, NoReturn

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import greenlet_spawn
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.encoding import encoding_problem
from plinth.database.errors import (
    READ_ONLY_STATE,
    DatabaseUnavailableError,
    TransactionConflictError,
    database_reason,
    is_of_the_server,
    sqlstate,
    translated,
)
from plinth.database.hosts import connect
from plinth.database.observed_connection import observe
from plinth.database.pool import POOL_LABEL, FairQueuePool
from plinth.database.tables import PlatformTable
from plinth.settings import PlatformSettings
from plinth.telemetry import tracing
from plinth.telemetry.metrics import Observed, db_error

__all__ = [
    "READ_ONLY",
    "SETTINGS",
    "Database",
    "DatabaseUnavailableError",
    "TransactionConflictError",
    "bind_default_database",
    "default_database",
    "one_connection",
]

SETTINGS = "database.settings"
"""The key in a session's `info` under which its database puts the settings."""

READ_ONLY = "postgresql_readonly"
"""The execution option of a connection whose transactions are read-only, by SQLAlchemy's name."""

# Older connections are replaced at the next check-out: proxies and cloud networks drop them silently.
RECYCLE_SECONDS = 1800
# Opened at start for the first requests of a pod; more are opened on demand.
WARM_CONNECTIONS = 4

_CONNECTIONS = Observed(
    "db_client_connection_count",
    "Connections of the pool, by state.",
    (POOL_LABEL, "db_client_connection_state"),
    add,
)
_MAX_CONNECTIONS = Observed("db_client_connection_max", "How many connections the pool may open.", (POOL_LABEL,), add)
_PENDING = Observed(
    "db_client_connection_pending_requests", "How many wait for a connection of the pool.", (POOL_LABEL,), add
)


class Database:
    """An engine with its pool, sessions and connections, for one set of settings.

    `session_info` is copied into `session.info`, beside the settings. With a `pool_name` the pool and its statements
    are counted in metrics. `server_settings` are PostgreSQL settings of these connections, beside the usual ones; a
    transaction pooler takes none.
    """

    def __init__(
        self,
        settings: PlatformSettings,
        *,
        session_info: Mapping[str, Any] | None = None,
        pool_name: str | None = None,
        server_settings: Mapping[str, str] | None = None,
    ) -> None:
        url = settings.async_database_url
        self.is_postgresql = url.startswith("postgresql")
        self._pooler = settings.DB_TRANSACTION_POOLER
        options: dict[str, Any] = {}
        if self.is_postgresql and settings.DB_USE_NULL_POOL:
            options = {"poolclass": NullPool}
        elif self.is_postgresql:
            options = {
                "poolclass": FairQueuePool,
                "pool_size": settings.DB_POOL_SIZE,
                "max_overflow": settings.DB_MAX_OVERFLOW,
                "pool_timeout": settings.DB_POOL_TIMEOUT,
                "pool_recycle": RECYCLE_SECONDS,
                # Sessions end their transactions, and bare connections have none that SQLAlchemy began.
                "pool_reset_on_return": None,
            }
        connect_args = settings.database_connect_args
        if self.is_postgresql:
            connect_args["async_creator_fn"] = connect
        if server_settings and not self._pooler:
            connect_args["server_settings"] |= server_settings
        self.engine = create_async_engine(url, connect_args=connect_args, hide_parameters=True, **options)
        self.session_info = {SETTINGS: settings, **(session_info or {})}
        self._sessions = async_sessionmaker(
            self.engine, class_=AsyncSession, expire_on_commit=False, info=self.session_info
        )
        service = getattr(settings, "service", None)
        self._models: str | None = None if service is None else service.models
        self._shown = ExitStack()  # in the metrics
        if self.is_postgresql:
            if pool_name is not None or tracing.is_on():
                observe(self.engine.sync_engine, counted=pool_name is not None)
            if pool_name is not None and isinstance(self.engine.pool, FairQueuePool):
                self._count(self.engine.pool, pool_name)
            event.listen(self.engine.sync_engine, "do_connect", _connect)
            event.listen(self.engine.sync_engine, "handle_error", _handle_error)
            event.listen(self.engine.sync_engine, "checkout", _refuse_closed)
        else:
            event.listen(self.engine.sync_engine, "connect", _prepare_sqlite)

    def _count(self, pool: FairQueuePool, pool_name: str) -> None:
        """Show the pool in the metrics until the database is closed."""
        pool.count_as(pool_name)
        self._shown.enter_context(
            _CONNECTIONS.by(lambda: [((pool_name, "idle"), pool.checkedin()), ((pool_name, "used"), pool.checkedout())])
        )
        self._shown.enter_context(_MAX_CONNECTIONS.by(lambda: [((pool_name,), pool.limit)]))
        self._shown.enter_context(_PENDING.by(lambda: [((pool_name,), pool.waiting)]))

    def new_session(self) -> AsyncSession:
        """Make a session that the caller commits and closes."""
        return self._sessions()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session that commits when the block ends and rolls back when it raises.

        Raises:
            DatabaseUnavailableError: the database is away, frozen or overloaded.
            TransactionConflictError: a deadlock or a serialization failure; nothing was committed.
        """
        async with self._sessions() as session:
            with _translated():
                yield session
                await session.commit()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """An asyncpg connection out of the same pool, for hot statements: no ORM, no transaction of its own.

        Each statement on it commits by itself unless the block opens `connection.transaction()`.

        Raises:
            DatabaseUnavailableError: the database is away, frozen or overloaded.
            TransactionConflictError: a deadlock or a serialization failure; that transaction was rolled back.
        """
        try:
            pooled = await greenlet_spawn(self.engine.sync_engine.raw_connection)
        except (PoolTimeoutError, DBAPIError) as error:  # `_translated` costs 1% of a request here
            _raise_translated(error)
        connection: asyncpg.Connection = pooled.driver_connection  # type: ignore[assignment]
        try:
            if self._pooler:
                # A transaction pooler may send each message outside a transaction to another server, and
                # asyncpg parses a statement in one message and runs it in the next.
                async with connection.transaction():
                    yield connection
            else:
                yield connection
        except BaseException as error:
            found = translated(error) if isinstance(error, Exception) else error
            if isinstance(found, DatabaseUnavailableError) or not isinstance(error, Exception):
                # The state of this connection is unknown: the next check-out must not get it.
                connection.terminate()
                if sqlstate(error) == READ_ONLY_STATE:
                    # The others are of the same server. What SQLAlchemy does itself on a session's connection.
                    await greenlet_spawn(self.engine.pool._invalidate, pooled)
                else:
                    await greenlet_spawn(pooled.invalidate)
            if found is error:
                raise
            raise found from error
        finally:
            await greenlet_spawn(pooled.close)

    async def create_tables(self) -> None:
        """Create the tables of the platform and of the service's models. For tests and first steps; else migrate."""
        if (models := self._models) is not None:
            import_module(models)
        async with self.engine.begin() as connection:
            for metadata in (PlatformTable.metadata, SQLModel.metadata):
                await connection.run_sync(metadata.create_all)

    async def warm(self) -> None:
        """Open the connections of the first requests, so that these need not wait.

        If the database is away, nothing is raised.
        """
        if not isinstance(self.engine.pool, FairQueuePool):
            return
        async with AsyncExitStack() as opened:
            with suppress(DatabaseUnavailableError):
                for _ in range(min(WARM_CONNECTIONS, self.engine.pool.size())):
                    await opened.enter_async_context(self.connection())

    async def ping(self) -> None:
        """Ask the server whether it can be written.

        Raises:
            DatabaseUnavailableError: it cannot, there was no answer within the time limits of the settings, or its
                encoding is not UTF-8.
        """
        question = "SELECT current_setting('transaction_read_only')" if self.is_postgresql else "SELECT 'off'"
        with _translated():
            async with self.engine.connect() as connection:
                if await connection.scalar(text(question)) == "on":
                    await connection.invalidate()  # the next one may be the primary's
                    raise DatabaseUnavailableError(reason=database_reason(asyncpg.ReadOnlySQLTransactionError()))
                if (problem := await connection.run_sync(encoding_problem)) is not None:
                    raise DatabaseUnavailableError(reason=problem)

    def leave(self) -> None:
        """Have each connection opened anew before it is used again: the host's name may lead elsewhere by now."""
        self.engine.pool._invalidate(None, _checkin=False)  # type: ignore[arg-type]

    async def aclose(self) -> None:
        self._shown.close()
        if isinstance(pool := self.engine.pool, FairQueuePool):
            # SQLAlchemy closes one after the other, waits for a frozen server each time, and forgets those in use.
            await pool.aclose()
        else:
            await self.engine.dispose()


def one_connection(settings: PlatformSettings, timeout: float) -> Database:
    """A database with a single connection, beside the pool that may be busy; `timeout` in seconds."""
    limits = {"DB_POOL_SIZE": 1, "DB_MAX_OVERFLOW": 0, "DB_CONNECT_TIMEOUT": timeout, "DB_STATEMENT_TIMEOUT": timeout}
    return Database(settings.model_copy(update=limits))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (PoolTimeoutError, DBAPIError) as error:
        _raise_translated(error)


def _raise_translated(error: PoolTimeoutError | DBAPIError) -> NoReturn:
    if (found := translated(error)) is error:
        raise error
    raise found from error


def _connect(dialect: Any, record: Any, args: Any, kwargs: Any) -> Any:
    try:
        return dialect.connect(*args, **kwargs)
    except Exception as error:
        # Whatever was raised, such as for a host name that no resolver takes: there is no connection.
        db_error("postgresql", "timeout" if isinstance(error, TimeoutError) else "unavailable")
        raise DatabaseUnavailableError(reason=database_reason(error)) from error


def _handle_error(context: ExceptionContext) -> BaseException | None:
    error = context.original_exception
    if is_of_the_server(error) and not _is_own(error, context):
        context.is_disconnect = True
        # The others are of the same server, which a failover has left.
        context.invalidate_pool_on_disconnect = sqlstate(error) == READ_ONLY_STATE
    if not isinstance(error, TimeoutError):
        return None
    # The server did not answer in time. SQLAlchemy would close the connection gracefully and wait for the server
    # again; terminate it instead.
    if context.connection is not None:
        context.connection.connection.driver_connection.terminate()  # type: ignore[union-attr]
    return translated(error)


def _is_own(error: BaseException, context: ExceptionContext) -> bool:
    """Whether a write was refused because the transaction was begun read-only, whatever the server takes."""
    begun = context.connection is not None and context.connection.get_execution_options().get(READ_ONLY, False)
    return bool(begun) and sqlstate(error) == READ_ONLY_STATE


def _refuse_closed(connection: Any, record: Any, proxy: Any) -> None:
    # Unlike a ping this costs nothing: the socket of a server that went away is closed by now.
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _prepare_sqlite(connection: Any, record: Any) -> None:
    from plinth.database.uuid7 import python_uuid7

    connection.create_function("uuid7", 0, lambda: python_uuid7().hex)


_default: Database | None = None


@contextmanager
def bind_default_database(database: Database) -> Iterator[None]:
    """Make `database` the process's default while the block runs, unless it has one already."""
    global _default  # noqa: PLW0603 - one for a process
    bound = _default is None
    if bound:
        _default = database
    try:
        yield
    finally:
        if bound:
            _default = None


def default_database() -> Database | None:
    """The database of the application or worker that runs in this process."""
    return _default
