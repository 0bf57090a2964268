"""Items: the reference resource."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import DDL, JSON, ForeignKey, Index, String, event, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from app.models.base import BaseModel
from plinth.database.tables import SoftDeleteMixin, UtcDateTime, VersionedMixin

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


class ItemTag(SQLModel, table=True):
    """A tag of an item that is not deleted: what the list of an owner's items with a tag is read along.

    No index on `Item.tags` could serve that list: it holds the tag and not the order, and PostgreSQL prefers to go
    through all items of the owner. Triggers of `item` keep these rows; nothing else writes them.
    """

    __tablename__ = "item_tag"
    # One for each order in which a caller's items can be listed, as for all items.
    __table_args__ = (
        Index("ix_item_tag_owner_tag_created_at_id", "owner", "tag", "created_at", "id"),
        Index("ix_item_tag_owner_tag_name_id", "owner", "tag", "name", "id"),
    )

    id: UUID = Field(sa_column_args=[ForeignKey("item.id", ondelete="CASCADE")], primary_key=True)
    tag: str = Field(primary_key=True, sa_type=String(50))
    owner: str = Field(sa_type=String(255))
    name: str = Field(sa_type=String(200))
    created_at: datetime = Field(sa_type=UtcDateTime)


KEEP_ITEM_TAGS = """
CREATE OR REPLACE FUNCTION keep_item_tags() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        DELETE FROM item_tag WHERE id = NEW.id;
    END IF;
    IF NEW.deleted_at IS NULL THEN
        INSERT INTO item_tag (id, tag, owner, name, created_at)
        SELECT DISTINCT NEW.id, tag, NEW.owner, NEW.name, NEW.created_at FROM unnest(NEW.tags) AS tag;
    END IF;
    RETURN NULL;
END $$
"""
# Items without a tag, and changes of other columns, do not pay for it.
_TRIGGERS = (
    """
CREATE TRIGGER keep_tags_of_new AFTER INSERT ON item FOR EACH ROW
WHEN (NEW.tags <> '{}') EXECUTE FUNCTION keep_item_tags()
""",
    """
CREATE TRIGGER keep_tags_of_changed AFTER UPDATE OF owner, name, tags, created_at, deleted_at ON item FOR EACH ROW
WHEN (OLD.tags <> '{}' OR NEW.tags <> '{}') EXECUTE FUNCTION keep_item_tags()
""",
)
for _statement in (KEEP_ITEM_TAGS, *_TRIGGERS):
    _ddl = DDL(_statement)  # type: ignore[no-untyped-call]
    event.listen(ItemTag.metadata.tables["item_tag"], "after_create", _ddl.execute_if(dialect="postgresql"))
