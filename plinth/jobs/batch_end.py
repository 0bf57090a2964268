"""Ends batches: counts their members and enqueues the job that is to run then.

No row counts down: members that end at the same time would wait for each other. A batch is over when no live job is a
member. So each transaction that ends members looks, after its commit or with the batch's row locked until then: the
last one finds none.
"""

from collections.abc import Collection
from functools import partial
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.jobs.after_commit import after_commit
from plinth.jobs.doorbell import ring_after_commit
from plinth.jobs.events import emit
from plinth.jobs.metrics import ENQUEUED

__all__ = ["end_batches", "event_of"]

# A statement of its own: what counts must see what the transactions before have committed.
_LOCK = "SELECT id FROM job_batch WHERE id = ANY ($1::uuid[]) AND finished_at IS NULL ORDER BY id FOR UPDATE"
# The members of a batch are counted once it is over: there may be a million.
_END = """
WITH over AS MATERIALIZED (
    SELECT id FROM job_batch
    WHERE id = ANY ($1::uuid[]) AND finished_at IS NULL
        AND (SELECT true FROM job WHERE batch_id = job_batch.id LIMIT 1) IS NULL
), ended AS (
    UPDATE job_batch SET finished_at = now(), succeeded = ends.succeeded, cancelled = ends.cancelled,
        discarded = ends.discarded
    FROM over, LATERAL (
        SELECT count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
            count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE state = 'discarded') AS discarded
        FROM job_history WHERE batch_id = over.id) AS ends
    WHERE job_batch.id = over.id
    RETURNING job_batch.*
), called AS (
    INSERT INTO job (id, kind, queue, priority, owner, payload, max_attempts, run_at, state, trace_context,
        limit_key)
    SELECT on_end_id, on_end ->> 'kind', on_end ->> 'queue', (on_end ->> 'priority')::smallint, owner,
        on_end -> 'payload', (on_end ->> 'max_attempts')::smallint, now(), 'available', on_end -> 'trace_context',
        COALESCE(on_end ->> 'limit_key', '')
    FROM ended WHERE on_end IS NOT NULL
)
SELECT id, parent_id, succeeded, cancelled, discarded, on_end ->> 'kind' AS kind, on_end ->> 'queue' AS queue
FROM ended ORDER BY id
"""


async def end_batches(session: AsyncSession, batches: Collection[UUID], *, wait: bool = True) -> None:
    """End those of the batches that have no live member, in the session's transaction; each ends once.

    Their rows are locked until the end of the transaction, so that no other one overlooks what this one has ended.
    Without `wait` those that another transaction has locked are left to it, or to the worker that looks each minute.
    """
    if not batches:
        return
    connection = await session.connection()
    held = await connection.exec_driver_sql(_LOCK if wait else f"{_LOCK} SKIP LOCKED", (list(batches),))
    ended = (await connection.exec_driver_sql(_END, ([row.id for row in held],))).all()
    for batch in ended:
        if batch.parent_id is not None:
            ends = {state: getattr(batch, state) for state in ("succeeded", "cancelled", "discarded")}
            await emit(session, event_of(batch.id), ends)
        if batch.kind is not None:
            after_commit(session, partial(ENQUEUED.labels(batch.kind).inc))
    ring_after_commit(session, queues={batch.queue for batch in ended if batch.queue is not None})


def event_of(batch: UUID) -> str:
    """The name of the event that a batch of child jobs emits at its end."""
    return f"batch:{batch}"
