"""Exports: files made of a caller's items, kept in the database until they expire."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String
from sqlmodel import Field, SQLModel

from app.models.base import BaseModel
from plinth.database.tables import UtcDateTime


class Export(BaseModel, table=True):
    """A file that was asked for. It is there once `ready_at` is set."""

    __tablename__ = "export"
    __table_args__ = (
        Index("ix_export_expires_at", "expires_at"),
        Index("ix_export_owner_id", "owner", "id"),
    )

    owner: str = Field(sa_type=String(255))
    format: str = Field(sa_type=String(20))
    # Only items with this tag; all of them without.
    tag: str | None = Field(default=None, nullable=True, sa_type=String(50))
    job_id: UUID
    # The run of the job that began the file, whose number the chunks have.
    run: int | None = Field(default=None, nullable=True, sa_type=BigInteger)
    item_count: int | None = Field(default=None, nullable=True, sa_type=BigInteger)
    size: int | None = Field(default=None, nullable=True, sa_type=BigInteger)  # bytes, uncompressed
    digest: str | None = Field(default=None, nullable=True, sa_type=String(64))  # of the content; it is the ETag
    ready_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)


class ExportChunk(SQLModel, table=True):
    """A piece of the file: `size` bytes from `start` on, compressed by itself."""

    __tablename__ = "export_chunk"

    export_id: UUID = Field(sa_column_args=[ForeignKey("export.id", ondelete="CASCADE")], primary_key=True)
    run: int = Field(primary_key=True, sa_type=BigInteger)
    start: int = Field(primary_key=True, sa_type=BigInteger)
    size: int
    data: bytes = Field(sa_type=LargeBinary)
