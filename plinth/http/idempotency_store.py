"""Idempotency keys in the database: a request that is sent twice takes effect once and gets one response.

Key, fingerprint and response are stored in the transaction of the effect itself: either all are committed or none.
"""

from datetime import datetime, timedelta
from hashlib import blake2b

from sqlalchemy import JSON, Index, LargeBinary, String, delete, func, inspect, select, tuple_
from sqlmodel import Field, col
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.tables import PlatformTable, UtcDateTime
from plinth.errors import ConflictError, ValidationError

__all__ = ["IdempotencyRecord", "fingerprint", "recall", "remember"]

KEEP = timedelta(hours=24)
# Each new key deletes a few expired ones, so the table holds about one day's keys without a schedule.
SWEEP_ROWS = 10


class IdempotencyRecord(PlatformTable, table=True):
    """The first response to a request with an `Idempotency-Key`."""

    __tablename__ = "idempotency_record"
    __table_args__ = (Index("ix_idempotency_record_expires_at", "expires_at"),)

    principal: str = Field(primary_key=True, sa_type=String(255))
    key: str = Field(primary_key=True, sa_type=String(255))
    # Of method, path and body: the same key with another request is a mistake of the client.
    fingerprint: bytes = Field(sa_type=LargeBinary)
    status: int
    headers: dict[str, str] = Field(sa_type=JSON)
    body: bytes = Field(sa_type=LargeBinary)
    expires_at: datetime = Field(default_factory=lambda: func.now() + KEEP, sa_type=UtcDateTime)


def fingerprint(*parts: bytes) -> bytes:
    """A digest of a request's parts: different requests have different ones."""
    digest = blake2b(digest_size=32)
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


async def recall(session: AsyncSession, principal: str, key: str, fingerprint: bytes) -> IdempotencyRecord | None:
    """The response to this request, or None if it is new: then do the work and call `remember`.

    Locks the key until the session's transaction ends.

    Raises:
        ConflictError: another request with this key is in progress.
        ValidationError: the key was used for another request.
    """
    # Tried, not waited for: the second of two concurrent requests must not hold a connection.
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


async def remember(session: AsyncSession, record: IdempotencyRecord) -> None:
    """Store the response to a request for `KEEP`."""
    session.add(record)
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
