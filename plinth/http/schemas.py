"""Base models for bodies and parameters, and the schemas that all resources share."""

from collections.abc import Callable
from decimal import Decimal
from json import JSONEncoder
from typing import Annotated, Any, Generic, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import (
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    lax_or_strict_schema,
    no_info_after_validator_function,
    str_schema,
    to_string_ser_schema,
    with_info_wrap_validator_function,
)

__all__ = [
    "Cursor",
    "Page",
    "PageQuery",
    "Problem",
    "QueryModel",
    "ReadModel",
    "Text",
    "WriteModel",
    "amount",
]

T = TypeVar("T")

# A string that PostgreSQL can store: its text has no NUL. State the bounds too: `Annotated[Text, Field(max_length=…)]`.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]

# The `next_cursor` of the page before. Opaque to clients; `plinth.http.cursor` makes and reads it.
Cursor = Annotated[str, Field(max_length=2048)]

# A megabyte of unknown fields makes 100,000 errors. Listing them would block the event loop for half a second.
MAX_ERRORS = 1000

# NaN and Infinity, which Python's parser accepts, are no JSON. The body came from a parser, so it has no cycles.
_encode_json = JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":")).encode


def amount(max_digits: int, decimal_places: int) -> GetPydanticSchema:
    """For `Annotated[Decimal, amount(12, 2)]`: no less than zero, in JSON a string such as `"119.90"`.

    The OpenAPI document says just what is accepted. Pydantic's own schema of a decimal allows every string.
    """
    pattern = rf"^[0-9]{{1,{max_digits - decimal_places}}}([.][0-9]{{1,{decimal_places}}})?$"
    return GetPydanticSchema(
        lambda _source, _handler: no_info_after_validator_function(
            Decimal, str_schema(pattern=pattern), serialization=to_string_ser_schema(when_used="json")
        )
    )


class WriteModel(BaseModel):
    """The body of a request, validated as strict JSON; an unknown field is an error.

    Dates, UUIDs, decimals, enumerations, sets and the like are read from JSON strings, numbers and lists. Numbers and
    booleans are not converted: `"1"` and `true` are no integers. Made in Python (`ItemCreate(due=date.today())`), a
    model takes Python's types; to read JSON in a test, call `model_validate_json`.

    Validators run after a field has its type (`mode="after"`). One with `mode="before"` works only on fields that
    declare `Field(strict=False)`: Pydantic takes what it returns for a Python value and no longer for JSON.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler, /) -> CoreSchema:
        schema = handler(source)
        if not cls.__pydantic_complete__:
            return schema  # for the model's own validator, which `_read_body` calls
        # FastAPI parses the body and validates Python values, for which "strict" means that a date is a `date` already.
        # So where the model is the type of a parameter, its value goes back to JSON. Not where it is a field of another
        # WriteModel, which is strict and was read as JSON with all its fields.
        model = cast(Any, dict(handler.resolve_ref_schema(schema)))
        reference = model.pop("ref")
        body = with_info_wrap_validator_function(cls._read_body, model)
        return lax_or_strict_schema(lax_schema=body, strict_schema=model, ref=reference)

    @classmethod
    def _read_body(cls, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        if not isinstance(value, dict):
            return validate(value)
        try:
            body = _encode_json(value)
        except (ValueError, RecursionError):
            raise PydanticCustomError("json_invalid", "NaN, Infinity and endless nesting are no JSON") from None
        return _bounded(lambda: cls.__pydantic_validator__.validate_json(body, context=info.context))


class QueryModel(BaseModel):
    """The query parameters of an operation, converted from text; an unknown parameter is an error."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _read_query(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        return _bounded(lambda: validate(value))


def _bounded(validate: Callable[[], T]) -> T:
    """Call `validate`, and replace its errors by one if there are more than `MAX_ERRORS`."""
    try:
        return validate()
    except ValidationError as error:
        if error.error_count() <= MAX_ERRORS:
            raise
    raise PydanticCustomError("too_many_errors", "There are too many errors to list")


class ReadModel(BaseModel):
    """The body of a response."""

    model_config = ConfigDict(from_attributes=True)


class PageQuery(QueryModel):
    """The parameters of a list that comes in pages. A list's own filters and order go into a subclass."""

    limit: int = Field(default=50, ge=1, le=100)
    cursor: Cursor | None = None


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
    """The body of every error: RFC 9457 problem details."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A URI for the kind of problem; `about:blank`: the status says it all.")
    title: str = Field(description="The status in words.")
    status: int
    code: str = Field(description="A stable word for programs.")
    detail: str | None = Field(default=None, description="A sentence for people.")
    request_id: str = Field(description="Name it when you ask about this error; the logs carry it too.")
    trace_id: str | None = Field(default=None, description="The trace of the request, where there is one.")
    permission: str | None = Field(default=None, description="The permission that the caller lacks.")
    errors: list[ValidationIssue] | None = Field(default=None, description="What is wrong with the input.")
