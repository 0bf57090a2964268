"""Alembic's environment: the tables are those of `notes.models`, the database is that of the settings.

`plinth migrate` hands over a connection on which it holds the migration lock; plain `alembic` opens its own.
"""

import asyncio
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection
from sqlmodel import AutoString, SQLModel

import notes.models  # noqa: F401 - makes every table known
from notes.config import Settings
from plinth.database.migrator import migration_engine


def render_item(kind: str, value: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Write SQLModel's strings as the SQLAlchemy type that they are."""
    if kind == "type" and isinstance(value, AutoString):
        return f"sa.String(length={value.length})" if value.length else "sa.String()"
    return False


OPTIONS: dict[str, Any] = {
    "target_metadata": SQLModel.metadata,
    "render_item": render_item,
    "transaction_per_migration": True,
}


def run(connection: Connection) -> None:
    context.configure(connection=connection, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


async def run_with_own_connection() -> None:
    engine = migration_engine(Settings())
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()
elif (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    asyncio.run(run_with_own_connection())
