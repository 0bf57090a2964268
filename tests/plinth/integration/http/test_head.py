"""HEAD is answered wherever GET is, with the headers of the GET and without its body."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from notes.config import Settings
from notes.main import create_app
from plinth.telemetry.http_metrics import HTTP
from plinth.testing import serving
from tests.support.notes import note

OF_EACH_ANSWER = {"date", "x-request-id", "ratelimit", "traceresponse"}
ended: list[str] = []


async def endless() -> AsyncIterator[bytes]:
    try:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0.01)
    finally:
        ended.append("stream")


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    app = create_app(settings)
    extra = APIRouter()

    @extra.get("/endless")
    async def stream() -> StreamingResponse:
        return StreamingResponse(endless(), media_type="text/plain")

    @extra.get("/declared")
    async def get_declared() -> str:
        return "got"

    @extra.head("/declared")
    async def head_declared(request: Request) -> Response:
        return Response(headers={"X-Method": request.method})

    @extra.get("/large")
    async def large() -> list[str]:
        return ["word"] * 1000

    app.include_router(extra, prefix="/api/v1")
    with serving(app) as url:
        yield url


@pytest.fixture
async def client(url: str, alice: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=alice, timeout=20) as client:
        yield client


def comparable(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in OF_EACH_ANSWER}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/notes", 200),
        ("/me", 200),
        ("/jobs?limit=1", 200),
        ("/public/health", 200),
        ("/public/health/ready", 200),
        ("/openapi.json", 200),
        ("/large", 200),
        ("/notes/00000000-0000-0000-0000-000000000000", 404),
        ("/notes/nonsense", 422),
        ("/nowhere", 404),
        ("/queues", 403),
    ],
)
async def test_head_has_the_headers_of_the_get_and_no_body(client: httpx.AsyncClient, path: str, status: int) -> None:
    get, head = await client.get(path), await client.head(path)

    assert (get.status_code, head.status_code) == (status, status)
    if status < 400:  # an error's body, and so its length, has the id of the request
        assert comparable(head) == comparable(get)
    assert head.content == b""


async def test_head_may_be_conditional(client: httpx.AsyncClient) -> None:
    made = (await client.post("/notes", json=note())).json()
    answers = [await client.head(f"/notes/{made['id']}", headers={"If-None-Match": tag}) for tag in ('"1"', '"2"')]

    assert [answer.status_code for answer in answers] == [304, 200]
    assert answers[1].headers["etag"] == '"1"'


async def test_connection_goes_on_after_a_head(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        assert (await client.head("/large")).content == b""
        assert len((await client.get("/large")).json()) == 1000


async def test_head_of_a_stream_ends_it(client: httpx.AsyncClient) -> None:
    ended.clear()
    response = await client.head("/endless")

    assert response.status_code == 200
    async with asyncio.timeout(20):
        while not ended:  # noqa: ASYNC110 - the server's thread changes it
            await asyncio.sleep(0.01)


async def test_head_of_an_event_stream_ends_it(client: httpx.AsyncClient) -> None:
    job = (await client.post("/digests")).json()["job_id"]
    for _ in range(30):  # more than one caller may watch
        response = await client.head(f"/jobs/{job}/events")
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


async def test_endpoint_that_declares_head_answers_it(client: httpx.AsyncClient) -> None:
    assert (await client.head("/declared")).headers["x-method"] == "HEAD"
    assert (await client.get("/declared")).json() == "got"


async def test_head_needs_a_caller_where_the_get_does(client: httpx.AsyncClient) -> None:
    assert (await client.head("/notes", headers={"Authorization": ""})).status_code == 401


async def test_head_is_counted_as_such(client: httpx.AsyncClient) -> None:
    await client.head("/large")
    await client.head("/large")  # a request is counted before the next one of its connection is answered

    assert 'http_request_method="HEAD",http_route="/api/v1/large"' in HTTP.render(openmetrics=False)


def test_openapi_describes_no_head_that_no_endpoint_declares(settings: Settings) -> None:
    document = create_app(settings).openapi()

    assert not [path for path, operations in document["paths"].items() if "head" in operations]
