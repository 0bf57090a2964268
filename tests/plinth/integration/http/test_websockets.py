"""WebSockets: the caller, refusals, close codes, limits, and what becomes of them when the process drains."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Annotated, Any
from urllib.parse import urlsplit

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from notes.config import Settings
from notes.main import create_app
from plinth.api import websockets as first_message
from plinth.api.dependencies import DatabaseDep, PrincipalDep, SessionDep, require
from plinth.api.websockets import principal_of_first_message
from plinth.errors import ConflictError
from plinth.health.lifecycle import Lifecycle
from plinth.http import websockets
from plinth.http.limits import ConnectionLimits
from plinth.identity import sign_local_token
from plinth.identity.principal import Principal
from plinth.telemetry.log_profiles import WEBSOCKET_MESSAGE
from plinth.telemetry.log_records import request_id_var
from plinth.testing import serving
from tests.support.logs import logging_as
from tests.support.metrics import metric
from tests.support.notes import settings_with

Open = Callable[..., Any]


async def echo(websocket: WebSocket, principal: PrincipalDep) -> None:
    await websocket.accept()
    while True:
        await websocket.send_text(f"{principal.subject}: {await websocket.receive_text()}")


async def once(websocket: WebSocket, principal: PrincipalDep, database: DatabaseDep) -> None:
    await websocket.accept()
    async with database.connection() as connection:
        await websocket.send_json([await connection.fetchval("SELECT 1"), request_id_var.get()])


async def allowed(websocket: WebSocket, principal: Annotated[Principal, Depends(require("notes:read"))]) -> None:
    await websocket.accept()


async def first(websocket: WebSocket) -> None:
    await websocket.accept()
    principal = await principal_of_first_message(websocket)
    await websocket.send_text(principal.subject)


async def conflict(websocket: WebSocket) -> None:
    await websocket.accept()
    raise ConflictError("It has changed.")


async def broken(websocket: WebSocket) -> None:
    await websocket.accept()
    raise RuntimeError("hunter2")


async def broken_early(websocket: WebSocket) -> None:
    raise RuntimeError("hunter2")


async def session(websocket: WebSocket, session: SessionDep) -> None:
    await websocket.accept()


async def numbered(websocket: WebSocket, number: int) -> None:
    await websocket.accept(subprotocol="numbers.v1")


async def closing(websocket: WebSocket) -> None:
    await websocket.close()


async def patient(websocket: WebSocket) -> None:
    await asyncio.sleep(0.3)
    await websocket.accept()


ENDPOINTS = (patient, echo, once, allowed, first, conflict, broken, broken_early, session, numbered, closing)


@pytest.fixture(scope="module")
def settings(database_url: str) -> Settings:
    return settings_with(DATABASE_URL=database_url, DRAIN_SECONDS=0, MAX_REQUESTS_PER_CALLER=1, MAX_BODY_BYTES=2_000)


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    app = create_app(settings)
    router = APIRouter()
    for endpoint in ENDPOINTS:
        router.add_api_websocket_route(f"/{endpoint.__name__.replace('_', '-')}", endpoint)
    app.include_router(router, prefix="/api/v1")
    return app


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    with serving(app) as url:
        yield url.replace("http:", "ws:") + "/api/v1"


@pytest.fixture
def token(settings: Settings) -> str:
    return sign_local_token(settings, subject="alice", ttl=600)


@pytest.fixture
def open_one(address: str, token: str) -> Open:
    """Opens a WebSocket of alice as a browser does, or with what is given."""

    @contextmanager
    def open_one(path: str, *subprotocols: str, **options: Any) -> Iterator[ClientConnection]:
        offered = [Subprotocol(name) for name in subprotocols or ("bearer", token)]
        with connect(f"{address}{path}", subprotocols=offered, compression=None, **options) as websocket:
            yield websocket

    return open_one


def refused(open_one: Open, path: str, *subprotocols: str) -> tuple[Response, Any]:
    """The response to a handshake that is refused, and its problem document."""
    with pytest.raises(InvalidStatus) as caught, open_one(path, *subprotocols):
        pass
    response = caught.value.response
    assert response.headers["Content-Type"] == "application/problem+json"
    body = json.loads(response.body or b"")
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert body["status"] == response.status_code
    return response, body


def end_of(websocket: ClientConnection) -> tuple[int, str]:
    """The code and the reason by which the server ends it."""
    with pytest.raises(ConnectionClosed) as caught:
        websocket.recv(timeout=20)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


class TestCaller:
    def test_token_among_the_subprotocols_names_the_caller(self, open_one: Open) -> None:
        with open_one("/echo") as websocket:
            assert websocket.subprotocol == "bearer"
            websocket.send("hello")
            assert websocket.recv(timeout=20) == "alice: hello"

    def test_token_in_the_header_names_the_caller(self, address: str, token: str) -> None:
        with connect(f"{address}/echo", additional_headers={"Authorization": f"Bearer {token}"}) as websocket:
            assert websocket.subprotocol is None
            websocket.send("hello")
            assert websocket.recv(timeout=20) == "alice: hello"

    def test_endpoint_may_answer_a_subprotocol_of_its_own(self, open_one: Open, token: str) -> None:
        with open_one("/numbered?number=1", "bearer", token, "numbers.v1") as websocket:
            assert websocket.subprotocol == "numbers.v1"

    @pytest.mark.parametrize("subprotocols", [("chat",), ("bearer",), ("bearer", "no-token")])
    def test_handshake_without_a_valid_token_is_answered_401(
        self, open_one: Open, subprotocols: tuple[str, ...]
    ) -> None:
        response, body = refused(open_one, "/echo", *subprotocols)
        assert (response.status_code, body["code"]) == (401, "unauthorized")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")

    def test_token_in_the_query_is_not_read(self, open_one: Open, token: str) -> None:
        response, _ = refused(open_one, f"/echo?token={token}&access_token={token}", "chat")
        assert response.status_code == 401

    def test_caller_without_the_permission_is_answered_403(self, open_one: Open) -> None:
        response, body = refused(open_one, "/allowed")
        assert (response.status_code, body["permission"]) == (403, "notes:read")

    def test_token_as_the_first_message_names_the_caller(self, open_one: Open, token: str) -> None:
        with open_one("/first", "chat") as websocket:
            websocket.send(token)
            assert websocket.recv(timeout=20) == "alice"

    @pytest.mark.parametrize("message", ["no token", "", b"bytes"])
    def test_wrong_first_message_ends_it_with_4401(self, open_one: Open, message: str | bytes) -> None:
        with open_one("/first", "chat") as websocket:
            websocket.send(message)
            assert end_of(websocket) == (4401, "unauthorized")

    def test_first_message_that_does_not_come_ends_it_with_4401(
        self, open_one: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(first_message, "FIRST_MESSAGE_SECONDS", 0.01)
        with open_one("/first", "chat") as websocket:
            assert end_of(websocket) == (4401, "unauthorized")

    def test_expired_token_ends_it_with_4401(self, settings: Settings, open_one: Open) -> None:
        with open_one("/echo", "bearer", sign_local_token(settings, subject="alice", ttl=1)) as websocket:
            assert end_of(websocket) == (4401, "token_expired")


class TestRefusedHandshake:
    def test_unknown_path_is_answered_404(self, open_one: Open) -> None:
        response, body = refused(open_one, "/nothing")
        assert (response.status_code, body["code"]) == (404, "not_found")

    def test_unknown_paths_count_for_the_address(self, settings: Settings, database_url: str) -> None:
        limited = settings_with(DATABASE_URL=database_url, RATE_LIMIT_ANONYMOUS="1/hour")
        with serving(create_app(limited)) as url:
            statuses = []
            for _ in range(2):
                with pytest.raises(InvalidStatus) as caught, connect(f"{url.replace('http:', 'ws:')}/nothing"):
                    pass
                statuses.append(caught.value.response.status_code)
        assert statuses == [404, 429]

    def test_invalid_parameter_is_answered_422(self, open_one: Open) -> None:
        _, body = refused(open_one, "/numbered?number=one")
        assert body["errors"][0]["loc"] == ["query", "number"]

    def test_endpoint_that_closes_before_it_accepts_is_answered_403(self, open_one: Open) -> None:
        with pytest.raises(InvalidStatus) as caught, open_one("/closing"):
            pass
        assert caught.value.response.status_code == 403

    @pytest.mark.parametrize("path", ["/broken-early", "/session"])
    def test_error_before_it_is_accepted_is_answered_500(self, open_one: Open, path: str) -> None:
        with capture_logs() as lines:
            _, body = refused(open_one, path)
        assert body["code"] == "internal_error"
        assert "hunter2" not in json.dumps(body)
        assert [line["event"] for line in lines if line["log_level"] == "error"] == ["unhandled exception"]


class TestEnd:
    def test_endpoint_that_returns_ends_it_with_1000(self, open_one: Open) -> None:
        with open_one("/once") as websocket:
            found, _ = json.loads(websocket.recv(timeout=20))
            assert found == 1
            assert end_of(websocket) == (1000, "")

    def test_error_for_the_client_ends_it_with_its_status(self, open_one: Open) -> None:
        with open_one("/conflict") as websocket:
            assert end_of(websocket) == (4409, "conflict")

    def test_unhandled_error_ends_it_with_1011_and_is_logged_once(self, open_one: Open) -> None:
        with capture_logs() as lines, open_one("/broken") as websocket:
            assert end_of(websocket) == (1011, "")
        assert [line["event"] for line in lines if line["log_level"] == "error"] == ["unhandled exception"]

    def test_client_that_leaves_is_no_error(self, app: FastAPI, settings: Settings, token: str) -> None:
        with capture_logs() as lines, serving(app) as url:
            address = url.replace("http:", "ws:") + "/api/v1/echo"
            with connect(address, subprotocols=[Subprotocol("bearer"), Subprotocol(token)]) as websocket:
                websocket.send("hello")
                websocket.recv(timeout=20)
        (line,) = [line for line in lines if line["event"] == WEBSOCKET_MESSAGE]
        assert line["route"] == "/api/v1/echo"
        assert (line["status"], line["close_code"]) == (101, 1000)
        assert (line["messages_received"], line["messages_sent"]) == (1, 1)
        assert "principal" in line
        assert not [line for line in lines if line["log_level"] == "error"]

    def test_client_that_leaves_before_the_answer_is_no_error(self, app: FastAPI) -> None:
        with capture_logs() as lines, serving(app) as url:
            address = urlsplit(url)
            head = b"GET /api/v1/patient HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            with socket.create_connection((str(address.hostname), address.port or 0)) as leaving:
                leaving.sendall(head + key)
                time.sleep(0.1)
        (line,) = [line for line in lines if line["event"] == WEBSOCKET_MESSAGE]  # the server has waited for its end
        assert line["status"] == 499
        assert not [line for line in lines if line["log_level"] == "error"]

    def test_message_that_is_too_large_ends_it_with_1009(self, app: FastAPI, settings: Settings, token: str) -> None:
        with serving(app, ConnectionLimits.of(settings)) as url:
            address = url.replace("http:", "ws:") + "/api/v1/echo"
            with connect(address, subprotocols=[Subprotocol("bearer"), Subprotocol(token)]) as websocket:
                websocket.send("x" * settings.MAX_BODY_BYTES)
                assert websocket.recv(timeout=20) == "alice: " + "x" * settings.MAX_BODY_BYTES
                websocket.send("x" * (settings.MAX_BODY_BYTES + 1))
                assert end_of(websocket)[0] == 1009

    def test_draining_ends_it_with_1012(self, app: FastAPI, open_one: Open) -> None:
        lifecycle: Lifecycle = app.state.lifecycle
        with open_one("/echo") as websocket:
            lifecycle.drain()
            assert end_of(websocket) == (1012, "connect again")

    def test_shutdown_ends_it_with_1012(self, app: FastAPI, token: str) -> None:
        with ExitStack() as opened:
            with serving(app) as url:
                address = url.replace("http:", "ws:") + "/api/v1/echo"
                offered = [Subprotocol("bearer"), Subprotocol(token)]
                websocket = opened.enter_context(connect(address, subprotocols=offered))
            assert end_of(websocket)[0] == 1012

    def test_it_ends_after_its_lifetime_so_that_the_token_is_checked_again(
        self, open_one: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(websockets, "LIFETIME_SECONDS", 0.05)
        with open_one("/echo") as websocket:
            assert end_of(websocket) == (1012, "connect again")


class TestLimits:
    def test_caller_beyond_its_limit_is_answered_429_until_one_has_ended(
        self, open_one: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(websockets, "MAX_OPEN_EACH", 2)
        with open_one("/echo"):
            with open_one("/echo"):
                response, body = refused(open_one, "/echo")
                assert (response.status_code, body["code"]) == (429, "concurrency_limited")
            for _ in range(3):
                with open_one("/once") as websocket:
                    websocket.recv(timeout=20)
                    end_of(websocket)

    def test_handshake_beyond_the_limit_of_the_process_is_answered_503(
        self, open_one: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(websockets, "MAX_OPEN", 1)
        with open_one("/echo"):
            response, body = refused(open_one, "/echo")
        assert (response.status_code, body["code"]) == (503, "too_many_websockets")

    def test_it_takes_no_place_of_a_request(self, settings: Settings, open_one: Open) -> None:
        with ExitStack() as opened:
            for _ in range(settings.requests_per_caller + 2):
                websocket = opened.enter_context(open_one("/echo"))
            websocket.send("hello")
            assert websocket.recv(timeout=20) == "alice: hello"


def test_handshake_is_counted_when_it_is_answered(open_one: Open) -> None:
    labels = {
        "http_request_method": "GET",
        "http_route": "/api/v1/echo",
        "http_response_status_code": "101",
    }
    counted = "http_server_request_duration_seconds_count"
    before = metric(counted, **labels)
    with open_one("/echo"):
        assert metric(counted, **labels) == before + 1


def test_lines_of_an_endpoint_have_the_id_of_the_handshake(open_one: Open) -> None:
    with open_one("/once") as websocket:
        _, request_id = json.loads(websocket.recv(timeout=20))
        assert websocket.response.headers["X-Request-ID"] == request_id


def test_query_of_a_handshake_is_in_no_line(app: FastAPI, token: str) -> None:
    with logging_as() as stderr, serving(app) as url:
        address = url.replace("http:", "ws:") + f"/api/v1/echo?token={token}"
        for offered in (["bearer", token], ["chat"]):
            with suppress(InvalidStatus), connect(address, subprotocols=[Subprotocol(name) for name in offered]):
                pass
    assert [line["status"] for line in stderr.lines(WEBSOCKET_MESSAGE)] == [101, 401]
    assert token not in stderr.getvalue()
