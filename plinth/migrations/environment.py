"""Alembic's environment of a service: its `migrations/env.py` calls `run_migrations`.

`plinth migrate` hands over a connection on which it holds the migration lock; plain `alembic` opens its own.
"""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import MigrationScript
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData
from sqlmodel import AutoString

import plinth.audit
import plinth.http.idempotency
import plinth.identity.api_keys
import plinth.identity.owners
import plinth.jobs.tables  # noqa: F401 - with the lines above: all tables of the platform
from plinth.database.migrator import merge_sentence, migration_engine
from plinth.database.revisions import FIRST, PLATFORM, SERVICE, VERSIONS, read_revisions
from plinth.database.tables import PlatformTable
from plinth.settings import PlatformSettings

__all__ = ["run_migrations"]


def run_migrations(metadata: MetaData, get_settings: Callable[[], PlatformSettings]) -> None:
    """Do what Alembic was called for, with the service's tables and settings.

    Autogenerate compares the tables of `metadata`, or the platform's if `--head plinth@head` is given.

    Raises:
        CommandError: a table of the service has the name of one of the platform's.
    """
    if taken := sorted(metadata.tables.keys() & PlatformTable.metadata.tables.keys()):
        raise CommandError(f"The platform has a table {taken[0]} of its own: give the service's another name.")
    options = _options(metadata, get_settings)
    options["issuer"] = context.config.attributes.get("issuer") or get_settings().issuers[0]  # for plinth_0003
    if context.is_offline_mode():
        context.configure(dialect_name="postgresql", literal_binds=True, **options)
        with context.begin_transaction():
            context.run_migrations()
    elif (given := context.config.attributes.get("connection")) is not None:
        _run(given, options)
    else:
        asyncio.run(_run_with_own_connection(get_settings(), options))


def _options(metadata: MetaData, get_settings: Callable[[], PlatformSettings]) -> dict[str, Any]:
    of_platform = getattr(context.config.cmd_opts, "head", None) == f"{PLATFORM}@head"

    def include_name(name: str | None, kind: str, parents: Any) -> bool:
        return kind != "table" or (name in PlatformTable.metadata.tables) is of_platform

    def place_revision(_: Any, rows: Any, scripts: Iterable[MigrationScript]) -> None:
        for script in scripts:
            if of_platform:
                _name(script)
            elif script.head in (None, "head"):
                _place(script, get_settings().service.migrations)

    return {
        "target_metadata": PlatformTable.metadata if of_platform else metadata,
        "include_name": include_name,
        "render_item": _render_item,
        "process_revision_directives": place_revision,
        "transaction_per_migration": True,
    }


def _name(script: MigrationScript) -> None:
    """Give a new revision of the platform the next number."""
    (head,) = read_revisions(VERSIONS.parent).heads(PLATFORM)
    script.rev_id = f"{PLATFORM}_{int(head.rpartition('_')[2]) + 1:04}"


def _place(script: MigrationScript, migrations: Path) -> None:
    """Put a new revision after the service's newest one, and beside it."""
    heads = read_revisions(migrations).heads(SERVICE)
    if len(heads) > 1:
        raise CommandError(merge_sentence(heads))
    script.version_path = str(migrations / "versions")
    if heads:
        script.head = heads[0]
    else:
        script.head, script.depends_on = "base", FIRST


def _render_item(kind: str, value: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Write SQLModel's strings as the SQLAlchemy type that they are."""
    if kind == "type" and isinstance(value, AutoString):
        return f"sa.String(length={value.length})" if value.length else "sa.String()"
    return False


def _run(connection: Connection, options: dict[str, Any]) -> None:
    context.configure(connection=connection, **options)
    with context.begin_transaction():
        context.run_migrations()


async def _run_with_own_connection(settings: PlatformSettings, options: dict[str, Any]) -> None:
    engine = migration_engine(settings)
    async with engine.connect() as connection:
        await connection.run_sync(_run, options)
        await connection.commit()
    await engine.dispose()
