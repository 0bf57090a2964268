"""A service whose key is known serves this machine alone."""

from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message

from plinth.http.loopback_only import LoopbackOnlyMiddleware


async def ask(host: str | None, *, server: str = "127.0.0.1", client: str = "127.0.0.1") -> httpx.Response:
    app = LoopbackOnlyMiddleware(PlainTextResponse("served"), known_keys=["SECRET_KEY"])
    transport = httpx.ASGITransport(app, client=(client, 4711))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{server}:8000") as http:
        request = http.build_request("GET", "/")
        del request.headers["Host"]
        if host is not None:
            request.headers["Host"] = host
        return await http.send(request)


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "LocalHost:1", "localhost.", "app.localhost:3000", "127.0.0.1", "127.255.0.9:8000",
     "[::1]", "[::1]:8000", "[::ffff:127.0.0.1]"],
)  # fmt: skip
async def test_names_of_this_machine_are_served(host: str) -> None:
    assert (await ask(host)).text == "served"


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.test", "evil.test:8000", "localhost.evil.test", "evil-localhost", "127.0.0.1.evil.test", "0.0.0.0",
     "10.0.0.1", "[::]", "[::2]:8000", "::1", "localhost:80:80", "a@localhost", "localhost,evil.test", "localhost evil",
     "127.0.0.1:x", "[127.0.0.1", "xn--localhost"],
)  # fmt: skip
async def test_other_names_are_not_served(host: str | None) -> None:
    response = await ask(host)
    assert response.status_code == 421
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "misdirected_request"
    assert "SECRET_KEY" in response.json()["detail"]


async def test_other_addresses_are_not_served() -> None:
    """As `uvicorn app.main:app --host 0.0.0.0` would listen on."""
    assert (await ask("localhost", server="10.0.0.1")).status_code == 421


async def test_clients_of_a_proxy_on_this_machine_are_not_served() -> None:
    """As uvicorn gives their address, from X-Forwarded-For."""
    assert (await ask("localhost", client="203.0.113.7")).status_code == 421


async def test_unix_socket_counts_as_this_machine_and_a_websocket_is_closed() -> None:
    passed: list[str] = []
    sent: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    middleware = LoopbackOnlyMiddleware(app, known_keys=["SECRET_KEY"])
    host = [(b"host", b"localhost")]
    await middleware({"type": "http", "server": ("/run/api.sock", None), "headers": host}, receive, send)
    await middleware({"type": "lifespan"}, receive, send)
    await middleware({"type": "websocket", "server": ("10.0.0.1", 80), "headers": host}, receive, send)
    assert passed == ["http", "lifespan"]
    assert sent == [{"type": "websocket.close"}]
