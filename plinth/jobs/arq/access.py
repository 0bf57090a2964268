"""Where the jobs are: a database, a session, or the database of the application or the worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.engine import Database, default_database

__all__ = ["Access"]


class Access:
    """The way to the jobs. Without an argument: the database that is open in this process when it is used."""

    def __init__(self, to: Database | AsyncSession | None = None) -> None:
        self._to = to

    @property
    def target(self) -> Database | AsyncSession:
        """What jobs are enqueued to.

        Raises:
            RuntimeError: there is none.
        """
        if (target := self._to or default_database()) is None:
            raise RuntimeError(
                "No database is open here, as it is in the API and in a worker: name one, as in ArqRedis(database)."
            )
        return target

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """The session, or one of the database that commits at the end of the block."""
        if isinstance(target := self.target, AsyncSession):
            yield target
        else:
            async with target.session() as session:
                yield session
