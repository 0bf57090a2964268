"""Sessions outside of requests: in scripts, in jobs and in tests."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import select

from app.core import db
from app.core.config import Settings
from app.core.db import AsyncSessionLocal, close_db, get_session_context, init_db
from app.models.item import Item
from plinth.database.engine import Database, bind_default_database


class TestOutsideOfRequests:
    async def test_without_an_application_the_settings_decide(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(db, "get_settings", lambda: settings)
        async with get_session_context() as session:
            session.add(Item(owner="alice", name="from a script"))
        async with AsyncSessionLocal() as session:
            assert [item.name for item in await session.exec(select(Item))] == ["from a script"]
        await close_db()

    async def test_with_an_application_its_database_is_meant(self, database: Database) -> None:
        with bind_default_database(database):
            async with get_session_context() as session:
                assert session.bind is database.engine

    async def test_init_db_makes_the_tables(self, make_settings: Callable[..., Any], empty_database_url: str) -> None:
        database = Database(make_settings(DATABASE_URL=empty_database_url))
        await init_db(database)
        async with database.session() as session:
            session.add(item := Item(owner="alice", name="x"))
            await session.flush()
            assert item.id.version == 7
        await database.aclose()
