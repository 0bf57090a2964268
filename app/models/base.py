"""The base class of the service's tables."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import func
from sqlmodel import Field, SQLModel

from plinth.database.tables import UtcDateTime
from plinth.database.uuid7 import uuid7


class BaseModel(SQLModel):
    """A table's first columns. The database sets all three, so a row made with psql has them as well."""

    # Values that the database made come back with the INSERT or UPDATE itself, not by a second query.
    __mapper_args__: ClassVar[Any] = {"eager_defaults": True}

    id: UUID = Field(default=None, primary_key=True, sa_column_kwargs={"server_default": uuid7()})
    created_at: datetime = Field(
        default=None, nullable=False, sa_type=UtcDateTime, sa_column_kwargs={"server_default": func.now()}
    )
    updated_at: datetime = Field(
        default=None,
        nullable=False,
        sa_type=UtcDateTime,
        sa_column_kwargs={"server_default": func.now(), "onupdate": func.now()},
    )
