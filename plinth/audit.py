"""The audit log: what operators did, each act recorded in its own transaction.

Nothing here changes a record. Workers delete those that are older than AUDIT_KEEP_DAYS.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import JSON, Index, String, Text, func, insert
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.tables import PlatformTable, UtcDateTime
from plinth.database.uuid7 import uuid7
from plinth.telemetry.log_records import request_id_var

__all__ = ["Actor", "AuditRecord", "list_records", "record"]

MAX_DETAIL_BYTES = 8192


class Actor(Protocol):
    """What acts: the caller of a request, or the system user of a command."""

    @property
    def issuer(self) -> str: ...

    @property
    def subject(self) -> str: ...


class AuditRecord(PlatformTable, table=True):
    """One act of an operator."""

    __tablename__ = "audit_record"
    __table_args__ = (
        Index("ix_audit_record_at", "at"),
        Index("ix_audit_record_subject_id", "subject", "id"),
        Index("ix_audit_record_target_id", "target", "id"),
    )

    id: UUID = Field(default=None, primary_key=True, sa_column_kwargs={"server_default": uuid7()})
    at: datetime = Field(
        default=None, nullable=False, sa_type=UtcDateTime, sa_column_kwargs={"server_default": func.now()}
    )
    # The actor. Of a command the issuer is `plinth:cli` and the subject `cli:user@host`.
    issuer: str = Field(sa_type=Text)
    subject: str = Field(sa_type=String(255))
    # A thing and a verb, such as `queue.pause`.
    action: str = Field(sa_type=String(50))
    # The kind of the thing and its id, such as `queue:mail`.
    target: str = Field(sa_type=String(255))
    # Never a payload, never a secret.
    detail: dict[str, Any] = Field(sa_type=JSONB().with_variant(JSON(), "sqlite"))
    request_id: str | None = Field(default=None, nullable=True, sa_type=String(128))


async def record(session: AsyncSession, by: Actor, action: str, target: str, **detail: Any) -> None:
    """Record an act in the session's transaction: the act and its record are committed together, or neither is.

    Raises:
        ValueError: the detail is too long.
    """
    if len(json.dumps(detail, ensure_ascii=False).encode()) > MAX_DETAIL_BYTES:
        raise ValueError(f"the detail of {action} has more than {MAX_DETAIL_BYTES} bytes")
    values = {
        "issuer": by.issuer,
        "subject": by.subject,
        "action": action,
        "target": target,
        "detail": detail,
        "request_id": request_id_var.get(),
    }
    await session.exec(insert(AuditRecord).values(values))


async def list_records(
    session: AsyncSession,
    *,
    actor: str | None = None,
    action: str | None = None,
    target: str | None = None,
    since: datetime | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> Sequence[AuditRecord]:
    """List records, the newest (by id) first, older than `before`.

    The subject of the actor, the action, the target and the earliest time filter the list.
    """
    statement = select(AuditRecord)
    for column, value in ((AuditRecord.subject, actor), (AuditRecord.action, action), (AuditRecord.target, target)):
        if value is not None:
            statement = statement.where(col(column) == value)
    if since is not None:
        statement = statement.where(col(AuditRecord.at) >= since)
    if before is not None:
        statement = statement.where(col(AuditRecord.id) < before)
    return (await session.exec(statement.order_by(col(AuditRecord.id).desc()).limit(limit))).all()
