"""The `Idempotency-Key` header: a request that is sent twice takes effect once and gets one response.

Key, fingerprint and response are stored in the transaction of the effect itself: either all are committed or none.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Annotated

from fastapi import Header, Request, Response
from sqlalchemy import JSON, Index, LargeBinary, String, delete, func, inspect, select, tuple_
from sqlmodel import Field, col
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.tables import PlatformTable, UtcDateTime
from plinth.errors import ConflictError, ValidationError
from plinth.identity.principal import Principal

__all__ = ["IdempotencyKey", "answer_once"]

KEEP = timedelta(hours=24)
# Each new key deletes a few expired ones, so the table holds about one day's keys without a schedule.
SWEEP_ROWS = 10

# Visible ASCII: the key is a header and a column.
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A request that is sent again with the same key takes effect only once.",
    ),
]

_KEPT_HEADERS = ("content-type", "location", "etag")


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


async def answer_once(
    request: Request,
    session: AsyncSession,
    principal: Principal,
    key: str | None,
    work: Callable[[], Awaitable[Response]],
) -> Response:
    """Return the response of `work`, or the stored one if this request was answered before.

    `work` must use the session's transaction. Without a key it always runs.

    Raises:
        ConflictError: another request with this key is in progress.
        ValidationError: the key was used for another request.
    """
    if key is None:
        return await work()
    fingerprint = fingerprint_of(request.method.encode(), request.url.path.encode(), await request.body())
    record = await _recall(session, principal.owner, key)
    if record is not None:
        if record.fingerprint != fingerprint:
            raise ValidationError("This Idempotency-Key was used for another request.", code="idempotency_key_reused")
        headers = {**record.headers, "Idempotency-Replayed": "true"}
        return Response(record.body, record.status, headers=headers)
    response = await work()
    record = IdempotencyRecord(
        principal=principal.owner,
        key=key,
        fingerprint=fingerprint,
        status=response.status_code,
        headers={name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers},
        body=bytes(response.body),
    )
    session.add(record)
    await session.flush()
    await _sweep(session)
    return response


def fingerprint_of(*parts: bytes) -> bytes:
    """A digest of a request's parts: different requests have different ones."""
    digest = blake2b(digest_size=32)
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


async def _recall(session: AsyncSession, principal: str, key: str) -> IdempotencyRecord | None:
    """The record of a key, if there is one. Locks the key until the session's transaction ends."""
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
    return await session.get(IdempotencyRecord, (principal, key))


async def _sweep(session: AsyncSession) -> None:
    """Delete a few expired records."""
    primary_key = inspect(IdempotencyRecord).primary_key
    expired = (
        select(*primary_key)
        .where(col(IdempotencyRecord.expires_at) < func.now())
        .limit(SWEEP_ROWS)
        .with_for_update(skip_locked=True)
    )
    await session.exec(
        delete(IdempotencyRecord).where(tuple_(*primary_key).in_(expired)).execution_options(synchronize_session=False)
    )
