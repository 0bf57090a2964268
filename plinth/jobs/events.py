"""Events that jobs wait for: `emit`, and the lock between emitting one and waiting for it."""

from hashlib import blake2b
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.jobs.doorbell import ring_after_commit
from plinth.jobs.outcome import storable
from plinth.jobs.payload import holds_nul
from plinth.jobs.steps import MAX_NAME

__all__ = ["check_event", "emit", "event_lock"]

MAX_PAYLOAD = 65_536  # bytes of JSON

# Waiting for an event and emitting it exclude each other until the transaction ends: else the event could be missed.
LOCK_EVENT = "SELECT pg_advisory_xact_lock($1)"
# The first event of a name is kept. It ends the waits for it, and their jobs go on.
EMIT = """
WITH new AS (
    INSERT INTO job_event (name, payload) VALUES ($1, $2::jsonb) ON CONFLICT DO NOTHING RETURNING name
), heard AS (
    UPDATE job_step SET state = 'done', result = $2::jsonb, finished_at = now()
    FROM new WHERE job_step.event = new.name AND job_step.state = 'waiting' RETURNING job_step.job_id
), woken AS (
    UPDATE job SET state = 'available', run_at = now()
    WHERE id = ANY (ARRAY(SELECT job_id FROM heard)) AND state = 'scheduled' RETURNING queue
)
SELECT EXISTS (SELECT FROM new) AS first, ARRAY(SELECT DISTINCT queue FROM woken) AS queues
"""


async def emit(session: AsyncSession, event: str, payload: Any = None) -> bool:
    """Emit an event in the session's transaction: jobs that wait for it go on, and later ones find it.

    The first event of a name counts. Returns whether this was the first. `payload` is what Pydantic can make JSON of;
    `JobContext.wait_for` returns it.

    Raises:
        TypeError: the payload is nothing that JSON can hold.
        ValueError: the name is empty or too long, or the payload is too large, holds a NUL, an infinite number or NaN,
            or is nested more deeply than `wait_for` reads.
    """
    check_event(event)
    try:
        text = to_json(payload, inf_nan_mode="constants").decode()
    except PydanticSerializationError as error:
        raise TypeError(f"the payload of the event {event!r} cannot be made JSON: {error}") from None
    if len(text.encode()) > MAX_PAYLOAD or holds_nul(text):
        raise ValueError(f"the payload of an event has {MAX_PAYLOAD} bytes at most, and no NUL")
    try:
        from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(f"the payload of the event {event!r} does not come back from JSON: {error}") from None
    connection = await session.connection()
    await connection.exec_driver_sql(LOCK_EVENT, (event_lock(event),))
    emitted = (await connection.exec_driver_sql(EMIT, (event, text))).one()
    ring_after_commit(session, queues=emitted.queues)
    return bool(emitted.first)


def check_event(event: str) -> None:
    """Raises ValueError if it cannot be the name of an event."""
    if not 0 < len(event) <= MAX_NAME or storable(event) != event:
        raise ValueError(f"an event's name has 1 to {MAX_NAME} characters, no NUL and no lone surrogate")


def event_lock(event: str) -> int:
    """The number of the advisory lock of an event's name."""
    return int.from_bytes(blake2b(event.encode(), digest_size=8, person=b"event").digest(), signed=True)
