"""Which responses are compressed, where, and when their parts are sent."""

import asyncio
import gzip
import threading
import zlib
from collections.abc import AsyncIterator, Iterable

import pytest
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Scope

from plinth.http import gzip as compression
from plinth.http.gzip import GZipAcceptedMiddleware

LARGE = b"some words about it, " * 100


async def answer(app: ASGIApp, *accepted: bytes) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(dict(message))

    headers = [(b"accept-encoding", value) for value in accepted]
    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    await GZipAcceptedMiddleware(app, minimum_size=1000)(scope, receive, send)
    return sent


def headers_of(sent: list[Message]) -> dict[bytes, bytes]:
    return dict(sent[0]["headers"])


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ([b"gzip"], True),
        ([b"br", b"gzip"], True),
        ([b"X-GZip"], True),
        ([b"gzip;q=0"], False),
        ([b"identity", b"gzip;q=0.5"], False),
        ([b"*;q=0"], False),
        ([b""], False),
        ([], False),
    ],
)
async def test_body_is_compressed_for_clients_that_want_it(accepted: list[bytes], compressed: bool) -> None:
    sent = await answer(Response(LARGE, headers={"Vary": "Origin"}), *accepted)

    headers, body = headers_of(sent), sent[1]["body"]
    assert (headers.get(b"content-encoding") == b"gzip") is compressed
    assert (gzip.decompress(body) if compressed else body) == LARGE
    assert headers[b"content-length"] == str(len(body)).encode()
    assert headers[b"vary"] == (b"Origin, Accept-Encoding" if compressed else b"Origin")


@pytest.mark.parametrize(
    ("body", "status", "compressed"), [(b"small", 200, True), (b"", 200, False), (b"", 304, False)]
)
async def test_small_body_is_compressed_for_clients_that_take_nothing_else(
    body: bytes, status: int, compressed: bool
) -> None:
    (start, message) = await answer(Response(body, status), b"gzip, identity;q=0")
    (plain, _) = await answer(Response(body, status), b"gzip")

    assert (dict(start["headers"]).get(b"content-encoding") == b"gzip") is compressed
    assert (gzip.decompress(message["body"]) if compressed else message["body"]) == body
    assert b"content-encoding" not in dict(plain["headers"])


@pytest.mark.parametrize(
    ("size", "in_a_thread"), [(compression.THREAD_BYTES - 1, False), (compression.THREAD_BYTES, True)]
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_large_body_is_compressed_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, size: int, in_a_thread: bool, streamed: bool
) -> None:
    threads = []

    class Compressor:
        def __init__(self) -> None:
            self._real = real(4, zlib.DEFLATED, 31)

        def compress(self, data: bytes) -> bytes:
            threads.append(threading.current_thread())
            return self._real.compress(data)

        def flush(self, *mode: int) -> bytes:
            return self._real.flush(*mode)

    async def parts() -> AsyncIterator[bytes]:
        yield b"x" * size

    real = zlib.compressobj
    monkeypatch.setattr(zlib, "compressobj", lambda *_: Compressor())
    sent = await answer(StreamingResponse(parts()) if streamed else Response(b"x" * size), b"gzip")

    assert (threads[0] is not threading.main_thread()) is in_a_thread
    assert gzip.decompress(b"".join(message.get("body", b"") for message in sent[1:])) == b"x" * size


async def test_each_part_of_a_stream_can_be_read_when_it_is_sent() -> None:
    parts: Iterable[bytes] = [b"first " * 3, b"y" * compression.THREAD_BYTES, b"last"]
    read = zlib.decompressobj(31)

    async def stream() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    sent = await answer(StreamingResponse(stream()), b"gzip")

    assert [read.decompress(message["body"]) for message in sent[1:]] == [*parts, b""]


async def test_event_stream_is_not_compressed() -> None:
    sent = await answer(Response(LARGE, media_type="text/event-stream"), b"gzip")

    assert sent[1]["body"] == LARGE
