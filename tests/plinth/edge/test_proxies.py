"""Behind a real nginx and a real HAProxy, which keep their connections to the API open for the next client.

apt-get install nginx-light haproxy && make edge-test
"""

import json
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from plinth.testing.servers import scratch_folder
from tests.plinth.integration.http.test_connections import Peer
from tests.support.api import signed_in
from tests.support.notes import settings_with
from tests.support.ports import free_port
from tests.support.processes import PATIENCE, Process, plinth

pytestmark = pytest.mark.slow  # needs more than Python: `make edge-test`

KEY = secrets.token_hex(32)
CLIENT = "127.0.0.9"  # the address of the client, which is none of the proxy's

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    # As ingress-nginx has them.
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream api {{ server 127.0.0.1:{api}; keepalive 1; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://api;
            proxy_http_version 1.1;
            proxy_request_buffering {buffering};
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""

HAPROXY = """
global
    maxconn 256
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend front
    bind 127.0.0.1:{port}
    option forwardfor
    http-request set-header X-Forwarded-Proto http
    default_backend api
backend api
    http-reuse always
    server api 127.0.0.1:{api} maxconn 1
"""


@dataclass
class Service:
    """The API behind a proxy."""

    proxy: str
    port: int
    api: Process

    def peer(self, address: str = CLIENT) -> Peer:
        peer = Peer.__new__(Peer)
        peer.socket = socket.create_connection(("127.0.0.1", self.port), timeout=20, source_address=(address, 0))
        peer.received = b""
        return peer

    def line(self, path: str) -> dict[str, Any]:
        """The access line of the request for this path."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            lines: list[dict[str, Any]] = [json.loads(line) for line in self.api.lines if line.startswith("{")]
            found = [line for line in lines if line["message"] == "request" and line["path"] == path]
            if found:
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"there is no line for {path}")


@contextmanager
def running(*command: str, port: int) -> Iterator[None]:
    """A program that listens on `port`."""
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, f"{command[0]} has ended"
            assert time.monotonic() < deadline
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(scope="module", params=["nginx", "nginx, which does not buffer", "haproxy"])
def service(request: pytest.FixtureRequest, database_url: str) -> Iterator[Service]:
    proxy = request.param.partition(",")[0]
    if shutil.which(proxy) is None:
        pytest.fail(f"{proxy} is missing: apt-get install nginx-light haproxy")
    api, port = free_port(), free_port()
    given = {
        "ENVIRONMENT": "test",
        "DATABASE_URL": database_url,
        "RATE_LIMIT": "",
        "RATE_LIMIT_ANONYMOUS": "",
        "MAX_REQUESTS_PER_CALLER": "1000",
        "SECRET_KEY": KEY,  # with the known one it serves this machine's own names alone
    }
    with ExitStack() as closing_all:
        folder = closing_all.enter_context(scratch_folder())
        process = closing_all.enter_context(plinth(folder, "api", "--port", str(api), **given))
        process.heard("Uvicorn running on")
        config = folder / f"{proxy}.conf"
        buffering = "off" if "," in request.param else "on"
        template = NGINX if proxy == "nginx" else HAPROXY
        config.write_text(template.format(folder=folder, api=api, port=port, buffering=buffering))
        command = ["nginx", "-c", str(config)] if proxy == "nginx" else ["haproxy", "-db", "-f", str(config)]
        closing_all.enter_context(running(*command, port=port))
        yield Service(proxy, port, process)


@pytest.fixture
def alice() -> bytes:
    return signed_in(settings_with(SECRET_KEY=KEY), "alice")["Authorization"].encode()


@pytest.fixture
def mallory() -> bytes:
    return signed_in(settings_with(SECRET_KEY=KEY), "mallory")["Authorization"].encode()


def request_of(path: str, token: bytes, headers: bytes = b"", method: bytes = b"GET", body: bytes = b"") -> bytes:
    head = method + b" " + path.encode() + b" HTTP/1.1\r\nHost: service.test\r\nAuthorization: " + token + b"\r\n"
    return head + headers + b"\r\n" + body


def new_path() -> str:
    return f"/api/v1/notes/{uuid4()}"


def notes_of(service: Service, token: bytes) -> list[str]:
    with closing(service.peer()) as peer:
        peer.send(request_of("/api/v1/notes", token))
        status, body = peer.answer()
        assert status == 200
        return [note["text"] for note in json.loads(body)["items"]]


def test_plain_request_has_its_client_and_its_caller(service: Service, alice: bytes) -> None:
    path = new_path()
    with closing(service.peer()) as peer:
        peer.send(request_of(path, alice))
        assert peer.answer()[0] == 404
    assert service.line(path)["client"] == CLIENT


UPGRADES = [b"h2c", b"websocket", b"TLS/1.0"]


@pytest.mark.parametrize("upgrade", UPGRADES)
def test_upgrade_changes_nothing_for_the_next_client(
    service: Service, alice: bytes, mallory: bytes, upgrade: bytes
) -> None:
    smuggled = request_of(
        "/api/v1/notes", mallory, b"Content-Type: application/json\r\nContent-Length: 500\r\n", b"POST"
    )
    headers = b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\nContent-Type: application/json\r\n"
    for _ in range(3):
        with closing(service.peer()) as attacker, closing(service.peer()) as victim:
            attacker.send(request_of(
                "/api/v1/notes", mallory, headers + b"Content-Length: %d\r\n" % len(smuggled), b"POST"
            ))  # fmt: skip
            time.sleep(0.2)
            attacker.send(smuggled)
            text = f"of alice {uuid4()}"
            body = json.dumps({"text": text, "tags": []}).encode()
            time.sleep(0.2)
            victim.send(request_of(
                "/api/v1/notes", alice,
                b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body), b"POST", body,
            ))  # fmt: skip
            assert victim.answer()[0] == 201
        assert text in notes_of(service, alice)
        assert not [found for found in notes_of(service, mallory) if "alice" in found]


@pytest.mark.parametrize("upgrade", UPGRADES)
def test_upgrade_request_is_served(service: Service, alice: bytes, upgrade: bytes) -> None:
    text = f"upgraded {uuid4()}"
    body = json.dumps({"text": text, "tags": []}).encode()
    headers = b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\nContent-Type: application/json\r\n"
    with closing(service.peer()) as peer:
        peer.send(request_of(
            "/api/v1/notes", alice, headers + b"Content-Length: %d\r\n" % len(body), b"POST", body
        ))  # fmt: skip
        assert peer.answer()[0] == 201
    assert text in notes_of(service, alice)


SENSITIVE = {
    "Authorization": b"Bearer x.y.z",
    "X-Forwarded-For": b"203.0.113.66",
    "X-Forwarded-Proto": b"https",
    "X-Forwarded-Host": b"evil.test",
    "Forwarded": b"for=203.0.113.66;proto=https",
    "X-Real-IP": b"203.0.113.66",
    "Host": b"evil.test",
    "Content-Length": b"5",
    "Transfer-Encoding": b"chunked",
}


def forms(name: str, value: bytes) -> Iterator[tuple[str, bytes, bytes]]:
    """Ways to say a header once more: extra headers, and a body with trailers."""
    header = name.encode() + b": " + value + b"\r\n"
    body = {"Content-Length": b"12345", "Transfer-Encoding": b"0\r\n\r\n"}.get(name, b"")
    yield "duplicate", header, body
    yield "folded", b"X-Other: a\r\n " + header, b""
    yield "space", name.encode() + b" : " + value + b"\r\n", b""
    yield (
        "trailer",
        b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n",
        b"2\r\n{}\r\n0\r\n" + header + b"\r\n",
    )


CASES = [
    pytest.param(headers, body, id=f"{name}-{form}")
    for name, value in SENSITIVE.items()
    for form, headers, body in forms(name, value)
]


@pytest.mark.parametrize(("headers", "body"), CASES)
def test_header_said_twice_changes_neither_client_nor_caller(
    service: Service, alice: bytes, headers: bytes, body: bytes
) -> None:
    path, plain = new_path(), new_path()
    with closing(service.peer()) as peer:
        peer.send(request_of(plain, alice))
        assert peer.answer()[0] == 404
    with closing(service.peer()) as peer:
        peer.send(request_of(path, alice, headers, b"PATCH" if body else b"GET", body))
        status, _ = peer.answer()
    if status in (400, 401, 408, 411, 413, 501, 502):
        return  # refused, by the proxy or by the API
    expected, found = service.line(plain), service.line(path)
    assert (found["client"], found.get("principal")) == (expected["client"], expected["principal"])


def test_refusal_of_a_large_body_arrives(service: Service, alice: bytes) -> None:
    for _ in range(5):
        with closing(service.peer()) as peer:
            headers = b"Content-Type: application/json\r\nContent-Length: 2000000\r\n"
            peer.send(request_of("/api/v1/notes", alice, headers, b"POST"))
            with suppress(OSError):  # it is answered already
                peer.send(b"x" * 2_000_000)
            assert peer.answer()[0] == 413
