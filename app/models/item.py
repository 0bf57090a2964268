"""Items: the reference resource."""

from typing import Any

from sqlalchemy import JSON, Index, String, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field

from app.models.base import BaseModel
from plinth.database.tables import SoftDeleteMixin, VersionedMixin

# SQLite, which serves only unit tests, has no arrays.
_StringList: Any = ARRAY(String(50)).with_variant(JSON(), "sqlite")
_LIVE = text("deleted_at IS NULL")


class Item(VersionedMixin, SoftDeleteMixin, BaseModel, table=True):
    """A thing that belongs to one caller. `owner` is the `owner` of the principal."""

    __tablename__ = "item"
    # One index for each order in which a caller's items can be listed.
    __table_args__ = (
        Index("ix_item_owner_created_at_id", "owner", "created_at", "id", postgresql_where=_LIVE),
        Index("ix_item_owner_name_id", "owner", "name", "id", postgresql_where=_LIVE),
    )

    owner: str = Field(sa_type=String(255))
    name: str = Field(sa_type=String(200))
    description: str | None = Field(default=None, sa_type=String(10_000))
    tags: list[str] = Field(default_factory=list, sa_type=_StringList, sa_column_kwargs={"server_default": "{}"})
