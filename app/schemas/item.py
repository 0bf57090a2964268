"""Bodies and parameters of the items resource."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from plinth.http.schemas import PageQuery, ReadModel, Text, WriteModel

__all__ = ["ItemCreate", "ItemQuery", "ItemRead", "ItemSort", "ItemUpdate"]

Name = Annotated[Text, Field(min_length=1, max_length=200)]
Description = Annotated[Text, Field(max_length=10_000)]
Tag = Annotated[Text, Field(min_length=1, max_length=50)]
Tags = Annotated[list[Tag], Field(max_length=20)]

ItemSort = Literal["created_at", "-created_at", "name", "-name"]


class ItemCreate(WriteModel):
    name: Name
    description: Description | None = None
    tags: Tags = Field(default_factory=list)


class ItemUpdate(WriteModel):
    """Only the fields that are sent change. `description` may be set to null."""

    # The defaults are never used: what was not sent is left out by `model_dump(exclude_unset=True)`.
    name: Name = Field(default_factory=str)
    description: Description | None = None
    tags: Tags = Field(default_factory=list)


class ItemQuery(PageQuery):
    """The parameters of a list of items."""

    sort: ItemSort = "-created_at"
    tag: Tag | None = None


class ItemRead(ReadModel):
    id: UUID
    name: str
    description: str | None
    tags: list[str]
    version: int = Field(description="Counts changes; it is the ETag.")
    created_at: datetime
    updated_at: datetime
