"""The service's database sessions.

In a request take `SessionDep` (`app.api.deps`); in scripts and jobs use `get_session_context()`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core.config import get_settings
from plinth.database.engine import Database, default_database

__all__ = ["AsyncSessionLocal", "close_db", "get_session", "get_session_context", "init_db"]

_own: Database | None = None


def _database() -> Database:
    """The database of the running application or, where none runs, one made of `get_settings()`."""
    global _own  # noqa: PLW0603 - one for a process
    if (running := default_database()) is not None:
        return running
    if _own is None:
        _own = Database(get_settings())
    return _own


def AsyncSessionLocal() -> AsyncSession:  # noqa: N802 - the name that readers of SQLAlchemy look for
    """A session on the default database: `async with AsyncSessionLocal() as session: …`."""
    return _database().new_session()


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """A request's session, committed before the response is sent.

    Depend on it with `scope="function"` (as `SessionDep` does): with FastAPI's default scope the commit would
    come after the client has read its 201.
    """
    async with request.state.database.session() as session:
        yield session


@asynccontextmanager
async def get_session_context(database: Database | None = None) -> AsyncIterator[AsyncSession]:
    """A session for scripts, jobs and tests: commits at the end of the block, rolls back if it raises."""
    async with (database or _database()).session() as session:
        yield session


async def init_db(database: Database | None = None) -> None:
    """Create all tables, for tests and first steps. Deployments run migrations instead."""
    await (database or _database()).create_tables()


async def close_db() -> None:
    """Close the database that a script opened by using it."""
    global _own
    database, _own = _own, None
    if database is not None:
        await database.aclose()
