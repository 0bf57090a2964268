"""Lists in pages: every row once and in order, whatever type the list is sorted by."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI, Query, Request, Response
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    Float,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Uuid,
    insert,
    select,
)

from plinth.database.engine import Database
from plinth.database.statement import Statement
from plinth.database.tables import UtcDateTime
from plinth.http.cursor import CursorCodec
from plinth.http.error_handlers import install_exception_handlers
from plinth.http.headers import with_headers
from plinth.http.pagination import Order, Pager, Slice, sort_orders
from plinth.http.schemas import Page, PageQuery, ReadModel
from plinth.identity.principal import Principal
from tests.support.api import with_state
from tests.support.notes import settings_with

metadata = MetaData()
ROWS = Table(
    "page_row",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("large", BigInteger, nullable=False),
    Column("share", Float, nullable=False),
    Column("price", Numeric(10, 2), nullable=False),
    Column("text", String(50, collation="C"), nullable=False),
    Column("flag", Boolean, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("day", Date, nullable=False),
    Column("other_id", Uuid, nullable=False),
    Column("due", UtcDateTime, nullable=True),
    Column("score", Integer, nullable=True),
)
COLUMNS = [column for column in ROWS.c if column.name != "id"]
ORDERS = sort_orders(*COLUMNS, unique=ROWS.c.id)
# `id` by itself is unique.
ORDERS |= {"id": Order(ROWS.c.id), "-id": Order(ROWS.c.id, descending=True)}
COUNT = 17
START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def row(n: int) -> dict[str, Any]:
    """A row of which the values of each column come several times."""
    return {
        "id": uuid4(),
        "number": n % 5 - 2,
        "large": 2**60 + n % 4,
        "share": (n % 6) / 7,
        "price": Decimal(n % 7) / 100,
        "text": ["", "a", "A", "é", "🎉", 'q"\\'][n % 6],
        "flag": n % 2 == 0,
        "at": START + timedelta(microseconds=n % 3),
        "day": date(2026, 3, 1 + n % 3),
        "other_id": UUID(int=n % 4),
        "due": None if n % 3 == 0 else START + timedelta(hours=n % 4),
        "score": None if n % 4 else n,
    }


class RowQuery(PageQuery):
    sort: str = "id"
    flag: bool | None = None


class RowRead(ReadModel):
    id: UUID
    number: int


def a_principal(subject: str) -> Principal:
    return Principal(subject, "issuer", frozenset(), frozenset(), 0)


def an_app(database: Database) -> FastAPI:
    """Two lists of the same rows: through a session, and as a prepared statement on the bare connection."""
    app = FastAPI()
    install_exception_handlers(app)
    statements: dict[tuple[str, bool], Statement] = {}

    @app.get("/rows", response_model=Page[RowRead], responses={200: with_headers("Link")})
    async def rows(query: Annotated[RowQuery, Query()], request: Request) -> Response:
        pager = Pager(request, a_principal(request.headers.get("x-caller", "alice")), query, ORDERS[query.sort])
        statement = select(ROWS) if query.flag is None else select(ROWS).where(ROWS.c.flag == query.flag)
        async with database.session() as session:
            found = (await (await session.connection()).execute(pager.slice.of(statement))).all()
        return pager.response(found, RowRead)

    @app.get("/fast-rows")
    async def fast_rows(query: Annotated[RowQuery, Query()], request: Request) -> Response:
        pager = Pager(request, a_principal("alice"), query, ORDERS[query.sort])
        part = pager.slice
        key = query.sort, part.resumed
        if key not in statements:
            statements[key] = Statement(part.order.apply(select(ROWS), resumed=part.resumed))
        async with database.connection() as connection:
            return pager.response(await statements[key].fetch(connection, **part.parameters))

    return app


@pytest.fixture
async def database(empty_database_url: str) -> AsyncIterator[Database]:
    database = Database(settings_with(DATABASE_URL=empty_database_url))
    async with database.session() as session:
        connection = await session.connection()
        await connection.run_sync(metadata.create_all)
        await connection.execute(insert(ROWS), [row(n) for n in range(COUNT)])
    yield database
    await database.aclose()


@pytest.fixture
async def client(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    app = with_state(an_app(database), {"cursors": CursorCodec(b"a key")})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service.test") as client:
        yield client


async def walk(client: httpx.AsyncClient, path: str) -> list[list[str]]:
    """The ids on each page, following the links."""
    pages = []
    while path:
        response = await client.get(path)
        assert response.status_code == 200, response.text
        pages.append([entry["id"] for entry in response.json()["items"]])
        path = response.links.get("next", {}).get("url", "")
    return pages


@pytest.mark.parametrize("path", ["/rows", "/fast-rows"])
async def test_each_order_shows_every_row_once_and_in_order(
    client: httpx.AsyncClient, database: Database, path: str
) -> None:
    for name, order in ORDERS.items():
        # The whole list on one page: the order of PostgreSQL itself.
        async with database.session() as session:
            whole = (await (await session.connection()).execute(Slice(order, 100).of(select(ROWS)))).all()

        pages = await walk(client, f"{path}?sort={name}&limit=4")

        assert [len(page) for page in pages] == [4, 4, 4, 4, 1], name
        assert [entry for page in pages for entry in page] == [str(found.id) for found in whole], name


async def test_page_has_the_response_model_and_a_link_to_the_next(client: httpx.AsyncClient) -> None:
    response = await client.get("/rows?sort=-number&limit=4&flag=true")

    page = Page[RowRead].model_validate_json(response.content)
    assert [entry.number for entry in page.items] == [2, 2, 1, 0]
    link = urlsplit(response.links["next"]["url"])
    assert link.path == "/rows"
    expected = {"sort": ["-number"], "limit": ["4"], "flag": ["True"], "cursor": [page.next_cursor]}
    assert parse_qs(link.query) == expected


async def test_the_last_page_has_no_cursor_and_no_link(client: httpx.AsyncClient) -> None:
    response = await client.get(f"/rows?limit={COUNT}")

    assert len(response.json()["items"]) == COUNT
    assert response.json()["next_cursor"] is None
    assert "link" not in response.headers


async def test_cursor_of_another_list_is_refused(client: httpx.AsyncClient) -> None:
    cursor = (await client.get("/rows?limit=1")).json()["next_cursor"]
    assert (await client.get(f"/rows?cursor={cursor}&limit=2")).status_code == 200

    for path, caller in (
        ("/fast-rows?sort=id", "alice"),
        ("/rows?sort=-id", "alice"),
        ("/rows?flag=true", "alice"),
        ("/rows?sort=id", "bob"),
    ):
        response = await client.get(f"{path}&cursor={cursor}", headers={"X-Caller": caller})
        assert response.status_code == 422, path
        assert response.json()["errors"][0]["loc"] == ["query", "cursor"]


async def test_a_cursor_of_an_order_that_has_changed_is_refused(client: httpx.AsyncClient) -> None:
    # As an earlier version of the service would have made it, whose `sort=at` meant another column.
    filters = {"sort": "at", "flag": None}
    for values in (["text", str(uuid4())], [1], [], [None, str(uuid4())]):
        cursor = CursorCodec(b"a key").encode(repr(("/rows", "alice", filters)), values)

        response = await client.get(f"/rows?sort=at&cursor={cursor}")

        assert response.status_code == 422, values
        assert response.json()["errors"][0]["type"] == "cursor"
