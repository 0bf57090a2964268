"""The operations on exports: files of an owner's items, made by a job and kept in the database until they expire.

The file is written in parts, each in a transaction that keeps a step of the job too: a run that goes on after a crash
begins behind the last part. It is stored in chunks, each compressed by itself, so writing and reading hold one chunk or
one batch of items in memory. A chunk has the number of the run that began the file.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import BaseModel
from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.business.export_file import COLUMNS, Chunk, Format, Part
from app.core.exceptions import TooManyExportsError
from app.models.export import Export, ExportChunk
from plinth.database.engine import Database
from plinth.database.patience import patiently
from plinth.database.uuid7 import python_uuid7
from plinth.errors import NotFoundError
from plinth.jobs import Discard, enqueue

__all__ = [
    "BUILD",
    "ExportBuild",
    "Plan",
    "Written",
    "begin_file",
    "delete_expired_exports",
    "digest_of",
    "get_export",
    "publish",
    "read_content",
    "request_export",
    "write_part",
]

BUILD = "exports.build"
# Per owner. Each export is a copy of all the owner's items, and its job keeps other jobs waiting.
MAX_UNFINISHED = 5  # the limit of the kind, which holds for retries too
MAX_KEPT = 50
# Some milliseconds of work, and at most some megabytes if each item has its maximum size.
BATCH_ITEMS = 100
# Items of a part, which a crash may cost. Those of a large export are larger: a job has a thousand steps at most.
PART_ITEMS = 1000
MAX_PARTS = 900
# Deleted in one transaction: an export of millions of items has thousands of chunks.
BATCH_EXPORTS = 10

GONE = "The export has expired before it was ready."

# Records of ended jobs are pruned after some days: an export without a job and without a file has failed.
_GET = """
SELECT export.id, export.format, export.tag, export.job_id, export.run, export.item_count, export.size, export.digest,
    export.created_at, export.ready_at, export.expires_at, CASE
        WHEN export.ready_at IS NOT NULL THEN 'ready'
        WHEN job_status.state IN ('running', 'cancelled') THEN job_status.state
        WHEN job_status.live THEN 'pending'
        ELSE 'failed' END AS status
FROM export LEFT JOIN job_status ON job_status.id = export.job_id
WHERE export.id = $1 AND export.owner = $2 AND export.expires_at > now()
"""

_COUNT = "SELECT count(*) FROM export WHERE owner = $1 AND expires_at > now()"

# The lock keeps the export from being deleted while a part of it is written.
_TO_BUILD = "SELECT owner, format, tag FROM export WHERE id = $1 AND expires_at > now() FOR KEY SHARE"

# The owner's items, all and those with a tag. Both take an owner and a tag, and have an index in the order of the keys.
_ALL = "FROM item WHERE item.owner = $1 AND $2::text IS NULL AND deleted_at IS NULL"
_TAGGED = "FROM item_tag JOIN item USING (id) WHERE item_tag.owner = $1 AND tag = $2 AND deleted_at IS NULL"


def _statements(source: str, table: str) -> tuple[str, str]:
    """The statement that counts the items and finds the time of the last, and the one that reads them in batches."""
    columns = ", ".join(f"item.{name}" for name in COLUMNS)
    time, key = f"{table}.created_at", f"{table}.created_at, {table}.id"
    return (
        f"SELECT count(*) AS item_count, max({time}) AS until {source}",
        f"SELECT {columns} {source} AND {time} <= $3 AND ({key}) > ($4, $5) ORDER BY {key} LIMIT $6",
    )


_COUNT_ALL, _READ_ALL = _statements(_ALL, "item")
_COUNT_TAGGED, _READ_TAGGED = _statements(_TAGGED, "item_tag")

_READ_CHUNK = """
SELECT start, size, data FROM export_chunk WHERE export_id = $1 AND run = $2 AND start <= $3
ORDER BY start DESC LIMIT 1
"""

_DELETE_EXPIRED = f"""
DELETE FROM export WHERE id = ANY (ARRAY(
    SELECT id FROM export WHERE expires_at <= now() ORDER BY expires_at LIMIT {BATCH_EXPORTS} FOR UPDATE SKIP LOCKED))
"""  # noqa: S608


class ExportBuild(BaseModel):
    """The payload of the job that makes an export's file."""

    export_id: UUID


class Plan(BaseModel):
    """What the run that begins a file finds: the number of items, and the time of the last one."""

    run: int
    item_count: int
    until: datetime | None


class Written(BaseModel):
    """How much of a file is written. `after`: time and id of the last item; `complete`: there is no other."""

    item_count: int = 0
    size: int = 0
    after: tuple[datetime, UUID] = (datetime.min.replace(tzinfo=UTC), UUID(int=0))
    complete: bool = False


async def request_export(
    session: AsyncSession,
    owner: str,
    *,
    format: Format,  # noqa: A002 - the name of the field
    tag: str | None,
    keep: timedelta,
) -> dict[str, Any]:
    """Insert an export of `owner`'s items, or of those with a tag, and enqueue the job that makes its file.

    Both are part of the session's transaction. The export expires after `keep`, counted again when it is ready.
    Returns the export as `get_export` does.

    Raises:
        TooManyJobsError: the owner has too many exports that are not ready.
        TooManyExportsError: the owner has too many exports in all.
    """
    export_id = python_uuid7()
    # First: the kind has a limit for each owner, so of two requests at once the second waits here and counts the first.
    job = await enqueue(session, BUILD, ExportBuild(export_id=export_id), owner=owner)
    if (await _rows(session, _COUNT, owner))[0]["count"] >= MAX_KEPT:
        raise TooManyExportsError("You have too many exports. Wait until some have expired.")
    session.add(
        Export(
            id=export_id,
            owner=owner,
            format=format,
            tag=tag,
            job_id=job.id,
            expires_at=func.now() + keep,  # type: ignore[arg-type]
        )
    )
    await session.flush()
    return (await _rows(session, _GET, export_id, owner))[0]


async def get_export(connection: asyncpg.Connection, owner: str, export_id: UUID) -> dict[str, Any]:
    """One export with its `status`: pending, running, ready, failed or cancelled.

    Raises:
        NotFoundError: there is none with that id, it is not `owner`'s, or it has expired.
    """
    record = await connection.fetchrow(_GET, export_id, owner)
    if record is None:
        raise NotFoundError("There is no such export.")
    return dict(record)


async def begin_file(session: AsyncSession, export_id: UUID, run: int) -> Plan:
    """Look at what is to be written. Items that come later are not part of the file.

    Raises:
        Discard: the export has expired.
    """
    export = await _to_build(session, export_id)
    statement = _COUNT_ALL if export["tag"] is None else _COUNT_TAGGED
    found = await _rows(session, statement, export["owner"], export["tag"])
    return Plan(run=run, **found[0])


async def write_part(session: AsyncSession, export_id: UUID, plan: Plan, written: Written) -> Written:
    """Write the part of a file that comes after what is written. It cannot be read until `publish`.

    Raises:
        Discard: the export has expired.
    """
    export = await _to_build(session, export_id)
    statement = _READ_ALL if export["tag"] is None else _READ_TAGGED
    part = Part(export["format"], start=written.size)
    after, complete = written.after, False
    while not complete and part.item_count < max(PART_ITEMS, plan.item_count // MAX_PARTS):
        items = await _rows(session, statement, export["owner"], export["tag"], plan.until, *after, BATCH_ITEMS)
        await _store(session, export_id, plan.run, await asyncio.to_thread(part.add, items))
        complete = len(items) < BATCH_ITEMS
        if items:
            after = (items[-1]["created_at"], items[-1]["id"])
    await _store(session, export_id, plan.run, await asyncio.to_thread(part.finish))
    return Written(item_count=written.item_count + part.item_count, size=part.stop, after=after, complete=complete)


async def digest_of(database: Database, export_id: UUID, plan: Plan, written: Written) -> str:
    """The SHA-256 of a complete file, in hex: read again, since a digest cannot be kept between two parts.

    Raises:
        Discard: the export has expired.
    """
    digest = sha256()
    try:
        async for piece in await read_content(database, export_id, run=plan.run, start=0, stop=written.size):
            digest.update(piece)
    except NotFoundError:
        raise Discard(GONE) from None
    return digest.hexdigest()


async def publish(
    session: AsyncSession, export_id: UUID, plan: Plan, written: Written, *, digest: str, keep: timedelta
) -> None:
    """Make a complete file the one of its export, which is ready then.

    Raises:
        Discard: the export has expired.
    """
    published = await session.exec(
        update(Export)
        .where(col(Export.id) == export_id, col(Export.expires_at) > func.now())
        .values(
            run=plan.run,
            item_count=written.item_count,
            size=written.size,
            digest=digest,
            ready_at=func.now(),
            expires_at=func.now() + keep,
        )
    )
    if published.rowcount == 0:
        raise Discard(GONE)


async def read_content(database: Database, export_id: UUID, *, run: int, start: int, stop: int) -> AsyncIterator[bytes]:
    """The bytes from `start` to `stop` of the file of a ready export, a chunk at a time.

    The first chunk is read before this returns, while an error still has an answer. Later ones wait for a database that
    is busy or away. Holds no connection while the client reads.

    Raises:
        NotFoundError: the export has expired; the iterator raises it too.
    """
    read = partial(_read_piece, database, export_id, run, stop)
    return _pieces(await read(start), start, read)


async def delete_expired_exports(database: Database) -> int:
    """Delete a batch of expired exports with their chunks; returns how many."""
    async with database.connection() as connection:
        status = await connection.execute(_DELETE_EXPIRED)
    return int(status.rpartition(" ")[2])


async def _pieces(piece: bytes, position: int, read: Callable[[int], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    while piece:
        yield piece
        position += len(piece)
        piece = await patiently(partial(read, position))


async def _read_piece(database: Database, export_id: UUID, run: int, stop: int, start: int) -> bytes:
    """The bytes from `start` to the end of their chunk, or to `stop`; none at the end."""
    if start >= stop:
        return b""
    async with database.connection() as connection:
        chunk = await connection.fetchrow(_READ_CHUNK, export_id, run, start)
    if chunk is None or chunk["start"] + chunk["size"] <= start:
        raise NotFoundError("The export has expired.")
    return zlib.decompress(chunk["data"])[start - chunk["start"] : stop - chunk["start"]]


async def _to_build(session: AsyncSession, export_id: UUID) -> dict[str, Any]:
    for export in await _rows(session, _TO_BUILD, export_id):
        return export
    raise Discard(GONE)


async def _store(session: AsyncSession, export_id: UUID, run: int, chunks: list[Chunk]) -> None:
    for chunk in chunks:
        values = {"export_id": export_id, "run": run, **asdict(chunk)}
        # Another run that has taken over may have written it: then this step is not kept, but raises LeaseLost.
        await session.exec(insert(ExportChunk).values(values).on_conflict_do_nothing())


async def _rows(session: AsyncSession, statement: str, *arguments: Any) -> list[dict[str, Any]]:
    result = await (await session.connection()).exec_driver_sql(statement, arguments)
    return [dict(row) for row in result.mappings()]
