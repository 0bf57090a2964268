"""Bodies of the exports resource."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from app.schemas.item import Tag
from plinth.http.schemas import ReadModel, WriteModel

__all__ = ["ExportCreate", "ExportLinks", "ExportRead", "ExportStatus"]

ExportFormat = Literal["ndjson", "csv"]
ExportStatus = Literal["pending", "running", "ready", "failed", "cancelled"]


class ExportCreate(WriteModel):
    format: ExportFormat = Field(
        description="`csv` is for spreadsheets: a text that begins like a formula has an apostrophe before it. "
        "`ndjson` has every text as it is."
    )
    tag: Tag | None = Field(default=None, description="Only items with this tag; without it, all items.")


class ExportLinks(ReadModel):
    """Paths of this API."""

    job: str = Field(description="The job that makes the file, for its progress and to cancel it.")
    events: str = Field(description="The job as a stream of events.")
    content: str | None = Field(description="The file; null until the export is ready.")


class ExportRead(ReadModel):
    id: UUID
    format: ExportFormat
    tag: str | None
    status: ExportStatus
    job_id: UUID
    item_count: int | None = Field(description="The number of items in the file; null until the export is ready.")
    size: int | None = Field(description="The size of the file in bytes; null until the export is ready.")
    created_at: datetime
    ready_at: datetime | None
    expires_at: datetime = Field(description="When the export is deleted. Extended when it becomes ready.")
    links: ExportLinks
