"""Batches: jobs that are enqueued together, and a job that runs when all of them have ended."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Unpack
from uuid import UUID

from pydantic import BaseModel
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.engine import SETTINGS, Database
from plinth.database.uuid7 import python_uuid7
from plinth.jobs.batch_end import end_batches
from plinth.jobs.codec import decode, result_context
from plinth.jobs.context import JobContext
from plinth.jobs.enqueue import EnqueuedJob, EnqueueOptions, Insertion, enqueue_many, prepare
from plinth.jobs.kinds import JobKind, kinds
from plinth.jobs.outcome import State
from plinth.telemetry.tracing import enqueue_span

__all__ = ["Batch", "EndedBatch", "MemberResult", "batch", "ended_batch", "member_results", "open_batch"]

RESULT_ROWS = 500  # in one statement: of up to 64 KiB each

_OPEN = "INSERT INTO job_batch (id, owner, parent_id, on_end_id, on_end) VALUES ($1, $2, $3, $4, $5::jsonb)"
_ENDED = "SELECT id, succeeded, cancelled, discarded FROM job_batch WHERE on_end_id = $1 AND finished_at IS NOT NULL"
_RESULTS = """
SELECT id, kind, state, result::text AS result, errors -> -1 ->> 'error' AS error
FROM job_history WHERE batch_id = $1 AND id > $2 ORDER BY id LIMIT $3
"""
_BEFORE_ALL = UUID(int=0)


@dataclass(slots=True)
class Batch:
    """A batch whose members are being enqueued, in the transaction of `batch`."""

    id: UUID
    owner: str | None
    _session: AsyncSession = field(repr=False)
    filled: bool = field(default=False, init=False)

    async def enqueue(
        self,
        kind: str | JobKind[Any],
        payload: BaseModel,
        *,
        unique_key: str | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> EnqueuedJob:
        """Enqueue a member. Errors and options as for `plinth.jobs.enqueue`; its owner is the batch's.

        If a live job has the unique key, that job is the answer, and does not become a member.
        """
        keys = None if unique_key is None else [unique_key]
        (job,) = await self.enqueue_many(kind, [payload], unique_keys=keys, **options)
        return job

    async def enqueue_many(
        self,
        kind: str | JobKind[Any],
        payloads: Sequence[BaseModel],
        *,
        unique_keys: Sequence[str] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> list[EnqueuedJob]:
        """Enqueue a member for each payload, as `enqueue` does for one."""
        options = {"owner": self.owner, **options, "batch": self.id}
        jobs = await enqueue_many(self._session, kind, payloads, unique_keys=unique_keys, **options)
        self.filled |= any(job.created for job in jobs)
        return jobs


@asynccontextmanager
async def batch(
    to: AsyncSession | Database,
    *,
    owner: str | None = None,
    on_end: tuple[str | JobKind[Any], BaseModel] | None = None,
) -> AsyncIterator[Batch]:
    """Enqueue jobs as a batch: all that the block enqueues by it, or nothing.

    A batch has ended when none of its members is live. One without members ends at once, and one that has ended stays
    so, also if a member is retried by hand.

    Args:
        to: a session: the batch is part of its transaction. A database: of one of its own, which commits at the end of
            the block.
        owner: the `owner` of the principal that may see it, and of its jobs.
        on_end: a kind and a payload: the job that is enqueued when the batch ends, once, whatever came of its members.

    Raises:
        UnknownKindError, TypeError, ValueError: as for `plinth.jobs.enqueue`.
    """
    if isinstance(to, Database):
        async with to.session() as session, batch(session, owner=owner, on_end=on_end) as made:
            yield made
        return
    last = None if on_end is None else prepare(on_end[0], [on_end[1]], owner=owner)
    made = Batch(python_uuid7(), owner, to)
    async with to.begin_nested():
        await open_batch(to, made.id, owner=owner, on_end=last)
        yield made
        if not made.filled:
            await end_batches(to, [made.id])


async def open_batch(
    session: AsyncSession,
    batch: UUID,
    *,
    owner: str | None,
    on_end: Insertion | None = None,
    parent: UUID | None = None,
) -> None:
    """Write a batch. `on_end`: the one job to enqueue at its end; `parent`: the job whose children it is made of."""
    arguments: tuple[Any, ...] = (batch, owner, parent, None, None)
    if on_end is not None:
        (row,), terms = on_end.stored(session.info).rows, on_end.terms
        with enqueue_span(terms.kind, terms.queue, 1) as trace_context:
            kept = {name: getattr(terms, name) for name in ("kind", "queue", "priority", "max_attempts")}
            kept |= {"payload": json.loads(row.payload), "limit_key": row.limit_key}
            kept |= {"trace_context": json.loads(trace_context)} if trace_context is not None else {}
        arguments = (batch, owner, parent, row.id, json.dumps(kept))
    await (await session.connection()).exec_driver_sql(_OPEN, arguments)


class EndedBatch(NamedTuple):
    """A batch that has ended, and how many of its members ended in each way."""

    id: UUID
    succeeded: int
    cancelled: int
    discarded: int


async def ended_batch(ctx: JobContext) -> EndedBatch:
    """Return the batch at whose end this job was enqueued.

    Raises:
        LookupError: this job is no `on_end` of a batch.
    """
    async with ctx.database.connection() as connection:
        row = await connection.fetchrow(_ENDED, ctx.id)
    if row is None:
        raise LookupError("this job was enqueued at the end of no batch")
    return EndedBatch(*row)


class MemberResult(NamedTuple):
    """How a member of a batch has ended.

    `result`: what its handler returned, as JSON has it, decrypted. `error`: that of its last failed run.
    """

    id: UUID
    kind: str
    state: State
    result: Any
    error: str | None


async def member_results(session: AsyncSession, batch: UUID) -> AsyncIterator[MemberResult]:
    """Yield how the members of a batch have ended that are not live, the oldest (by id) first.

    Raises:
        ValueError: a result cannot be decrypted.
    """
    connection = await session.connection()
    after = _BEFORE_ALL
    while True:
        rows = (await connection.exec_driver_sql(_RESULTS, (batch, after, RESULT_ROWS))).all()
        for row in rows:
            result = None if row.result is None else json.loads(_plain(row.id, row.kind, row.result, session.info))
            yield MemberResult(row.id, row.kind, State(row.state), result, row.error)
        if len(rows) < RESULT_ROWS:
            return
        after = rows[-1].id


def _plain(job_id: UUID, kind: str, result: str, info: Mapping[Any, Any]) -> str:
    """Return the JSON of a result, which a codec may have stored otherwise; as it is if this process has no codec."""
    known = kinds().get(kind)
    codec = None if known is None or SETTINGS not in info else known.codec_for(info[SETTINGS])
    return result if codec is None else decode(codec, result, result_context(job_id))
