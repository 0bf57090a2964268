"""Bodies and parameters of the items resource."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from plinth.http.schemas import PageQuery, ReadModel, Text, WriteModel

__all__ = ["ItemCreate", "ItemQuery", "ItemRead", "ItemSort", "ItemUpdate"]

Name = Annotated[Text, Field(min_length=1, max_length=200, examples=["anvil"])]
Description = Annotated[Text, Field(max_length=10_000, examples=["cast iron"])]
Tag = Annotated[Text, Field(min_length=1, max_length=50, examples=["heavy"])]
Tags = Annotated[list[Tag], Field(max_length=20)]

ItemSort = Literal["created_at", "-created_at", "name", "-name"]


class ItemCreate(WriteModel):
    name: Name
    description: Description | None = None
    tags: Tags = Field(default_factory=list)


class ItemUpdate(WriteModel):
    """A change of some fields: those that are not sent stay. `description` may be null."""

    # The defaults are not used: `model_dump(exclude_unset=True)` leaves out fields that were not sent.
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
    version: int = Field(description="Incremented by each change; it is the ETag.")
    created_at: datetime
    updated_at: datetime
