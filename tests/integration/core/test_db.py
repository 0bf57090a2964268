"""Sessions outside of requests: in scripts, in jobs and in tests."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from app.core import db
from app.core.db import AsyncSessionLocal, close_db, get_session_context
from app.models.item import Item  # sample
from plinth.database.engine import Database, bind_default_database


class TestOutsideOfRequests:
    async def test_session_without_an_application_uses_the_settings(
        self, make_settings: Callable[..., Any], fresh_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = make_settings(DATABASE_URL=fresh_database_url)
        monkeypatch.setattr(db, "get_settings", lambda: settings)
        async with get_session_context() as session:
            connection = await session.connection()
            await connection.execute(text("CREATE TABLE written AS SELECT 'from a script' AS name"))
        async with AsyncSessionLocal() as session:
            connection = await session.connection()
            assert (await connection.scalars(text("SELECT name FROM written"))).all() == ["from a script"]
        await close_db()

    async def test_session_with_an_application_uses_its_database(self, database: Database) -> None:
        with bind_default_database(database):
            async with get_session_context() as session:
                assert session.bind is database.engine

    # sample: begin
    async def test_init_db_makes_the_tables(self, make_settings: Callable[..., Any], empty_database_url: str) -> None:
        database = Database(make_settings(DATABASE_URL=empty_database_url))
        await db.init_db(database)
        async with database.session() as session:
            session.add(item := Item(owner="alice", name="x"))
            await session.flush()
            assert item.id.version == 7
        await database.aclose()

    # sample: end
