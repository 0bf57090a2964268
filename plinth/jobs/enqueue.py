"""Enqueueing: a row in the caller's own transaction, and a ring at the door once that has committed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from opentelemetry.context import Context
from pydantic import BaseModel, ValidationError
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.uuid7 import python_uuid7
from plinth.jobs.doorbell import ring_after_commit
from plinth.jobs.kinds import JobKind, check_name, kind_named
from plinth.jobs.metrics import ENQUEUED
from plinth.telemetry.tracing import enqueue_span

__all__ = ["EnqueuedJob", "Insertion", "enqueue", "enqueue_many", "prepare"]

MAX_TEXT_LENGTH = 255
_NUL = re.compile(r"(?<!\\)(\\\\)*\\u0000")  # in JSON: the escape, and not an escaped backslash before "u0000"

# One statement for one job or many. Ids are made here, so that each payload is known by its id without relying on the
# order of rows. A live job that has the key already is answered instead of a new one: updating nothing locks it, so
# it cannot end in between, and it is what makes RETURNING show it.
ENQUEUE = """
INSERT INTO job (id, kind, queue, priority, owner, payload, unique_key, max_attempts, run_at, state, trace_context)
SELECT new.id, $2, $3, $4, $5, new.payload::jsonb, new.unique_key, $8, due.at,
    CASE WHEN due.at > now() THEN 'scheduled' ELSE 'available' END, $11::jsonb
FROM unnest($1::uuid[], $6::text[], $7::text[]) AS new (id, payload, unique_key),
    (SELECT COALESCE($9::timestamptz, now() + $10::interval) AS at) AS due
ON CONFLICT (kind, unique_key) WHERE unique_key IS NOT NULL DO UPDATE SET kind = excluded.kind
RETURNING id, unique_key
"""


@dataclass(frozen=True, slots=True)
class EnqueuedJob:
    """`created` is False where a live job with the same unique key was there already; `id` is that one's then."""

    id: UUID
    created: bool


async def enqueue(
    session: AsyncSession,
    kind: str | JobKind[Any],
    payload: BaseModel,
    *,
    owner: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    run_at: datetime | None = None,
    delay: float = 0,
    unique_key: str | None = None,
) -> EnqueuedJob:
    """Enqueue a job as part of the session's transaction: it exists if and only if that commits.

    Args:
        owner: the subject of the principal who may see and cancel it.
        queue: another one than the kind's.
        priority: another one than the kind's.
        run_at: not before this time (with a time zone).
        delay: not before so many seconds from now, by the database's clock.
        unique_key: of the live jobs of a kind only one may have it.

    Raises:
        UnknownKindError: this process does not know the kind.
        TypeError: the payload is not of the kind's model.
        ValueError: `run_at` has no time zone, a text is too long or holds a NUL, or the payload does not survive JSON.
    """
    (job,) = await enqueue_many(
        session,
        kind,
        [payload],
        owner=owner,
        queue=queue,
        priority=priority,
        run_at=run_at,
        delay=delay,
        unique_keys=None if unique_key is None else [unique_key],
    )
    return job


async def enqueue_many(
    session: AsyncSession,
    kind: str | JobKind[Any],
    payloads: Sequence[BaseModel],
    *,
    owner: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    run_at: datetime | None = None,
    delay: float = 0,
    unique_keys: Sequence[str] | None = None,
) -> list[EnqueuedJob]:
    """Enqueue a job for each payload, in one round trip; the answers are in the payloads' order. See `enqueue`.

    `unique_keys`: one for each payload; a key that stands twice makes one job.
    """
    insertion = prepare(
        kind,
        payloads,
        owner=owner,
        queue=queue,
        priority=priority,
        run_at=run_at,
        delay=delay,
        unique_keys=unique_keys,
    )
    return await insertion.execute(session)


@dataclass(frozen=True, slots=True)
class Insertion:
    """Jobs that were checked and are ready to be enqueued."""

    kind: str
    queue: str
    ids: list[UUID]
    unique_keys: Sequence[str] | None
    arguments: tuple[Any, ...]
    context: Context | None = None

    async def execute(self, session: AsyncSession) -> list[EnqueuedJob]:
        """Enqueue them in the session's transaction, and in the trace of `context` if it is not the current one."""
        if not self.ids:
            return []
        connection = await session.connection()
        with enqueue_span(self.kind, self.queue, len(self.ids), self.context) as trace_context:
            result = await connection.exec_driver_sql(ENQUEUE, (*self.arguments, trace_context))
        ring_after_commit(session, queues=[self.queue])
        if self.unique_keys is None:
            jobs = [EnqueuedJob(job_id, created=True) for job_id in self.ids]
        else:
            found: dict[str, UUID] = {row.unique_key: row.id for row in result}
            jobs = [
                EnqueuedJob(found[key], found[key] == job_id)
                for job_id, key in zip(self.ids, self.unique_keys, strict=True)
            ]
        _count_after_commit(session, self.kind, sum(job.created for job in jobs))
        return jobs


def prepare(
    kind: str | JobKind[Any],
    payloads: Sequence[BaseModel],
    *,
    owner: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    run_at: datetime | None = None,
    delay: float = 0,
    unique_keys: Sequence[str] | None = None,
) -> Insertion:
    """What `enqueue_many` does before it goes to the database; errors as for `enqueue`."""
    if not isinstance(kind, JobKind):
        kind = kind_named(kind)
    queue = queue or kind.queue
    priority = kind.priority if priority is None else priority
    texts = [_dump(kind, payload) for payload in payloads]
    ids = [python_uuid7() for _ in texts]
    keys: Sequence[str | None] = unique_keys if unique_keys is not None else [None] * len(texts)
    if len(keys) != len(texts):
        raise ValueError("there is one unique key for each payload, or none")
    check_name(queue)
    for text in (owner, *keys):
        if text is not None and (not 0 < len(text) <= MAX_TEXT_LENGTH or "\0" in text):
            raise ValueError(f"owners and unique keys have 1 to {MAX_TEXT_LENGTH} characters, and no NUL")
    if run_at is not None and run_at.tzinfo is None:
        raise ValueError("run_at needs a time zone")
    if not -32768 <= priority <= 32767:
        raise ValueError("priorities are -32768 to 32767")
    # Of payloads with one key the first counts: PostgreSQL would refuse to meet the same conflict twice.
    first = {key: index for index, key in reversed(list(enumerate(keys))) if key is not None}
    rows = [index for index, key in enumerate(keys) if key is None or first[key] == index]
    rows.sort(key=lambda index: keys[index] or "")  # whoever locks several live jobs locks them in one order
    arguments = (
        [ids[index] for index in rows],
        kind.name,
        queue,
        priority,
        owner,
        [texts[index] for index in rows],
        [keys[index] for index in rows],
        kind.retry.max_attempts,
        run_at,
        timedelta(seconds=delay),
    )
    return Insertion(kind.name, queue, ids, unique_keys, arguments)


def _dump(kind: JobKind[Any], payload: BaseModel) -> str:
    if not isinstance(payload, kind.payload):
        raise TypeError(f"{kind.name} takes a {kind.payload.__name__}, not a {type(payload).__name__}")
    text: str = payload.model_dump_json(by_alias=True)
    if r"\u0000" in text and _NUL.search(text):
        raise ValueError(f"the payload of {kind.name} holds a NUL, which PostgreSQL cannot store")
    try:
        survives = kind.payload.model_validate_json(text) == payload
    except ValidationError:
        survives = False
    if not survives:  # a SecretStr is written as asterisks, infinity as null, an excluded field not at all
        raise ValueError(f"the payload of {kind.name} does not come back from JSON as it was")
    return text


_COUNTS = "jobs.enqueued"  # in a session's info: what was enqueued in which of its transactions and savepoints


def _count_after_commit(session: AsyncSession, kind: str, count: int) -> None:
    sync = session.sync_session
    transaction = sync.get_nested_transaction() or sync.get_transaction()
    sync.info.setdefault(_COUNTS, []).append((transaction, kind, count))


def _is_within(inner: SessionTransaction | None, outer: SessionTransaction | None) -> bool:
    while inner is not None and inner is not outer:
        inner = inner.parent
    return inner is outer


# For all sessions, as in `plinth.jobs.doorbell`. A ring that comes in vain does no harm; a count that does is wrong.
@event.listens_for(Session, "after_commit")
def _count(session: Session) -> None:
    if _COUNTS in session.info and not session.in_nested_transaction():
        committed = session.get_transaction()
        for transaction, kind, count in session.info.pop(_COUNTS):
            if _is_within(transaction, committed):  # else it belongs to one that was closed without a word
                ENQUEUED.labels(kind).inc(count)


@event.listens_for(Session, "after_soft_rollback")
def _forget(session: Session, previous: SessionTransaction) -> None:
    if _COUNTS in session.info:
        counts = session.info[_COUNTS]
        counts[:] = [count for count in counts if not _is_within(count[0], previous)]
