"""Identity and limits come before a request's body."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import APIRouter, Depends
from pydantic import BaseModel

from notes.config import Settings
from notes.main import create_app
from plinth.api.dependencies import PrincipalDep
from plinth.testing import serving
from tests.plinth.integration.http.test_connections import peer_of
from tests.support.api import client_of, signed_in
from tests.support.notes import settings_with


class Body(BaseModel):
    number: int


async def operator_of(principal: PrincipalDep) -> str:
    return principal.subject


async def caller(principal: PrincipalDep) -> None:
    pass


router = APIRouter()


@router.post("/direct")
async def direct(body: Body, principal: PrincipalDep) -> str:
    return principal.subject


@router.post("/nested")
async def nested(body: Body, subject: str = Depends(operator_of)) -> str:
    return subject


@router.post("/of-the-route", dependencies=[Depends(caller)])
async def of_the_route(body: Body) -> str:
    return "done"


@router.get("/by-get")
async def by_get(body: Body, principal: PrincipalDep) -> str:
    return principal.subject


around = APIRouter()


@around.put("/of-the-router")
async def of_the_router(body: Body) -> str:
    return "done"


public = APIRouter()


@public.post("/public")
async def hook(body: Body) -> int:
    return body.number


GUARDED = [
    ("GET", "/by-get"),
    ("POST", "/direct"),
    ("POST", "/nested"),
    ("POST", "/of-the-route"),
    ("PUT", "/of-the-router"),
]


@pytest.fixture(scope="module")
def settings(database_url: str) -> Settings:
    return settings_with(DATABASE_URL=database_url, RATE_LIMIT="3/minute", RATE_LIMIT_ANONYMOUS="5/minute")


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    app.include_router(router, prefix="/api/v1")
    app.include_router(around, prefix="/api/v1", dependencies=[Depends(caller)])
    app.include_router(public, prefix="/api/v1")
    async with client_of(app) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), GUARDED)
class TestGuardedEndpoints:
    async def test_body_without_a_token_is_refused_unread(
        self, client: httpx.AsyncClient, method: str, path: str
    ) -> None:
        async def body() -> AsyncIterator[bytes]:
            pytest.fail("the body was asked for")
            yield b""

        response = await client.request(method, path, content=body(), headers={"Content-Type": "application/json"})
        assert response.status_code == 401
        assert response.json()["code"] == "unauthorized"

    async def test_broken_body_counts_towards_the_limit(
        self, client: httpx.AsyncClient, method: str, path: str
    ) -> None:
        statuses = [(await client.request(method, path, content=b'{"number":')).status_code for _ in range(7)]
        assert statuses == [401] * 5 + [429] * 2

    async def test_body_of_a_caller_is_read_and_counted_once(
        self, client: httpx.AsyncClient, settings: Settings, method: str, path: str
    ) -> None:
        headers = signed_in(settings)
        responses = [await client.request(method, path, json={"number": 1}, headers=headers) for _ in range(4)]
        assert [response.status_code for response in responses] == [200] * 3 + [429]
        assert "r=2;" in responses[0].headers["ratelimit"]

    async def test_broken_body_of_a_caller_is_told(
        self, client: httpx.AsyncClient, settings: Settings, method: str, path: str
    ) -> None:
        headers = signed_in(settings) | {"Content-Type": "application/json"}
        response = await client.request(method, path, content=b'{"number":', headers=headers)
        assert response.status_code == 422


async def test_public_endpoint_needs_no_caller(client: httpx.AsyncClient) -> None:
    assert (await client.post("/public", json={"number": 7})).json() == 7


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/public", 405)])
async def test_request_that_no_endpoint_takes_counts_for_its_address(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    statuses = [(await client.request(method, path)).status_code for _ in range(7)]
    assert statuses == [status] * 5 + [429] * 2


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    with serving(create_app(settings)) as url:
        yield url


def test_client_that_waits_for_100_continue_is_refused_without_it(url: str) -> None:
    with peer_of(url) as peer:
        head = b"POST /api/v1/notes HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        peer.send(head + b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
        assert peer.answer()[0] == 401
