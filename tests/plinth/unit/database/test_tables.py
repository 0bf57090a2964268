"""What every table inherits, on SQLite: these need a session and no server."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy.orm.exc import StaleDataError
from sqlmodel import SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core.config import Settings
from app.core.db import get_session_context, init_db
from app.models.item import Item
from plinth.database.engine import Database


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    database = Database(Settings.isolated(DATABASE_URL="sqlite+aiosqlite://"))
    await init_db(database)
    yield database
    await database.aclose()


@pytest.fixture
async def session(database: Database) -> AsyncIterator[AsyncSession]:
    async with get_session_context(database) as session:
        yield session


async def saved(session: AsyncSession, name: str = "x") -> Item:
    item = Item(owner="alice", name=name)
    session.add(item)
    await session.flush()
    return item


class TestBaseModel:
    async def test_the_database_sets_id_and_timestamps(self, session: AsyncSession) -> None:
        item = await saved(session)
        assert isinstance(item.id, UUID)
        assert item.id.version == 7
        assert item.created_at == item.updated_at

    async def test_an_update_brings_its_new_values_back_with_it(self, session: AsyncSession) -> None:
        item = await saved(session)
        item.name = "y"
        await session.flush()
        # Were it not so, this read would be a second query, and in asyncio an error.
        assert item.updated_at is not None

    def test_constraints_have_names(self) -> None:
        for table in SQLModel.metadata.tables.values():
            assert all(constraint.name for constraint in table.constraints), table.name


class TestSoftDelete:
    async def test_queries_leave_deleted_rows_out(self, session: AsyncSession) -> None:
        kept, deleted = await saved(session, "kept"), await saved(session, "deleted")
        deleted.deleted_at = datetime.now(UTC)
        await session.flush()
        session.expunge_all()
        assert [item.name for item in await session.exec(select(Item))] == ["kept"]
        assert await session.get(Item, deleted.id) is None
        assert await session.get(Item, kept.id) is not None

    async def test_who_asks_for_them_gets_them(self, session: AsyncSession) -> None:
        deleted = await saved(session)
        deleted.deleted_at = datetime.now(UTC)
        await session.flush()
        session.expunge_all()
        query = select(Item).execution_options(include_deleted=True)
        assert [item.id for item in await session.exec(query)] == [deleted.id]


class TestVersion:
    async def test_every_change_counts(self, session: AsyncSession) -> None:
        item = await saved(session)
        assert item.version == 1
        item.name = "y"
        await session.flush()
        assert item.version == 2

    async def test_of_two_writers_the_second_fails(self, session: AsyncSession) -> None:
        item = await saved(session)
        await session.exec(
            Item.__table__.update().where(Item.__table__.c.id == item.id).values(version=9)  # type: ignore[attr-defined]
        )
        item.name = "y"
        with pytest.raises(StaleDataError):
            await session.flush()
        await session.rollback()
