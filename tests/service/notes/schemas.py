"""Bodies of requests and responses."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from plinth.http.schemas import ReadModel, Text, WriteModel

__all__ = ["DigestRead", "NoteChange", "NoteCreate", "NoteRead"]

NoteText = Annotated[Text, Field(min_length=1, max_length=10_000, examples=["Buy milk"])]
Tags = Annotated[list[Annotated[Text, Field(min_length=1, max_length=50, examples=["errand"])]], Field(max_length=20)]


class NoteCreate(WriteModel):
    text: NoteText
    tags: Tags = Field(default_factory=list)


class NoteChange(WriteModel):
    """Only the fields that are sent change."""

    text: NoteText = ""
    tags: Tags = Field(default_factory=list)


class NoteRead(ReadModel):
    id: UUID
    text: str
    tags: list[str]
    version: int = Field(description="Counts changes; it is the ETag.")
    created_at: datetime
    updated_at: datetime


class DigestRead(ReadModel):
    job_id: UUID
