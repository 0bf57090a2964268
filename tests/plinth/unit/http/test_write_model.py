"""The types that a request body may hold, tested through a FastAPI application."""

import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
import pytest
from fastapi import Body, FastAPI
from pydantic import (
    UUID4,
    AnyUrl,
    AwareDatetime,
    Base64Bytes,
    ByteSize,
    Discriminator,
    Field,
    FutureDate,
    HttpUrl,
    Json,
    JsonValue,
    NaiveDatetime,
    PastDatetime,
    PostgresDsn,
    SecretStr,
    ValidationError,
    create_model,
    field_validator,
)
from typing_extensions import TypedDict

from plinth.http.error_handlers import install_exception_handlers
from plinth.http.schemas import MAX_ERRORS, WriteModel, amount

AN_ID = "0190a1b2-c3d4-4e5f-8a6b-7c8d9e0f1a2b"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Size(StrEnum):
    SMALL = "small"


class Level(IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: int


class Address(TypedDict):
    city: str
    since: date


@dataclass
class Money:
    amount: Decimal
    currency: str


class Part(WriteModel):
    made_on: date
    count: int = 1


class Card(WriteModel):
    kind: Literal["card"]
    expires: date


class Transfer(WriteModel):
    kind: Literal["transfer"]
    accounts: tuple[UUID, UUID]


class Note(WriteModel):
    text: str
    day: date | None = None


class Mark(WriteModel):
    stars: int


class Tree(WriteModel):
    planted: date
    branches: list["Tree"] = Field(default_factory=list)


T = TypeVar("T")


class Batch(WriteModel, Generic[T]):
    entries: set[T]


async def post(annotation: Any, content: Any, *, raw: bytes | None = None) -> tuple[httpx.Response, Any]:
    """Send JSON to an endpoint: its response, and the argument it received."""
    app = FastAPI()
    install_exception_handlers(app)
    got: list[Any] = []

    async def endpoint(body: Any) -> None:
        got.append(body)

    endpoint.__annotations__["body"] = annotation
    app.post("/")(endpoint)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service.test") as client:
        if raw is None:
            response = await client.post("/", json=content)
        else:
            response = await client.post("/", content=raw, headers={"Content-Type": "application/json"})
    return response, got[0] if got else None


def model_of(annotation: Any) -> type[WriteModel]:
    """A model with one field, `value`."""
    return create_model("Thing", __base__=WriteModel, value=(annotation, ...))


def errors_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The errors of a body that was refused."""
    assert response.status_code == 422, response.text
    body = response.json()
    assert body["code"] == "validation_error"
    errors: list[dict[str, Any]] = body["errors"]
    return errors


async def received(annotation: Any, value: Any) -> Any:
    """The value that an endpoint gets from a field of a body."""
    response, body = await post(model_of(annotation), {"value": value})
    assert response.status_code == 200, response.text
    return body.value


async def refused(annotation: Any, value: Any) -> None:
    response, _ = await post(model_of(annotation), {"value": value})
    assert {tuple(error["loc"][:2]) for error in errors_of(response)} == {("body", "value")}


# The type of a field, JSON that is accepted, its value in Python, and JSON that is refused.
TYPES: list[tuple[Any, Any, Any, Any]] = [
    (str, "text", "text", 1),
    (int, 1, 1, "1"),
    (int, 2**80, 2**80, 1.0),
    (int, -1, -1, True),
    (float, 1.5, 1.5, "1.5"),
    (float, 1, 1.0, True),
    (bool, True, True, 1),
    (bool, False, False, "false"),
    (bytes, "text", b"text", 1),
    (Decimal, "1.10", Decimal("1.10"), "a"),
    (Decimal, 1.5, Decimal("1.5"), True),
    (Annotated[Decimal, Field(max_digits=4, decimal_places=2)], "12.34", Decimal("12.34"), "12.345"),
    (Fraction, "1/3", Fraction(1, 3), "a"),
    (complex, "1+2j", 1 + 2j, "a"),
    (UUID, AN_ID, UUID(AN_ID), "x"),
    (UUID, AN_ID, UUID(AN_ID), 1),
    (UUID4, AN_ID, UUID(AN_ID), "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b"),
    (datetime, "2026-03-01T12:00:00Z", datetime(2026, 3, 1, 12, tzinfo=UTC), 1772366400),
    (AwareDatetime, "2026-03-01T12:00:00Z", datetime(2026, 3, 1, 12, tzinfo=UTC), "2026-03-01T12:00:00"),
    (NaiveDatetime, "2026-03-01T12:00:00", datetime(2026, 3, 1, 12), "2026-03-01T12:00:00Z"),  # noqa: DTZ001
    (PastDatetime, "2020-03-01T12:00:00Z", datetime(2020, 3, 1, 12, tzinfo=UTC), "2999-03-01T12:00:00Z"),
    (date, "2026-03-01", date(2026, 3, 1), "2026-02-30"),
    (date, "2026-03-01", date(2026, 3, 1), 20000),
    (FutureDate, "2999-03-01", date(2999, 3, 1), "2020-03-01"),
    (time, "12:30:00", time(12, 30), "25:00"),
    (timedelta, "PT1H30M", timedelta(minutes=90), "soon"),
    (timedelta, "PT1H30M", timedelta(minutes=90), 90),
    (ZoneInfo, "Europe/Berlin", ZoneInfo("Europe/Berlin"), "Nowhere/Town"),
    (Colour, "red", Colour.RED, "green"),
    (Size, "small", Size.SMALL, "SMALL"),
    (Level, 1, Level.LOW, "1"),
    (Literal["a", "b"], "a", "a", "c"),
    (Literal[1, 2], 1, 1, "1"),
    (list[int], [1, 2], [1, 2], ["1"]),
    (Sequence[date], ["2026-03-01"], [date(2026, 3, 1)], ["x"]),
    (tuple[int, str], [1, "a"], (1, "a"), [1]),
    (tuple[date, ...], ["2026-03-01"], (date(2026, 3, 1),), "2026-03-01"),
    (set[str], ["a", "b", "a"], {"a", "b"}, "ab"),
    (frozenset[UUID], [AN_ID], frozenset({UUID(AN_ID)}), ["x"]),
    (deque[int], [1, 2], deque([1, 2]), {"1": 2}),
    (dict[str, int], {"a": 1}, {"a": 1}, {"a": "1"}),
    (dict[UUID, date], {AN_ID: "2026-03-01"}, {UUID(AN_ID): date(2026, 3, 1)}, {"x": "2026-03-01"}),
    (dict[int, str], {"1": "a"}, {1: "a"}, {"one": "a"}),  # JSON keys are strings
    (Mapping[Colour, int], {"red": 1}, {Colour.RED: 1}, {"green": 1}),
    (defaultdict[str, int], {"a": 1}, {"a": 1}, []),
    (OrderedDict[str, int], {"a": 1}, OrderedDict(a=1), []),
    (Counter[str], {"a": 1}, Counter(a=1), {"a": "b"}),
    (Point, [1, 2], Point(1, 2), [1, "2"]),
    (Address, {"city": "Ulm", "since": "2026-03-01"}, {"city": "Ulm", "since": date(2026, 3, 1)}, {"city": "Ulm"}),
    (Money, {"amount": "1.10", "currency": "EUR"}, Money(Decimal("1.10"), "EUR"), {"amount": "1.10"}),
    (Part, {"made_on": "2026-03-01"}, Part(made_on=date(2026, 3, 1)), {"made_on": "2026-03-01", "count": "1"}),
    (list[Part], [{"made_on": "2026-03-01"}], [Part(made_on=date(2026, 3, 1))], [{"made_on": 1}]),
    (dict[str, Part], {"a": {"made_on": "2026-03-01"}}, {"a": Part(made_on=date(2026, 3, 1))}, {"a": {}}),
    (date | None, None, None, 1),
    (date | None, "2026-03-01", date(2026, 3, 1), "x"),
    (UUID | int, AN_ID, UUID(AN_ID), "1"),
    (UUID | int, 1, 1, True),
    (set[date] | str, ["2026-03-01"], {date(2026, 3, 1)}, [1]),
    (
        Annotated[Card | Transfer, Discriminator("kind")],
        {"kind": "transfer", "accounts": [AN_ID, AN_ID]},
        Transfer(kind="transfer", accounts=(UUID(AN_ID), UUID(AN_ID))),
        {"kind": "cash"},
    ),
    (Path, "a/b", Path("a/b"), 1),
    (IPv4Address, "192.0.2.1", ip_address("192.0.2.1"), "192.0.2.256"),
    (IPv6Address, "2001:db8::1", ip_address("2001:db8::1"), "192.0.2.1"),
    (IPv4Interface, "192.0.2.1/24", ip_interface("192.0.2.1/24"), "x"),
    (IPv6Interface, "2001:db8::1/64", ip_interface("2001:db8::1/64"), "x"),
    (IPv4Network, "192.0.2.0/24", ip_network("192.0.2.0/24"), "192.0.2.1/24"),
    (IPv6Network, "2001:db8::/32", ip_network("2001:db8::/32"), "x"),
    (AnyUrl, "ftp://service.test/x", AnyUrl("ftp://service.test/x"), "x"),
    (HttpUrl, "https://service.test/x", HttpUrl("https://service.test/x"), "ftp://service.test/x"),
    (PostgresDsn, "postgresql://u@db/x", PostgresDsn("postgresql://u@db/x"), "https://db/x"),
    (re.Pattern[str], "^a+$", re.compile("^a+$"), "("),
    (SecretStr, "hush", SecretStr("hush"), 1),
    (Base64Bytes, "dGV4dA==", b"text", "a"),
    (ByteSize, "1kb", ByteSize(1000), "1 elephant"),
    (Json[list[int]], "[1, 2]", [1, 2], "[1"),
    (JsonValue, {"a": [1, None, 0.5]}, {"a": [1, None, 0.5]}, None),
    (Any, {"a": [1, None, 0.5]}, {"a": [1, None, 0.5]}, None),
]
ACCEPT_ALL = (JsonValue, Any)


@pytest.mark.parametrize(
    ("annotation", "value", "arrives", "bad"),
    TYPES,
    ids=[f"{getattr(row[0], '__name__', 'type')}-{row[1]}" for row in TYPES],
)
async def test_body_field_accepts_json_of_its_type_only(annotation: Any, value: Any, arrives: Any, bad: Any) -> None:
    found = await received(annotation, value)

    assert found == arrives
    assert type(found) is type(arrives) or isinstance(arrives, dict)
    if annotation not in ACCEPT_ALL:
        await refused(annotation, bad)


ONE = {"made_on": "2026-03-01", "count": 2}
PART = Part(made_on=date(2026, 3, 1), count=2)


@pytest.mark.parametrize(
    ("annotation", "content", "arrives"),
    [
        (Part, ONE, PART),
        (Part | None, ONE, PART),
        (list[Part], [ONE, ONE], [PART, PART]),
        (dict[str, Part], {"a": ONE}, {"a": PART}),
        (Annotated[Part, Body(embed=True)], {"body": ONE}, PART),
        (Annotated[Card | Transfer, Discriminator("kind")], {"kind": "card", "expires": "2026-03-01"}, None),
        (Note | Part, ONE, PART),
        (Tree, {"planted": "2026-03-01", "branches": [{"planted": "2026-03-02"}]}, None),
        (Batch[date], {"entries": ["2026-03-01"]}, Batch[date](entries={date(2026, 3, 1)})),
    ],
)
async def test_nested_models_of_a_body_are_validated_as_json(annotation: Any, content: Any, arrives: Any) -> None:
    response, body = await post(annotation, content)

    assert response.status_code == 200, response.text
    assert arrives is None or body == arrives


@pytest.mark.parametrize(
    ("annotation", "content", "where"),
    [
        (Part, {"made_on": "x", "count": 1}, [["body", "made_on"]]),
        (Part, {"made_on": "2026-03-01", "colour": "red"}, [["body", "colour"]]),
        (list[Part], [ONE, {**ONE, "count": "1"}], [["body", 1, "count"]]),
        (Annotated[Part, Body(embed=True)], {"body": {**ONE, "count": True}}, [["body", "body", "count"]]),
        (Note | Mark, {"text": "a", "stars": 1}, [["body", "Note", "stars"], ["body", "Mark", "text"]]),
        (Tree, {"planted": "2026-03-01", "branches": [{"planted": 1}]}, [["body", "branches", 0, "planted"]]),
        (Part, [], [["body"]]),
        (Part, "x", [["body"]]),
    ],
)
async def test_validation_errors_of_a_body_have_their_location(annotation: Any, content: Any, where: list[Any]) -> None:
    response, _ = await post(annotation, content)

    assert [error["loc"] for error in errors_of(response)] == where


async def test_the_openapi_document_describes_bodies_by_reference() -> None:
    app = FastAPI()

    @app.post("/one")
    async def one(body: Part) -> None: ...

    @app.post("/many")
    async def many(body: list[Annotated[Card | Transfer, Discriminator("kind")]], tree: Tree) -> None: ...

    document = app.openapi()
    schemas = document["components"]["schemas"]

    content = document["paths"]["/one"]["post"]["requestBody"]["content"]["application/json"]
    assert content["schema"] == {"$ref": "#/components/schemas/Part"}
    assert schemas["Part"] == {
        "type": "object",
        "title": "Part",
        "additionalProperties": False,
        "required": ["made_on"],
        "properties": {
            "made_on": {"type": "string", "format": "date", "title": "Made On"},
            "count": {"type": "integer", "title": "Count", "default": 1},
        },
    }
    assert schemas["Body_many_many_post"]["properties"]["body"]["items"]["oneOf"] == [
        {"$ref": "#/components/schemas/Card"},
        {"$ref": "#/components/schemas/Transfer"},
    ]
    assert schemas["Tree"]["properties"]["branches"]["items"] == {"$ref": "#/components/schemas/Tree"}


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b'"\\ud800"', b"[" * 300 + b"]" * 300])
@pytest.mark.parametrize("annotation", [float, Any, JsonValue, dict[str, Any]])
async def test_value_outside_of_the_json_standard_is_refused(annotation: Any, value: bytes) -> None:
    response, _ = await post(model_of(annotation), None, raw=b'{"value": ' + value + b"}")

    assert errors_of(response)


@pytest.mark.parametrize(
    "content",
    [
        {"text": "x", **{str(n): n for n in range(MAX_ERRORS + 1)}},
        {"text": "x", "day": {str(n): n for n in range(2000)}, **{str(n): n for n in range(2000)}},
    ],
)
async def test_too_many_errors_are_reported_as_one(content: Any) -> None:
    response, _ = await post(Note, content)

    (error,) = errors_of(response)
    assert error["type"] == "too_many_errors"


async def test_too_many_errors_in_a_nested_model_are_reported_as_one() -> None:
    flood = {"made_on": "2026-03-01", **{str(n): n for n in range(MAX_ERRORS + 1)}}

    response, _ = await post(model_of(list[Part]), {"value": [flood]})

    (error,) = errors_of(response)
    assert error["type"] == "too_many_errors"


async def test_after_validators_get_the_converted_value() -> None:
    class Booking(WriteModel):
        day: date

        @field_validator("day")
        @classmethod
        def _no_sunday(cls, day: date) -> date:
            if day.weekday() == 6:
                raise ValueError("closed on Sundays")
            return day

    assert (await post(Booking, {"day": "2026-03-02"}))[0].status_code == 200
    assert errors_of((await post(Booking, {"day": "2026-03-01"}))[0])


async def test_before_validators_need_a_field_that_is_not_strict() -> None:
    class Booking(WriteModel):
        day: date = Field(strict=False)

        @field_validator("day", mode="before")
        @classmethod
        def _trimmed(cls, day: Any) -> Any:
            return day.strip() if isinstance(day, str) else day

    response, body = await post(Booking, {"day": " 2026-03-02 "})

    assert response.status_code == 200
    assert body.day == date(2026, 3, 2)


def test_write_model_constructed_in_python_takes_python_types() -> None:
    assert Part(made_on=date(2026, 3, 1)).made_on == date(2026, 3, 1)
    assert Part.model_validate_json('{"made_on": "2026-03-01"}') == Part(made_on=date(2026, 3, 1))
    with pytest.raises(ValidationError):
        Part(made_on="2026-03-01")  # type: ignore[arg-type]


class Price(WriteModel):
    price: Annotated[Decimal, amount(12, 2)]


@pytest.mark.parametrize("text", ["0", "0.5", "119.90", "9999999999.99"])
def test_an_amount_is_read_from_a_string_and_written_as_one(text: str) -> None:
    price = Price.model_validate_json(f'{{"price": "{text}"}}')
    assert price.model_dump() == {"price": Decimal(text)}
    assert price.model_dump_json() == f'{{"price":"{text}"}}'


@pytest.mark.parametrize("wrong", ['""', '"-1"', '"0.001"', '"10000000000"', '"1e3"', '"1.5\\n"', "1", "1.5", "null"])
def test_what_is_no_amount_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError):
        Price.model_validate_json(f'{{"price": {wrong}}}')


def test_the_document_tells_amounts_from_other_strings() -> None:
    shown = Price.model_json_schema()["properties"]["price"]
    assert (shown["type"], shown["pattern"]) == ("string", "^[0-9]{1,10}([.][0-9]{1,2})?$")
