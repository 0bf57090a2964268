"""SQLAlchemy Core statements are compiled to text and arguments for asyncpg."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    bindparam,
    func,
    insert,
    select,
    update,
)

from plinth.database.statement import Statement

thing = Table(
    "thing",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("name", String(10)),
    Column("size", Integer, default=7),
    Column("about", JSON),
    Column("changed_at", DateTime(timezone=True), onupdate=func.now()),
    Column("made_at", DateTime(timezone=True), default=lambda: datetime.now(UTC)),
)


class _Recorder:
    asked: tuple[str, tuple[Any, ...]]

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        self.asked = (sql, arguments)
        return []

    async def fetchrow(self, sql: str, *arguments: Any) -> None:
        self.asked = (sql, arguments)


def recorder() -> Any:
    """A stand-in for an asyncpg connection that records its queries."""
    return _Recorder()


class TestStatement:
    async def test_arguments_are_in_the_order_of_the_placeholders(self) -> None:
        statement = Statement(
            select(thing.c.name).where(thing.c.name == bindparam("name"), thing.c.id == bindparam("id"))
        )
        connection, thing_id = recorder(), uuid4()
        await statement.fetchrow(connection, id=thing_id, name="x")
        sql, arguments = connection.asked
        assert sql.index("$1") < sql.index("$2")
        assert arguments == ("x", thing_id)

    async def test_literal_values_of_a_statement_become_arguments(self) -> None:
        statement = Statement(select(thing.c.name).where(thing.c.size > 3).limit(bindparam("limit")))
        connection = recorder()
        await statement.fetch(connection, limit=5)
        assert connection.asked[1] == (3, 5)

    async def test_constant_column_defaults_reach_an_insert(self) -> None:
        statement = Statement(
            insert(thing).values(id=bindparam("id"), made_at=bindparam("made_at"), name=bindparam("name"))
        )
        connection = recorder()
        await statement.fetch(connection, id=None, made_at=None, name="x")
        assert 7 in connection.asked[1]

    def test_insert_refuses_column_defaults_computed_in_python(self) -> None:
        statement = Statement(insert(thing).values(id=bindparam("id")))
        with pytest.raises(TypeError, match=r"thing\.made_at"):
            statement._arguments({"id": None})

    def test_sql_functions_stay_in_the_text_of_the_statement(self) -> None:
        statement = Statement(update(thing).values(name=bindparam("new_name")))
        assert "now()" in statement.sql
        assert statement._arguments({"new_name": "x"}) == ["x"]

    def test_bind_types_of_sqlalchemy_are_applied(self) -> None:
        statement = Statement(select(thing.c.id).where(thing.c.about == bindparam("about", type_=JSON)))
        assert statement._arguments({"about": {"a": 1}}) == ['{"a": 1}']

    def test_statement_is_compiled_once(self) -> None:
        statement = Statement(select(thing.c.id))
        assert statement._compiled is statement._compiled
