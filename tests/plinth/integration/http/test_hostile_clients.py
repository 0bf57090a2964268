"""What comes over a socket need not be HTTP, need not come in time, and need not stay until the end.

On a real server: a client in the same process cannot misbehave like this.
"""

import asyncio
import json
import logging
import re
import socket
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from structlog.testing import capture_logs

from notes.config import Settings
from notes.main import create_app
from plinth.testing import serving
from tests.support.api import client_of
from tests.support.notes import note, settings_with

POOL_SIZE = 3


@pytest.fixture(scope="module")
def settings(database_url: str) -> Settings:
    return settings_with(DATABASE_URL=database_url, DB_POOL_SIZE=POOL_SIZE, DB_MAX_OVERFLOW=0)


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    with serving(create_app(settings)) as url:
        yield url


@pytest.fixture
async def client(url: str, alice: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=alice, timeout=20) as client:
        yield client


class Wire:
    """A raw connection to the server, which sends any bytes."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        address = urlsplit(url)
        assert address.hostname
        assert address.port
        self.socket = socket.create_connection((address.hostname, address.port), timeout=10)
        self.headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()

    def close(self) -> None:
        self.socket.close()

    def send(self, line: bytes, headers: bytes = b"", body: bytes = b"") -> None:
        """Send a request as it is given, with the caller's token and nothing else added."""
        self.socket.sendall(line + b" HTTP/1.1\r\nHost: service.test\r\n" + self.headers + headers + b"\r\n" + body)

    def answer(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of the next response."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._more()
        head, body = received.split(b"\r\n\r\n", 1)
        length = re.search(rb"(?i)content-length: (\d+)", head)
        while length and len(body) < int(length[1]):
            body += self._more()
        return int(head.split()[1]), head.lower(), body

    def is_closed(self) -> bool:
        """Whether the server ends the connection."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _more(self) -> bytes:
        more = self.socket.recv(65536)
        assert more, "the connection was closed without an answer"
        return more


@pytest.fixture
def wire(url: str, alice: dict[str, str]) -> Iterator[Wire]:
    with closing(Wire(url, alice)) as wire:
        yield wire


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[list[Any]]:
    """What is logged as an error meanwhile, by ourselves or by the server."""
    errors: list[MutableMapping[str, Any] | logging.LogRecord] = []
    with capture_logs() as ours:
        yield errors
        errors += [line for line in ours if line["log_level"] in ("error", "critical")]
        errors += [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == []


class TestMalformedRequests:
    @pytest.mark.parametrize(
        "sent",
        [
            b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
            b"hello\r\n\r\n",
            b"GET /api/v1/me HTTP/9.9\r\n\r\n",
            "GET /api/v1/notes/é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
            b"GET /api/v1/me HTTP/1.1\r\nHost: x\r\nX-\0: y\r\n\r\n",
            b"GET /api/v1/me HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
            b"POST /api/v1/notes HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST /api/v1/notes HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            b"POST /api/v1/notes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            # Two proxies might read these two ways, and one request would hide in another.
            b"POST /api/v1/notes HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
            b"POST /api/v1/me HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    )
    async def test_malformed_request_is_refused_and_the_server_goes_on(
        self, wire: Wire, client: httpx.AsyncClient, sent: bytes
    ) -> None:
        wire.socket.sendall(sent)

        status, head, _ = wire.answer()

        assert status == 400
        assert b"connection: close" in head
        assert (await client.get("/public/health")).status_code == 200


class TestHeaders:
    @pytest.mark.parametrize("request_id", [b"good-id\rSet-Cookie: a=b", b"x" * 10_240, b"\xff" * 20])
    def test_request_id_cannot_inject_response_headers(self, wire: Wire, request_id: bytes) -> None:
        wire.send(b"GET /api/v1/public/health", b"X-Request-ID: " + request_id + b"\r\n")

        _, head, _ = wire.answer()

        assert b"set-cookie" not in head
        assert request_id not in head

    def test_header_of_a_hundred_kilobytes_is_refused(self, wire: Wire) -> None:
        wire.send(b"GET /api/v1/me", b"X-Large: " + b"x" * 100_000 + b"\r\n")

        assert wire.answer()[0] == 431

    def test_second_authorization_header_is_refused(self, url: str, alice: dict[str, str]) -> None:
        forged = b"Authorization: Bearer x.y.z\r\n"
        with closing(Wire(url, {})) as wire:
            wire.send(b"GET /api/v1/me", forged + b"Authorization: %s\r\n" % alice["Authorization"].encode())

            assert wire.answer()[0] == 400

    @pytest.mark.parametrize("blanks", [b" ", b"\t", b" \t "])
    def test_blanks_around_a_value_are_no_part_of_it(self, url: str, alice: dict[str, str], blanks: bytes) -> None:
        headers = (
            *(f"Authorization:{alice['Authorization']}".encode(), b"Content-Type:application/json"),
            *(b"Idempotency-Key:%d" % len(blanks), b"X-Request-ID:a-good-id"),
        )
        with closing(Wire(url, {})) as wire:
            lines = b"".join(header.replace(b":", b":" + blanks, 1) + blanks + b"\r\n" for header in headers)
            wire.send(b"POST /api/v1/notes", lines + b"Content-Length: 14\r\n", b'{"text": "hi"}')

            status, head, _ = wire.answer()

        assert status == 201
        assert b"\r\nx-request-id: a-good-id" in head

    def test_blank_behind_chunked_is_no_other_coding(self, wire: Wire) -> None:
        body = b'e\r\n{"text": "hi"}\r\n0\r\n\r\n'
        wire.send(b"POST /api/v1/notes", b"Content-Type: application/json\r\nTransfer-Encoding: chunked \r\n", body)

        assert wire.answer()[0] == 201


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [b"/api/v1/../../etc/passwd", b"/%2e%2e/%2e%2e/etc/passwd", b"/api/v1/notes/..%2f..%2fsecrets", b"//api/v1/me",
         b"/" + b"x" * 30_000, b"/api/v1/me/%00", b"*"],
    )  # fmt: skip
    def test_path_traversal_is_not_found(self, wire: Wire, path: bytes) -> None:
        wire.send(b"GET " + path)

        status, head, body = wire.answer()

        assert status == 404
        assert b"content-type: application/problem+json" in head
        assert json.loads(body)["code"] == "not_found"

    def test_path_cannot_inject_log_lines(self, wire: Wire) -> None:
        with capture_logs() as logs:
            wire.send(b"GET /%0d%0a%7b%22level%22:%22error%22%7d%1b[2J")
            wire.answer()

        (line,) = [line for line in logs if line["event"] == "request"]
        assert line["path"] == '/\r\n{"level":"error"}\x1b[2J'  # one value of one line; the renderer escapes it


class TestBodies:
    def test_announced_body_over_the_limit_is_refused_before_it_is_sent(self, wire: Wire) -> None:
        wire.send(b"POST /api/v1/notes", b"Content-Length: 50000000\r\nExpect: 100-continue\r\n")

        status, head, body = wire.answer()

        assert (status, json.loads(body)["code"]) == (413, "payload_too_large")
        assert b"connection: close" in head
        assert wire.is_closed()

    def test_endless_body_is_cut_off(self, wire: Wire) -> None:
        wire.send(b"POST /api/v1/notes", b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n")
        try:
            for _ in range(1000):
                wire.socket.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        except OSError:
            pass

        assert wire.answer()[0] == 413

    async def test_slow_body_is_accepted(self, client: httpx.AsyncClient) -> None:
        async def slowly() -> AsyncIterator[bytes]:
            for letter in json.dumps(note()).encode():
                yield bytes([letter])
                await asyncio.sleep(0.001)

        response = await client.post("/notes", content=slowly(), headers={"Content-Type": "application/json"})

        assert response.status_code == 201


class TestDisconnects:
    async def test_clients_that_disconnect_amid_their_request_leave_nothing(
        self, url: str, alice: dict[str, str], client: httpx.AsyncClient, errors: list[Any]
    ) -> None:
        for _ in range(POOL_SIZE * 2):
            with closing(Wire(url, alice)) as wire:
                wire.send(
                    b"POST /api/v1/notes",
                    b"Content-Type: application/json\r\nContent-Length: 100\r\n",
                    b'{"text": "half of',
                )
                await asyncio.sleep(0.01)

        assert (await client.get("/notes")).json()["items"] == []

    async def test_clients_that_disconnect_before_the_response_hold_no_connection(
        self,
        url: str,
        alice: dict[str, str],
        client: httpx.AsyncClient,
        sql: asyncpg.Connection,
        errors: list[Any],
    ) -> None:
        created = (await client.post("/notes", json=note())).json()
        change = json.dumps({"text": "new"}).encode()
        async with sql.transaction():
            await sql.execute("SELECT FROM note FOR UPDATE")  # the changes have to wait
            for waiting in range(1, POOL_SIZE + 1):
                with closing(Wire(url, alice)) as wire:
                    wire.send(
                        b"PATCH /api/v1/notes/" + created["id"].encode(),
                        b"Content-Type: application/json\r\nIf-Match: *\r\nContent-Length: %d\r\n" % len(change),
                        change,
                    )
                    await self.until_waiting(sql, waiting)

        read = await client.get(f"/notes/{created['id']}")

        assert read.status_code == 200
        assert read.json()["version"] in (1, 2)

    @staticmethod
    async def until_waiting(sql: asyncpg.Connection, queries: int) -> None:
        """Until so many queries wait for a lock."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        async with asyncio.timeout(20):
            while await sql.fetchval(query) < queries:
                await asyncio.sleep(0.005)
                await sql.execute("SELECT pg_stat_clear_snapshot()")  # or a transaction sees the same for ever


class TestConcurrency:
    async def test_five_hundred_concurrent_creates_make_five_hundred_notes(
        self, settings: Settings, alice: dict[str, str], sql: asyncpg.Connection
    ) -> None:
        async with client_of(create_app(settings), headers=alice) as client:
            responses = await asyncio.gather(*(client.post("/notes", json=note(text=str(n))) for n in range(500)))

        assert {response.status_code for response in responses} == {201}
        made = {response.json()["id"] for response in responses}
        assert len(made) == 500
        assert await sql.fetchval("SELECT count(DISTINCT text) FROM note") == 500
