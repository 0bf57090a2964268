"""Idempotency keys: a request that is sent twice takes effect once, and is answered alike both times.

Key, fingerprint and answer are stored in the transaction of the effect itself, so there is neither an effect
without its record nor a record without its effect.
"""

from datetime import timedelta
from hashlib import blake2b

from sqlalchemy import delete, func, inspect, select, tuple_
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.errors import ConflictError, ValidationError
from plinth.http.idempotency_table import IdempotencyRecord

__all__ = ["fingerprint", "recall", "remember"]

KEEP = timedelta(hours=24)
# Each new key sweeps a few old ones away, so the table stays as small as a day's keys without any schedule.
SWEEP_ROWS = 10


def fingerprint(*parts: bytes) -> bytes:
    """A digest that tells one request from another."""
    digest = blake2b(digest_size=32)
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


async def recall(session: AsyncSession, principal: str, key: str, fingerprint: bytes) -> IdempotencyRecord | None:
    """The answer given to this request before, or None: then the caller does the work and calls `remember`.

    Holds the key until the session's transaction ends.

    Raises:
        ConflictError: the same key is being worked on at this moment.
        ValidationError: the key was used for another request.
    """
    # A lock that is tried, not waited for: the second of two concurrent requests shall not hold a connection.
    lock = int.from_bytes(blake2b(f"{principal}\0{key}".encode(), digest_size=8).digest(), signed=True)
    if not await session.scalar(select(func.pg_try_advisory_xact_lock(lock))):
        raise ConflictError("A request with this Idempotency-Key is in progress.", code="idempotency_in_progress")
    await session.exec(
        delete(IdempotencyRecord).where(
            col(IdempotencyRecord.principal) == principal,
            col(IdempotencyRecord.key) == key,
            col(IdempotencyRecord.expires_at) < func.now(),
        )
    )
    record = await session.get(IdempotencyRecord, (principal, key))
    if record is not None and record.fingerprint != fingerprint:
        raise ValidationError("This Idempotency-Key was used for another request.", code="idempotency_key_reused")
    return record


async def remember(
    session: AsyncSession,
    principal: str,
    key: str,
    fingerprint: bytes,
    *,
    status: int,
    headers: dict[str, str],
    body: bytes,
) -> None:
    """Keep the answer to a request for `KEEP`."""
    session.add(
        IdempotencyRecord(
            principal=principal,
            key=key,
            fingerprint=fingerprint,
            status=status,
            headers=headers,
            body=body,
            expires_at=func.now() + KEEP,  # type: ignore[arg-type]
        )
    )
    await session.flush()
    primary_key = tuple_(*inspect(IdempotencyRecord).primary_key)
    expired = (
        select(*inspect(IdempotencyRecord).primary_key)
        .where(col(IdempotencyRecord.expires_at) < func.now())
        .limit(SWEEP_ROWS)
        .with_for_update(skip_locked=True)
    )
    await session.exec(
        delete(IdempotencyRecord).where(primary_key.in_(expired)).execution_options(synchronize_session=False)
    )
