"""Hot statements: written once as SQLAlchemy Core, run on the bare asyncpg connection.

    get_order = Statement(select(Order.id, Order.total).where(Order.id == bindparam("id")))

    async with database.connection() as connection:
        row = await get_order.fetchrow(connection, id=order_id)

Tables and columns keep their one source, and a request pays for neither the ORM nor the compiler.
"""

from functools import cached_property
from typing import Any

import asyncpg
from sqlalchemy import Executable
from sqlalchemy.dialects.postgresql import asyncpg as dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.schema import ScalarElementColumnDefault

__all__ = ["Statement"]

_DIALECT = dialect.dialect()  # type: ignore[no-untyped-call]


class Statement:
    """A Core statement, compiled at its first use and never again.

    Parameters are `bindparam("name")`s, given by name. Values written into the statement, and the constant
    defaults of the columns that an INSERT leaves out, stand for what is not given.
    Rows are `asyncpg.Record`s as the driver makes them: result types of SQLAlchemy (JSON, enumerations, type
    decorators) are not applied.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement = statement

    async def fetch(self, connection: asyncpg.Connection, **parameters: Any) -> list[asyncpg.Record]:
        """All rows."""
        return await connection.fetch(self.sql, *self._arguments(parameters))

    async def fetchrow(self, connection: asyncpg.Connection, **parameters: Any) -> asyncpg.Record | None:
        """The first row, or None."""
        return await connection.fetchrow(self.sql, *self._arguments(parameters))

    @cached_property
    def sql(self) -> str:
        """The text that the server gets."""
        return self._compiled.string

    @cached_property
    def _compiled(self) -> SQLCompiler:
        compiled = self._statement.compile(dialect=_DIALECT)  # type: ignore[attr-defined]
        assert isinstance(compiled, SQLCompiler)
        return compiled

    @cached_property
    def _parameters(self) -> list[tuple[str, Any, Any]]:
        compiled = self._compiled
        defaults = dict(compiled.params)
        for column in [*compiled.insert_prefetch, *compiled.update_prefetch]:
            default = column.default if column in compiled.insert_prefetch else column.onupdate
            if not isinstance(default, ScalarElementColumnDefault):
                raise TypeError(f"{column}: give a value; its default is made in Python for each row")
            defaults[column.key] = default.arg
        return [(name, defaults[name], compiled._bind_processors.get(name)) for name in compiled.positiontup or ()]

    def _arguments(self, given: dict[str, Any]) -> list[Any]:
        arguments = []
        for name, default, process in self._parameters:
            value = given.get(name, default)
            arguments.append(value if process is None else process(value))
        return arguments
