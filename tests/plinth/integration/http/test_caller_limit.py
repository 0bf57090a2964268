"""Requests of one caller in progress: bounded, whatever becomes of them, and never those of another caller."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
from fastapi import APIRouter
from starlette.responses import StreamingResponse

from notes.config import Settings
from notes.main import create_app
from plinth.api.dependencies import PrincipalDep, SessionDep
from plinth.http import caller_limit
from plinth.testing import problem, serving, until
from tests.support.api import client_of, signed_in
from tests.support.metrics import metric
from tests.support.notes import settings_with

LIMIT = 2


class Held:
    """Requests that are held until the test lets them go."""

    def __init__(self) -> None:
        self.running = 0
        self.go_on = asyncio.Event()

    async def hold(self) -> None:
        self.running += 1
        try:
            await self.go_on.wait()
        finally:
            self.running -= 1


@pytest.fixture
def settings(database_url: str) -> Settings:
    return settings_with(DATABASE_URL=database_url, MAX_REQUESTS_PER_CALLER=LIMIT)


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def router(held: Held) -> APIRouter:
    router = APIRouter()

    @router.api_route("/held", methods=["GET", "POST"])
    async def hold(principal: PrincipalDep, session: SessionDep) -> None:
        await held.hold()

    @router.get("/stream")
    async def stream(principal: PrincipalDep) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"begun"
            await held.hold()

        return StreamingResponse(pieces())

    @router.get("/broken")
    async def broken(principal: PrincipalDep) -> None:
        raise RuntimeError

    @router.get("/cut-off")
    async def cut_off(principal: PrincipalDep) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"begun"
            raise RuntimeError

        return StreamingResponse(pieces())

    return router


@pytest.fixture
async def client(settings: Settings, router: APIRouter) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    app.include_router(router, prefix="/api/v1")
    async with client_of(app) as client:
        yield client


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_limit, "WAIT_SECONDS", 0)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_caller_beyond_its_limit_gets_429_and_others_are_served(
    client: httpx.AsyncClient, settings: Settings, held: Held, method: str
) -> None:
    alice, bob = signed_in(settings), signed_in(settings)
    refused = metric("plinth_caller_limit_refused_total")
    requests = [asyncio.create_task(client.request(method, "/held", headers=alice)) for _ in range(100)]
    await until(lambda: sum(request.done() for request in requests) == 100 - LIMIT)

    response = await client.get("/me", headers=alice)
    assert (await client.get("/me", headers=bob)).status_code == 200
    held.go_on.set()
    answers = await asyncio.gather(*requests)

    problem(response, 429, "concurrency_limited")
    assert response.headers["retry-after"] == "1"
    assert Counter(answer.status_code for answer in answers) == {200: LIMIT, 429: 100 - LIMIT}
    assert metric("plinth_caller_limit_refused_total") == refused + 101 - LIMIT
    assert (await client.get("/me", headers=alice)).status_code == 200


async def test_burst_of_one_page_is_served(
    client: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller_limit, "WAIT_SECONDS", 60)
    alice = signed_in(settings)
    most = LIMIT + caller_limit.WAITING_EACH * LIMIT

    answers = await asyncio.gather(*(client.get("/notes", headers=alice) for _ in range(most)))

    assert {answer.status_code for answer in answers} == {200}


async def test_refused_and_broken_requests_keep_no_place(settings: Settings, router: APIRouter, held: Held) -> None:
    app = create_app(settings)
    app.include_router(router, prefix="/api/v1")
    alice = signed_in(settings)
    async with client_of(app) as client:
        for _ in range(2 * LIMIT):
            assert (await client.get("/broken", headers=alice)).status_code == 500
            with pytest.raises(RuntimeError):
                await client.get("/cut-off", headers=alice)
            assert (await client.get("/jobs", params={"limit": 0}, headers=alice)).status_code == 422
            json = alice | {"Content-Type": "application/json"}
            assert (await client.post("/notes", content=b"{", headers=json)).status_code == 422
            request = asyncio.create_task(client.get("/held", headers=alice))
            await until(lambda: held.running)
            request.cancel()
            await until(lambda: not held.running)

        assert (await client.get("/me", headers=alice)).status_code == 200


async def test_client_that_leaves_gives_its_places_up(settings: Settings) -> None:
    app = create_app(settings)
    router = APIRouter()

    @router.get("/endless")
    async def endless(principal: PrincipalDep) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            while True:
                yield b"more"
                await asyncio.sleep(0.01)

        return StreamingResponse(pieces())

    app.include_router(router, prefix="/api/v1")
    alice = signed_in(settings)
    with serving(app) as url:
        async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=alice) as client:
            for _ in range(LIMIT):
                async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=alice) as leaving:
                    stream = await leaving.send(leaving.build_request("GET", "/endless"), stream=True)
                    assert stream.status_code == 200
                    await anext(stream.aiter_raw())

            async def served() -> bool:
                return (await client.get("/me")).status_code == 200

            await until(served)
            async with AsyncExitStack() as streams:
                for _ in range(LIMIT):
                    answer = await streams.enter_async_context(client.stream("GET", "/endless"))
                    assert answer.status_code == 200
                problem(await client.get("/me"), 429, "concurrency_limited")
            await until(served)


async def test_streams_of_events_take_no_place(client: httpx.AsyncClient, settings: Settings, held: Held) -> None:
    alice = signed_in(settings)
    watched = (await client.post("/digests", headers=alice)).json()["job_id"]
    with serving(create_app(settings)) as url:
        streaming = httpx.AsyncClient(base_url=f"{url}/api/v1", headers=alice)
        async with streaming, AsyncExitStack() as streams:
            for _ in range(3 * LIMIT):
                answer = await streams.enter_async_context(streaming.stream("GET", f"/jobs/{watched}/events"))
                assert answer.status_code == 200
            assert (await streaming.get("/me")).status_code == 200


def test_limit_leaves_connections_to_other_callers() -> None:
    def limit(**values: int) -> int:
        return Settings.isolated(**values).requests_per_caller

    assert limit() == 8
    assert limit(DB_POOL_SIZE=5) == 4
    assert limit(DB_POOL_SIZE=5, DB_MAX_OVERFLOW=5) == 8
    assert limit(DB_POOL_SIZE=1) == 1
    assert limit(MAX_REQUESTS_PER_CALLER=50) == 50
