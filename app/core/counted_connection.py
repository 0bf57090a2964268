"""A connection of asyncpg whose statements are counted, whoever sends them.

asyncpg's query loggers do not see what SQLAlchemy runs, and cost ten times as much. SQLAlchemy's events see nothing
else, and one listener makes every statement of its engine dearer by a tenth.
"""

from collections.abc import Awaitable
from functools import cache
from time import perf_counter
from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from app.core.metrics import db_operation

__all__ = ["counted"]


@cache
def counted(connection_class: type[asyncpg.Connection]) -> type[asyncpg.Connection]:
    """A class of connections that are like those of `connection_class`, and counted."""
    return type("Connection", (_Connection, connection_class), {"__slots__": ()})


class _Connection(asyncpg.Connection):
    __slots__ = ()

    async def execute(self, query: str, *args: Any, **options: Any) -> Any:
        return await _timed(query, super().execute(query, *args, **options))

    async def executemany(self, command: str, *args: Any, **options: Any) -> None:
        await _timed(command, super().executemany(command, *args, **options))

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        return await _timed(query, super().fetch(query, *args, **options))

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        return await _timed(query, super().fetchrow(query, *args, **options))

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        return await _timed(query, super().fetchval(query, *args, **options))

    async def prepare(self, query: str, **options: Any) -> Any:
        """As SQLAlchemy has every statement prepared, once on each connection. Counted is what fails, and each run."""
        began = perf_counter()
        try:
            statement = await super().prepare(query, **options)
        except BaseException:
            db_operation("postgresql", query).observe(perf_counter() - began)
            raise
        return _Statement(query, statement)


class _Statement:
    """A prepared statement whose runs are counted, as far as they are complete: no cursors."""

    __slots__ = ("_query", "_statement")

    def __init__(self, query: str, statement: PreparedStatement) -> None:
        self._query = query
        self._statement = statement

    async def fetch(self, *args: Any, **options: Any) -> Any:
        return await _timed(self._query, self._statement.fetch(*args, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._statement, name)


async def _timed(query: str, answer: Awaitable[Any]) -> Any:
    began = perf_counter()
    try:
        return await answer
    finally:
        db_operation("postgresql", query).observe(perf_counter() - began)
