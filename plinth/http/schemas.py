"""What requests and responses of all resources share."""

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

__all__ = [
    "Cursor",
    "Page",
    "Problem",
    "ReadModel",
    "Text",
    "WriteModel",
]

T = TypeVar("T")

# A string that PostgreSQL can store: its text has no NUL. Say the bounds too: `Annotated[Text, Field(max_length=…)]`.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]

# What `next_cursor` of the page before said. Opaque to clients; `plinth.http.cursor` makes and reads it.
Cursor = Annotated[str, Field(max_length=2048)]


# More than any request body of this API has.
MAX_FIELDS = 64


class WriteModel(BaseModel):
    """The body of a request: types are taken at their word, and a field that does not exist is an error."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_floods(cls, data: Any) -> Any:
        # Each unknown field makes an error of its own; a megabyte of them holds up the event loop for half a second.
        if isinstance(data, dict) and len(data) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", "There are too many fields")
        return data


class ReadModel(BaseModel):
    """The body of a response."""

    model_config = ConfigDict(from_attributes=True)


class Page(ReadModel, Generic[T]):
    """One page of a list. `next_cursor` is null on the last page; the `Link` header has the whole address."""

    items: list[T]
    next_cursor: str | None


class ValidationIssue(ReadModel):
    """Where an input is wrong, and how."""

    loc: list[str | int]
    msg: str
    type: str


class Problem(ReadModel):
    """Every error's body: RFC 9457 problem details."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A URI for the kind of problem; `about:blank`: the status says it all.")
    title: str = Field(description="The status in words.")
    status: int
    code: str = Field(description="A stable word for programs.")
    detail: str | None = Field(default=None, description="A sentence for people.")
    request_id: str = Field(description="Name it when you ask about this error; the logs carry it too.")
    trace_id: str | None = Field(default=None, description="The trace of the request, where there is one.")
    errors: list[ValidationIssue] | None = Field(default=None, description="What is wrong with the input.")
