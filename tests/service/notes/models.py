"""The tables."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import JSON, Index, String, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field

from plinth.database.tables import SoftDeleteMixin, UtcDateTime, VersionedMixin
from plinth.database.uuid7 import uuid7

__all__ = ["Note"]

# SQLite, which serves only unit tests, has no arrays.
_StringList: Any = ARRAY(String(50)).with_variant(JSON(), "sqlite")
_NOW = {"server_default": func.now()}


class Note(VersionedMixin, SoftDeleteMixin, table=True):
    """A text of one caller. `owner` is the `owner` of the principal."""

    __tablename__ = "note"
    __table_args__ = (Index("ix_note_owner_id", "owner", "id", postgresql_where=text("deleted_at IS NULL")),)
    # Values that the database sets come back with the INSERT or UPDATE itself, without a second query.
    __mapper_args__: ClassVar[Any] = {"eager_defaults": True}

    id: UUID = Field(default=None, primary_key=True, sa_column_kwargs={"server_default": uuid7()})
    created_at: datetime = Field(default=None, nullable=False, sa_type=UtcDateTime, sa_column_kwargs=_NOW)
    updated_at: datetime = Field(
        default=None, nullable=False, sa_type=UtcDateTime, sa_column_kwargs={**_NOW, "onupdate": func.now()}
    )
    owner: str = Field(sa_type=String(255))
    text: str = Field(sa_type=String(10_000))
    tags: list[str] = Field(default_factory=list, sa_type=_StringList, sa_column_kwargs={"server_default": "{}"})
