"""Random bytes on a connection: the API and another parser, h11, find the same requests in them.

    FUZZ_SECONDS=600 python -m pytest tests/plinth/integration/http/test_desync.py

Where the two disagree, a proxy and the API may, and one client's body becomes another's request.
"""

import asyncio
import os
import re
import sys
import time
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import h11
import pytest
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from plinth.http.protocol import BoundedHttpToolsProtocol

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))

Found = tuple[bytes, bytes, bytes]  # method, target and body of a request

LINES = [
    b"GET /a HTTP/1.1\r\n", b"POST /b HTTP/1.1\r\n", b"PUT /c?d=e HTTP/1.1\r\n", b"HEAD / HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.1\r\n", b"POST /f HTTP/1.0\r\n", b"GET http://x/y HTTP/1.1\r\n", b"CONNECT x:1 HTTP/1.1\r\n",
    b"GET /\r\n", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\n",
]  # fmt: skip
HEADERS = [
    b"Host: a\r\n", b"Host: b\r\n", b"Content-Length: 0\r\n", b"Content-Length: 3\r\n", b"Content-Length: 5\r\n",
    b"Content-Length: 3, 3\r\n", b"Content-Length: +3\r\n", b"Content-Length: 0x3\r\n", b"Content-Length : 3\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: Chunked\r\n", b"Transfer-Encoding:\tchunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: chunked, identity\r\n", b"Transfer-Encoding: x\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n", b"Transfer-Encoding\x00: chunked\r\n", b"Connection: close\r\n",
    b"Connection: Upgrade\r\n", b"Upgrade: h2c\r\n", b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n",
    b"X: y\r\n", b"X:\r\n", b"X: y\r\n z\r\n", b" folded\r\n", b"X y\r\n", b": y\r\n", b"X: \xff\r\n", b"X: a\rb\r\n",
    b"Trailer: X\r\n", b"Keep-Alive: timeout=5\r\n", b"Proxy-Connection: keep-alive\r\n",
]  # fmt: skip
HARMLESS = [
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\n",
    b"X: y\r\n", b"Expect: 100-continue\r\n", b"Trailer: X\r\n", b"X:\r\n", b"Connection: close\r\n",
]  # fmt: skip
BODIES = [
    b"", b"abc", b"abcde", b"0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"03\r\nabc\r\n", b"3 \r\nabc\r\n0\r\n\r\n", b"3\nabc\n0\n\n", b"-1\r\n", b"ffffffffffffffff\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n", b"0\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n", b"\r\n\r\n",
]  # fmt: skip


@st.composite
def sound(draw: st.DrawFn) -> bytes:
    """A request whose length is right, with a few more headers."""
    body = draw(st.sampled_from(BODIES))
    headers = draw(st.lists(st.sampled_from(HARMLESS), max_size=3))
    if draw(st.booleans()):
        headers.append(b"Content-Length: %d\r\n" % len(body))
    else:
        headers.append(b"Transfer-Encoding: chunked\r\n")
        body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    return b"".join([draw(st.sampled_from(LINES[:5])), b"Host: a\r\n", *draw(st.permutations(headers)), b"\r\n", body])


@st.composite
def unsound(draw: st.DrawFn) -> bytes:
    """Lines of requests in any order."""
    parts = [draw(st.sampled_from(LINES)), HEADERS[0] if draw(st.integers(0, 9)) else b""]
    parts += draw(st.lists(st.sampled_from(HEADERS), max_size=3))
    parts.append(b"\r\n" if draw(st.integers(0, 19)) else b"\n")
    parts.append(draw(st.sampled_from(BODIES)))
    return b"".join(parts)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Some requests, and perhaps a few bytes that are wrong."""
    parts = draw(st.lists(st.one_of(sound(), sound(), unsound()), min_size=1, max_size=4))
    stream = bytearray(b"".join(parts))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(stream) - 1))
        match draw(st.integers(0, 2)):
            case 0:
                stream[place] = draw(st.integers(0, 255))
            case 1:
                del stream[place]
            case _:
                stream[place:place] = draw(st.binary(min_size=1, max_size=3))
    return bytes(stream)


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def ours(segments: list[bytes]) -> tuple[list[Found], bytes]:
    """The requests that the API serves, and what it writes."""
    found: list[Found] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        found.append((scope["method"].encode(), target, body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(app, http=BoundedHttpToolsProtocol, lifespan="off", log_config=None, access_log=False)
    wire = Wire()
    connection = BoundedHttpToolsProtocol(config, ServerState(), {})
    connection.connection_made(wire)
    for segment in segments:
        connection.data_received(segment)
        for _ in range(3):
            await asyncio.sleep(0)
    for _ in range(30):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    return found, wire.written


def theirs(stream: bytes) -> tuple[list[Found], bool]:
    """The requests that h11 finds, and whether it refuses what comes after them."""
    connection = h11.Connection(h11.SERVER)
    found: list[Found] = []
    connection.receive_data(stream)
    method = target = body = b""
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                return found, False
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return found, True
            if isinstance(event, h11.Request):
                method, target, body = event.method, event.target, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                found.append((method, target, body))
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
    except (h11.RemoteProtocolError, h11.LocalProtocolError):
        return found, True


def path_of(target: bytes) -> bytes:
    """The path and query of a target in absolute form."""
    return re.sub(rb"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/?]*", b"", target) or b"/"


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@settings(
    max_examples=300,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not SECONDS,
    database=None,
)
@given(stream=streams(), cuts=st.lists(st.integers(1, 40), min_size=1, max_size=30))
def check(loop: asyncio.AbstractEventLoop, stream: bytes, cuts: list[int]) -> None:
    whole, written = loop.run_until_complete(ours([stream]))
    places = list(accumulate(cuts, initial=0))
    segments = [stream[start:end] for start, end in zip(places, [*places[1:], len(stream)], strict=True)]
    cut_up, _ = loop.run_until_complete(ours([segment for segment in segments if segment]))
    assert whole == cut_up, (stream, segments)
    answers = written.count(b"HTTP/1.1 ") - written.count(b"HTTP/1.1 100 ")
    assert len(whole) <= answers <= len(whole) + 1, stream
    expected, ended = theirs(stream)
    for mine, other in zip(whole, expected, strict=False):
        assert mine == (other[0], path_of(other[1]), other[2]), stream
    assert ended or len(whole) <= len(expected), stream


def test_both_parsers_find_the_same_requests(loop: asyncio.AbstractEventLoop) -> None:
    end = time.monotonic() + SECONDS
    check(loop)
    while time.monotonic() < end:
        check(loop)


def test_uvicorn_s_own_protocol_is_found_out(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the body of a request with an `Upgrade` for another request."""
    monkeypatch.setattr(sys.modules[__name__], "BoundedHttpToolsProtocol", HttpToolsProtocol)
    with pytest.raises((AssertionError, ExceptionGroup)):
        check(loop)
