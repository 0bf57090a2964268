"""Files in a bucket, against a server on this machine that keeps them."""

import re
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from app.services.storage import Storage
from plinth.errors import ExternalServiceError, NotFoundError


class Bucket(BaseHTTPRequestHandler):
    """As much of S3 as one bucket needs. Looks whether a request is signed, not with what."""

    files: dict[str, bytes]
    parts: dict[int, bytes]
    broken: bool

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Sun, 29 Nov 2026 12:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def handle_request(self) -> None:
        address = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        signed = "AWS4-HMAC-SHA256" in self.headers.get("Authorization", "") or "X-Amz-Signature" in address.query
        if self.server.broken:  # type: ignore[attr-defined]
            return self.answer(400, b"<Error><Code>Broken</Code></Error>")
        if not signed:
            return self.answer(403)
        files: dict[str, bytes] = self.server.files  # type: ignore[attr-defined]
        parts: dict[int, bytes] = self.server.parts  # type: ignore[attr-defined]
        asked = parse_qs(address.query, keep_blank_values=True)
        if "uploads" in asked:
            return self.answer(
                200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
            )
        if "partNumber" in asked:
            parts[int(asked["partNumber"][0])] = body
            return self.answer(200)
        if self.command == "POST" and "uploadId" in asked:
            files[address.path] = b"".join(parts[number] for number in sorted(parts))
            return self.answer(200, b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>")
        if self.command == "PUT":
            files[address.path] = body
            return self.answer(200)
        if self.command == "POST":  # deletes several, of which the client makes use for one as well
            keys = re.findall("<Key>(.*?)</Key>", body.decode())
            for key in keys:
                files.pop(f"{address.path}/{key}", None)
            gone = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            return self.answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())
        if address.path not in files:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        return self.answer(200, files[address.path])

    do_GET = do_PUT = do_POST = handle_request  # noqa: N815 - the names that the base class looks for

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    server.files, server.parts, server.broken = {}, {}, False  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def storage(server: ThreadingHTTPServer) -> Storage:
    return Storage("shop", key="id", secret="s3cret", endpoint=f"http://127.0.0.1:{server.server_port}")


async def pieces(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number]) * 65_536


@pytest.mark.parametrize("count", [0, 3, 200], ids=["empty", "one part", "several parts"])
async def test_a_file_is_written_while_it_comes(storage: Storage, server: ThreadingHTTPServer, count: int) -> None:
    size = await storage.put_stream("recording.ogg", pieces(count))
    written = server.files["/shop/recording.ogg"]  # type: ignore[attr-defined]
    assert written == b"".join([piece async for piece in pieces(count)])
    assert len(written) == size
    assert len(server.parts) == (3 if count == 200 else 0)  # type: ignore[attr-defined]


async def test_a_file_that_ends_too_early_is_not_there(storage: Storage, server: ThreadingHTTPServer) -> None:
    async def cut_off() -> AsyncIterator[bytes]:
        async for piece in pieces(200):
            yield piece
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await storage.put_stream("recording.ogg", cut_off())
    assert server.files == {}  # type: ignore[attr-defined]


async def test_a_file_is_written_read_and_deleted(storage: Storage, server: ThreadingHTTPServer) -> None:
    await storage.put("invoices/1.pdf", b"%PDF")
    assert server.files == {"/shop/invoices/1.pdf": b"%PDF"}  # type: ignore[attr-defined]
    assert await storage.get("invoices/1.pdf") == b"%PDF"
    await storage.delete("invoices/1.pdf")
    assert server.files == {}  # type: ignore[attr-defined]


async def test_missing_file_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFoundError):
        await storage.get("nothing")


async def test_deleting_a_missing_file_is_no_error(storage: Storage) -> None:
    await storage.delete("nothing")


async def test_a_presigned_address_serves_the_file_without_a_token(storage: Storage) -> None:
    await storage.put("1.txt", b"hello")
    address = storage.presigned("1.txt", valid=timedelta(minutes=2))

    assert parse_qs(urlsplit(address).query)["X-Amz-Expires"] == ["120"]
    async with httpx.AsyncClient() as client:
        assert (await client.get(address)).content == b"hello"


async def test_failing_storage_server_is_a_storage_error(storage: Storage, server: ThreadingHTTPServer) -> None:
    server.broken = True  # type: ignore[attr-defined]
    for call in (storage.put("1", b""), storage.put_stream("1", pieces(1)), storage.get("1"), storage.delete("1")):
        with pytest.raises(ExternalServiceError) as raised:
            await call
        assert raised.value.service == "storage"
