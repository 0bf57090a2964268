"""Hundreds of hostile connections at once cost an API process neither its memory nor its clients."""

import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.api import signed_in
from tests.support.notes import settings_with
from tests.support.ports import free_port
from tests.support.processes import plinth

pytestmark = pytest.mark.slow  # a minute, most of it waiting: `make edge-test`

EACH = 50
MAX_GROWTH = 32 * 2**20
MAX_SECONDS = 60

HEAD = b"GET /api/v1/public/health HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /api/v1/notes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
MEGABYTE = b"x" * 1_000_000

# What is sent at once, and what is sent again each second.
SHAPES: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "half a head": (HEAD + b"X: ", b"y"),
    "an endless header": (HEAD + b"X: " + MEGABYTE, MEGABYTE),
    "an endless name": (HEAD + MEGABYTE, MEGABYTE),
    "tiny headers": (HEAD + b"x:y\r\n" * 64_000, b"x:y\r\n" * 64_000),
    "pipelined requests": ((HEAD + b"\r\n") * 9500, b""),
    "half a body": (POST + b"Content-Length: 1048576\r\n\r\n" + MEGABYTE, b""),
    "a slow body": (POST + b"Content-Length: 1048576\r\n\r\n", b"x"),
    "an endless extension": (CHUNKED + b"1;" + MEGABYTE, MEGABYTE),
    "endless trailers": (CHUNKED + b"1\r\nx\r\n0\r\n" + b"x:y\r\n" * 64_000, b"x:y\r\n" * 64_000),
    "line breaks": (b"\r\n" * 100_000, b"\r\n"),
    "an upgrade": (HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 1048576\r\n\r\n", b"x"),
}


class Attack(threading.Thread):
    """Connections that send, never read, and stay until they are ended."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.all_open = threading.Event()
        self.enough = threading.Event()

    def run(self) -> None:
        connections: list[tuple[socket.socket, bytes]] = []
        for first, again in SHAPES.values():
            for _ in range(EACH):
                connection = socket.create_connection(self.address, timeout=10)
                connection.setblocking(False)
                connections.append((connection, again))
                self._send(connection, first)
        self.all_open.set()
        while not self.enough.wait(1):
            for connection, again in connections:
                self._send(connection, again)
        for connection, _ in connections:
            connection.close()

    def _send(self, connection: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        with suppress(OSError):  # it is not read from, or has ended
            while view:
                view = view[connection.send(view) :]


class Watch(threading.Thread):
    """The most memory that a process has."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.process = process
        self.peak = 0
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.wait(0.02):
            self.peak = max(self.peak, self.process.memory_info().rss)


def test_attack_costs_neither_memory_nor_clients(tmp_path: Path, database_url: str) -> None:
    port = free_port()
    given = {
        "ENVIRONMENT": "test",
        "DATABASE_URL": database_url,
        "RATE_LIMIT": "",
        "MAX_REQUESTS_PER_CALLER": "1000",
        "RATE_LIMIT_ANONYMOUS": "5/minute",
    }
    with plinth(tmp_path, "api", "--port", str(port), **given) as running:
        running.heard("Uvicorn running on")
        probes = running.heard("liveness and metrics")["address"]
        process = psutil.Process(running.process.pid)
        good = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers=signed_in(settings_with()), timeout=10)
        with good, httpx.Client(base_url=probes, timeout=10) as kubelet:
            for _ in range(200):
                assert good.get("/me").status_code == 200
            before = process.memory_info().rss
            watch, attack = Watch(process), Attack(("127.0.0.1", port))
            watch.start()
            attack.start()
            statuses, slowest = [], 0.0
            peers, end = len(SHAPES) * EACH, time.monotonic() + MAX_SECONDS
            while peers > 2 and time.monotonic() < end:
                if attack.is_alive() and not attack.all_open.is_set():
                    end = time.monotonic() + MAX_SECONDS
                statuses.append(good.get("/me").status_code)
                asked = time.monotonic()
                assert kubelet.get("/livez").status_code == 200
                slowest = max(slowest, time.monotonic() - asked)
                time.sleep(0.2)
                if attack.all_open.is_set():
                    peers = sum(found.laddr.port == port for found in process.net_connections() if found.raddr)
            watch.enough.set()
            attack.enough.set()
            attack.join()
        assert attack.all_open.is_set()
        assert peers <= 2, f"{peers} connections are left"
        assert set(statuses) == {200}
        assert slowest < 1
        assert watch.peak - before < MAX_GROWTH, f"{(watch.peak - before) / 2**20:.0f} MiB"
