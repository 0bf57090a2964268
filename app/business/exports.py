"""The operations on exports: files of an owner's items, made by a job and kept in the database until they expire.

The file is stored in chunks, each compressed by itself and written in a transaction of its own, so writing and reading
hold one chunk or one batch of items in memory. A chunk has the number of the run that wrote it, and an export has the
number of the run that finished: chunks of other runs, left over or still being written, are never read.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import BaseModel
from sqlalchemy import func, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.business.export_file import COLUMNS, Chunk, ExportFile, Format
from app.core.exceptions import TooManyExportsError
from app.models.export import Export
from plinth.database.engine import Database
from plinth.database.patience import patiently
from plinth.database.uuid7 import python_uuid7
from plinth.errors import NotFoundError
from plinth.jobs import Discard, LeaseLost, enqueue

__all__ = [
    "BUILD",
    "ExportBuild",
    "ReportProgress",
    "delete_expired_exports",
    "get_export",
    "publish",
    "read_content",
    "request_export",
    "write_file",
]

BUILD = "exports.build"
# Per owner. Each export is a copy of all the owner's items, and its job keeps other jobs waiting.
MAX_UNFINISHED = 5  # the limit of the kind, which holds for retries too
MAX_KEPT = 50
# Some milliseconds of work, and at most some megabytes if each item has its maximum size.
BATCH_ITEMS = 100
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

_TO_BUILD = "SELECT owner, format, tag FROM export WHERE id = $1 AND expires_at > now()"
# Not those of later runs: this run may have been replaced already.
_DELETE_EARLIER_CHUNKS = "DELETE FROM export_chunk WHERE export_id = $1 AND run < $2"

_COLUMNS = ", ".join(f"item.{name}" for name in COLUMNS)
# The owner's items, all and those with a tag; and the order of each, along an index.
_ALL = ("FROM item WHERE owner = $1 AND deleted_at IS NULL", "created_at, id")
_TAGGED = (
    "FROM item_tag JOIN item USING (id) WHERE item_tag.owner = $1 AND tag = $2 AND deleted_at IS NULL",
    "item_tag.created_at, item_tag.id",
)

# Fenced by the run's number: a run that was replaced writes nothing. The lock keeps the export from being deleted
# meanwhile.
_WRITE_CHUNK = """
INSERT INTO export_chunk (export_id, run, start, size, data)
SELECT export.id, $2, $3, $4, $5 FROM export JOIN job_status ON job_status.id = export.job_id
WHERE export.id = $1 AND job_status.live AND job_status.run = $2 FOR KEY SHARE OF export
RETURNING true
"""
_EXISTS = "SELECT EXISTS (SELECT FROM export WHERE id = $1)"

_READ_CHUNK = """
SELECT start, size, data FROM export_chunk WHERE export_id = $1 AND run = $2 AND start <= $3
ORDER BY start DESC LIMIT 1
"""

_DELETE_EXPIRED = f"""
DELETE FROM export WHERE id = ANY (ARRAY(
    SELECT id FROM export WHERE expires_at <= now() ORDER BY expires_at LIMIT {BATCH_EXPORTS} FOR UPDATE SKIP LOCKED))
"""  # noqa: S608

ReportProgress = Callable[[int, int], None]
"""Called with the number of items written so far and of all items. An exception from it ends the writing."""


class ExportBuild(BaseModel):
    """The payload of the job that makes an export's file."""

    export_id: UUID


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
    connection = await session.connection()
    if (await connection.exec_driver_sql(_COUNT, (owner,))).scalar_one() >= MAX_KEPT:
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
    return dict((await connection.exec_driver_sql(_GET, (export_id, owner))).mappings().one())


async def get_export(connection: asyncpg.Connection, owner: str, export_id: UUID) -> dict[str, Any]:
    """One export with its `status`: pending, running, ready, failed or cancelled.

    Raises:
        NotFoundError: there is none with that id, it is not `owner`'s, or it has expired.
    """
    record = await connection.fetchrow(_GET, export_id, owner)
    if record is None:
        raise NotFoundError("There is no such export.")
    return dict(record)


async def write_file(database: Database, export_id: UUID, *, run: int, report: ReportProgress) -> ExportFile:
    """Write the file of an export from its beginning, as chunks of `run`. It cannot be read until `publish`.

    Holds one connection, and a second one while it writes a chunk.

    Raises:
        Discard: the export has expired.
        LeaseLost: another run of the job has begun.
    """
    async with database.connection() as connection:
        export = await connection.fetchrow(_TO_BUILD, export_id)
        if export is None:
            raise Discard(GONE)
        await connection.execute(_DELETE_EARLIER_CHUNKS, export_id, run)
    file = ExportFile(export["format"])
    source, order = _ALL if export["tag"] is None else _TAGGED
    arguments = [export["owner"]] if export["tag"] is None else [export["owner"], export["tag"]]
    async with _snapshot(database) as connection:
        total = await connection.fetchval(f"SELECT count(*) {source}", *arguments)
        # Unnamed: behind a transaction pooler, names of statements collide.
        statement = await connection.prepare(f"SELECT {_COLUMNS} {source} ORDER BY {order}", name="")
        cursor = await statement.cursor(*arguments)
        report(0, total)
        while items := await cursor.fetch(BATCH_ITEMS):
            for chunk in await asyncio.to_thread(file.add, items):
                await _write_chunk(database, export_id, run, chunk)
            report(file.item_count, total)
    for chunk in await asyncio.to_thread(file.finish):
        await _write_chunk(database, export_id, run, chunk)
    return file


async def publish(session: AsyncSession, export_id: UUID, file: ExportFile, *, run: int, keep: timedelta) -> None:
    """Make the chunks of `run` the file of the export, which is ready then.

    Raises:
        Discard: the export has expired.
    """
    published = await session.exec(
        update(Export)
        .where(col(Export.id) == export_id, col(Export.expires_at) > func.now())
        .values(
            run=run,
            item_count=file.item_count,
            size=file.size,
            digest=file.digest,
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


async def _write_chunk(database: Database, export_id: UUID, run: int, chunk: Chunk) -> None:
    async with database.connection() as connection:
        if await connection.fetchval(_WRITE_CHUNK, export_id, run, chunk.start, chunk.size, chunk.data):
            return
        if await connection.fetchval(_EXISTS, export_id):
            raise LeaseLost
        raise Discard(GONE)


@asynccontextmanager
async def _snapshot(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection in a read-only transaction that sees one snapshot of the database."""
    async with database.connection() as connection, AsyncExitStack() as stack:
        if not connection.is_in_transaction():  # behind a transaction pooler it is in a transaction already
            await stack.enter_async_context(connection.transaction())
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield connection
