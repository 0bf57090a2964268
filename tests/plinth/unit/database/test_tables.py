"""The base model of tables, on SQLite."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy.orm.exc import StaleDataError
from sqlmodel import SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from notes.config import Settings
from notes.models import Note
from plinth.database.engine import Database


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    database = Database(Settings.isolated(DATABASE_URL="sqlite+aiosqlite://"))
    await database.create_tables()
    yield database
    await database.aclose()


@pytest.fixture
async def session(database: Database) -> AsyncIterator[AsyncSession]:
    async with database.session() as session:
        yield session


async def saved(session: AsyncSession, text: str = "x") -> Note:
    note = Note(owner="alice", text=text)
    session.add(note)
    await session.flush()
    return note


class TestBaseModel:
    async def test_the_database_sets_id_and_timestamps(self, session: AsyncSession) -> None:
        note = await saved(session)
        assert isinstance(note.id, UUID)
        assert note.id.version == 7
        assert note.created_at == note.updated_at

    async def test_update_returns_the_values_computed_by_the_database(self, session: AsyncSession) -> None:
        note = await saved(session)
        note.text = "y"
        await session.flush()
        # Otherwise this read would be a second query, which is an error in asyncio.
        assert note.updated_at is not None

    def test_constraints_have_names(self) -> None:
        for table in SQLModel.metadata.tables.values():
            assert all(constraint.name for constraint in table.constraints), table.name


class TestSoftDelete:
    async def test_queries_leave_out_soft_deleted_rows(self, session: AsyncSession) -> None:
        kept, deleted = await saved(session, "kept"), await saved(session, "deleted")
        deleted.deleted_at = datetime.now(UTC)
        await session.flush()
        session.expunge_all()
        assert [note.text for note in await session.exec(select(Note))] == ["kept"]
        assert await session.get(Note, deleted.id) is None
        assert await session.get(Note, kept.id) is not None

    async def test_query_with_include_deleted_finds_soft_deleted_rows(self, session: AsyncSession) -> None:
        deleted = await saved(session)
        deleted.deleted_at = datetime.now(UTC)
        await session.flush()
        session.expunge_all()
        query = select(Note).execution_options(include_deleted=True)
        assert [note.id for note in await session.exec(query)] == [deleted.id]


class TestVersion:
    async def test_every_update_increments_the_version(self, session: AsyncSession) -> None:
        note = await saved(session)
        assert note.version == 1
        note.text = "y"
        await session.flush()
        assert note.version == 2

    async def test_update_of_an_outdated_version_fails(self, session: AsyncSession) -> None:
        note = await saved(session)
        await session.exec(
            Note.__table__.update().where(Note.__table__.c.id == note.id).values(version=9)  # type: ignore[attr-defined]
        )
        note.text = "y"
        with pytest.raises(StaleDataError):
            await session.flush()
        await session.rollback()
