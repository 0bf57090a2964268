"""Enqueues jobs: rows in a transaction of the caller or of their own, and a doorbell ring after the commit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, TypedDict, Unpack
from uuid import UUID

import asyncpg
from opentelemetry.context import Context
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.engine import Database
from plinth.database.uuid7 import python_uuid7
from plinth.jobs.after_commit import after_commit
from plinth.jobs.codec import CodecOf, encoded_rows
from plinth.jobs.doorbell import ring_after_commit, ring_now
from plinth.jobs.enqueue_sql import INSERT, INSERT_KEYED, INSERT_REPLACING, LIVE, LIVE_WAITING
from plinth.jobs.kinds import JobKind, check_name, kind_named
from plinth.jobs.metrics import ENQUEUED
from plinth.jobs.open_batch import hold_open
from plinth.jobs.outcome import storable
from plinth.jobs.owner_limit import make_room
from plinth.jobs.payload import dump
from plinth.jobs.unique import Unique, Uniqueness, held_keys, insert_holding, uniqueness
from plinth.telemetry.tracing import enqueue_span

__all__ = ["EnqueueOptions", "EnqueuedJob", "Insertion", "enqueue", "enqueue_many", "prepare"]

MAX_TEXT_LENGTH = 255
MAX_STATEMENT = 10_000  # jobs of a call in one statement
MAX_DELAY = 100 * 365 * 86_400  # seconds


@dataclass(frozen=True, slots=True)
class EnqueuedJob:
    """An enqueued job. `created` is False if another job holds the unique key; `id` is then that job's."""

    id: UUID
    created: bool


class EnqueueOptions(TypedDict, total=False):
    """Options of `enqueue`, `enqueue_many` and `JobContext.enqueue`; see there."""

    owner: str | None
    queue: str | None
    priority: int | None
    run_at: datetime | None
    delay: float
    replace: bool
    unique: Unique
    unique_for: float | None
    batch: UUID | None


async def enqueue(
    to: AsyncSession | Database,
    kind: str | JobKind[Any],
    payload: BaseModel,
    *,
    unique_key: str | None = None,
    **options: Unpack[EnqueueOptions],
) -> EnqueuedJob:
    """Enqueue a job: as part of a session's transaction, or at once.

    Args:
        to: a session: the job exists if and only if its transaction commits. A database: the job exists when this
            returns; one statement, half the time.
        unique_key: only one live job of a kind has it, unless `unique` or `unique_for` say otherwise.
        owner: the `owner` of the principal that may see and cancel it.
        queue: instead of the kind's.
        priority: instead of the kind's.
        run_at: not before this time (with a time zone).
        delay: seconds from now, by the database's clock, before which it is not run.
        replace: a job that has the key and still waits takes this payload, priority and time. With a delay, a burst
            of calls makes one run after the last of them. A running job stays as it is.
        unique: the job holds its key while it is `live`, while it is `waiting` (and not once a run starts), or until
            `success` (and so as a dead letter).
        unique_for: it holds its key for so many seconds from now at least, also if it has ended.
        batch: the open batch that it becomes a member of.

    Raises:
        TooManyJobsError: the owner has as many jobs of this kind to be done as one may have.
        BatchEndedError: the batch has ended, or there is none.
        UnknownKindError: this process does not know the kind.
        TypeError: the payload is not of the kind's model.
        ValueError: `run_at` has no time zone, it or `delay` is too far away, a text is too long or holds a NUL, the
            payload does not survive JSON, or the key of its limit is no such key.
    """
    keys = None if unique_key is None else [unique_key]
    (job,) = await enqueue_many(to, kind, [payload], unique_keys=keys, **options)
    return job


async def enqueue_many(
    to: AsyncSession | Database,
    kind: str | JobKind[Any],
    payloads: Sequence[BaseModel],
    *,
    unique_keys: Sequence[str] | None = None,
    **options: Unpack[EnqueueOptions],
) -> list[EnqueuedJob]:
    """Enqueue a job for each payload, all or none; the answers are in the payloads' order. See `enqueue`.

    One round trip for each 10,000. `unique_keys`: one for each payload; a repeated key makes one job.
    """
    kind = kind if isinstance(kind, JobKind) else kind_named(kind)
    insertion = prepare(kind, payloads, unique_keys=unique_keys, **options)
    owner = options.get("owner") if kind.max_per_owner is not None else None
    batch = options.get("batch")
    if isinstance(to, Database):
        alone = owner is None and batch is None and not insertion.terms.unique.holds
        if alone and len(payloads) <= MAX_STATEMENT:
            return await insertion.commit(to)
        async with to.session() as session:  # the count of the owner's jobs holds for a transaction
            return await enqueue_many(session, kind, payloads, unique_keys=unique_keys, **options)
    if owner is not None:
        keys = set(unique_keys or ())
        if insertion.terms.unique.holds:
            keys -= (await held_keys(await to.connection(), kind.name, keys)).keys()
        number = len(payloads if unique_keys is None else keys)
        await make_room(to, kind, owner, number, unique_keys=[*keys])
    if batch is not None:
        await hold_open(to, batch)
    return await insertion.execute(to)


class Terms(NamedTuple):
    """What jobs that are inserted by one statement have in common."""

    kind: str
    queue: str
    priority: int
    owner: str | None
    max_attempts: int
    run_at: datetime | None
    delay: timedelta
    replace: bool = False
    unique: Uniqueness = Uniqueness()
    batch: UUID | None = None
    codec: CodecOf | None = None


class Row(NamedTuple):
    """A job to insert."""

    id: UUID
    payload: str
    unique_key: str | None
    limit_key: str | None = None


@dataclass(frozen=True, slots=True)
class Insertion:
    """Validated jobs, ready to be inserted: in the trace of `context`, or else in the current one."""

    terms: Terms
    rows: Sequence[Row]
    context: Context | None = None

    async def execute(self, session: AsyncSession) -> list[EnqueuedJob]:
        """Insert the jobs in the session's transaction."""
        if not self.rows:
            return []
        terms = self.terms
        with enqueue_span(terms.kind, terms.queue, len(self.rows), self.context) as trace_context:
            found = await self.stored(session.info)._insert(await session.connection(), trace_context)
        ring_after_commit(session, queues=[terms.queue])
        jobs = self._answers(found)
        after_commit(session, partial(self._count, jobs))
        return jobs

    async def commit(self, database: Database) -> list[EnqueuedJob]:
        """Insert the jobs at once, in a statement that commits by itself."""
        if not self.rows:
            return []
        terms = self.terms
        with enqueue_span(terms.kind, terms.queue, len(self.rows), self.context) as trace_context:
            async with database.connection() as connection:
                found = await self.stored(database.session_info)._insert_alone(connection, trace_context)
        ring_now(database, queues=[terms.queue])
        jobs = self._answers(found)
        self._count(jobs)
        return jobs

    def _answers(self, found: Mapping[str, UUID]) -> list[EnqueuedJob]:
        if not found:
            return [EnqueuedJob(row.id, created=True) for row in self.rows]
        ids = [row.id if row.unique_key is None else found[row.unique_key] for row in self.rows]
        return [EnqueuedJob(job_id, job_id == row.id) for job_id, row in zip(ids, self.rows, strict=True)]

    def _count(self, jobs: Sequence[EnqueuedJob]) -> None:
        ENQUEUED.labels(self.terms.kind).inc(sum(job.created for job in jobs))

    def _arguments(self, rows: Sequence[Row], trace_context: str | None) -> tuple[Any, ...]:
        ids, payloads, keys, limits = ([*column] for column in zip(*rows, strict=True))
        last = trace_context, limits, self.terms.unique.waiting, self.terms.batch
        return (ids, *self.terms[:4], payloads, keys, *self.terms[4:7], *last)

    def stored(self, info: Mapping[Any, Any]) -> "Insertion":
        """The jobs with their payloads as they are stored; `info` is the `info` of the session."""
        codec, kind = self.terms.codec, self.terms.kind
        return self if codec is None else replace(self, rows=encoded_rows(self.rows, codec, kind, info))

    def _distinct(self) -> tuple[list[Row], dict[str, Row]]:
        """The rows without those of a repeated key, and the keyed ones by key.

        Keys are in order: concurrent calls wait for each other in one order.
        """
        # Of a repeated key the first row counts or, if it replaces, the last.
        line = self.rows if self.terms.replace else reversed(self.rows)
        chosen = {row.unique_key: row for row in line if row.unique_key is not None}
        keyed = {key: chosen[key] for key in sorted(chosen)}
        return [*(row for row in self.rows if row.unique_key is None), *keyed.values()], keyed

    @property
    def _keyed(self) -> str:
        return INSERT_REPLACING if self.terms.replace else INSERT_KEYED

    @property
    def _live(self) -> str:
        return LIVE_WAITING if self.terms.unique.waiting else LIVE

    async def _insert(self, connection: AsyncConnection, trace_context: str | None) -> dict[str, UUID]:
        """Insert the jobs; return the job that holds each unique key."""
        rows, keyed = self._distinct()
        insert = partial(self._insert_rows, connection, trace_context)
        if keyed and self.terms.unique.holds:
            return await insert_holding(connection, self.terms.kind, self.terms.unique, rows, insert)
        return await insert(rows)

    async def _insert_rows(
        self, connection: AsyncConnection, trace_context: str | None, rows: Sequence[Row]
    ) -> dict[str, UUID]:
        keyed = [row.unique_key for row in rows if row.unique_key is not None]
        starts = range(0, len(rows), MAX_STATEMENT)
        batches = [self._arguments(rows[start : start + MAX_STATEMENT], trace_context) for start in starts]
        if not keyed:
            for arguments in batches:
                await connection.exec_driver_sql(INSERT, arguments)
            return {}
        while True:
            # A second try must not hold keys of the first: it would ask for an earlier one, and deadlock.
            savepoint = await connection.begin_nested() if len(rows) > 1 else None
            found: dict[str, UUID] = {}
            for arguments in batches:
                made = await connection.exec_driver_sql(self._keyed, arguments)
                found |= {row.unique_key: row.id for row in made if row.unique_key is not None}
            if taken := [key for key in keyed if key not in found]:
                live = await connection.exec_driver_sql(self._live, (self.terms.kind, taken))
                found |= {row.unique_key: row.id for row in live}
            if len(found) == len(keyed):
                if savepoint is not None:
                    await savepoint.commit()
                return found
            # A job that had one of the keys has ended in between.
            if savepoint is not None:
                await savepoint.rollback()

    async def _insert_alone(self, connection: asyncpg.Connection, trace_context: str | None) -> dict[str, UUID]:
        """Insert the jobs, each statement in a transaction of its own; return the live job of each unique key."""
        rows, keyed = self._distinct()
        if not keyed:
            await connection.execute(INSERT, *self._arguments(rows, trace_context))
        found: dict[str, UUID] = {}
        while len(found) < len(keyed):
            made = await connection.fetch(self._keyed, *self._arguments(rows, trace_context))
            found |= {row["unique_key"]: row["id"] for row in made if row["unique_key"] is not None}
            if taken := [key for key in keyed if key not in found]:
                live = await connection.fetch(self._live, self.terms.kind, taken)
                found |= {row["unique_key"]: row["id"] for row in live}
            # A job that had one of the keys has ended in between: its key is free now.
            rows = [row for key, row in keyed.items() if key not in found]
        return found


def prepare(
    kind: str | JobKind[Any],
    payloads: Sequence[BaseModel],
    *,
    unique_keys: Sequence[str] | None = None,
    owner: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    run_at: datetime | None = None,
    delay: float = 0,
    replace: bool = False,
    unique: Unique = "live",
    unique_for: float | None = None,
    batch: UUID | None = None,
) -> Insertion:
    """Validate jobs without touching the database; errors as for `enqueue`."""
    if not isinstance(kind, JobKind):
        kind = kind_named(kind)
    queue = queue or kind.queue
    priority = kind.priority if priority is None else priority
    keys: Sequence[str | None] = unique_keys if unique_keys is not None else [None] * len(payloads)
    if len(keys) != len(payloads):
        raise ValueError("there is one unique key for each payload, or none")
    check_name(queue)
    for text in (owner, *keys):
        if text is not None and (not 0 < len(text) <= MAX_TEXT_LENGTH or storable(text) != text):
            raise ValueError(
                f"owners and unique keys have 1 to {MAX_TEXT_LENGTH} characters, no NUL and no lone surrogate"
            )
    if run_at is not None and (run_at.tzinfo is None or not 1900 < run_at.year < 9999):
        raise ValueError("run_at needs a time zone, and a year from 1901 to 9998")
    if not abs(delay) <= MAX_DELAY:  # nor is NaN
        raise ValueError(f"a delay is a number of seconds, {MAX_DELAY} at most")
    if not -32768 <= priority <= 32767:
        raise ValueError("priorities are -32768 to 32767")
    uniquely = uniqueness(unique, unique_for, keyed=unique_keys is not None, replace=replace)
    times = run_at, timedelta(seconds=delay)
    most = kind.retry.max_attempts
    terms = Terms(kind.name, queue, priority, owner, most, *times, replace, uniquely, batch, kind.codec)
    rows = [
        Row(python_uuid7(), dump(kind, payload), key, kind.limit_key(payload))
        for payload, key in zip(payloads, keys, strict=True)
    ]
    return Insertion(terms, rows)
