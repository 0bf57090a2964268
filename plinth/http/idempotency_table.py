"""Answers kept for requests that may be sent twice."""

from datetime import datetime

from sqlalchemy import JSON, Index, LargeBinary, String
from sqlmodel import Field

from plinth.database.tables import PlatformTable, UtcDateTime


class IdempotencyRecord(PlatformTable, table=True):
    """The first answer to a request that bore an `Idempotency-Key`."""

    __tablename__ = "idempotency_record"
    __table_args__ = (Index("ix_idempotency_record_expires_at", "expires_at"),)

    principal: str = Field(primary_key=True, sa_type=String(255))
    key: str = Field(primary_key=True, sa_type=String(255))
    # A digest of method, path and body: the same key with another request is a mistake of the client's.
    fingerprint: bytes = Field(sa_type=LargeBinary)
    status: int
    headers: dict[str, str] = Field(sa_type=JSON)
    body: bytes = Field(sa_type=LargeBinary)
    expires_at: datetime = Field(sa_type=UtcDateTime)
