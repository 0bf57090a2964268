"""The second port: it answers when the event loop does not."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

import app.jobs.metrics  # noqa: F401 - so that there is something to show
from app.core import probe_server
from app.core.probe_server import STUCK_SECONDS, LoopWatch, ProbeServer, ProbeServerError

HOST = "127.0.0.1"


@contextmanager
def probes(alive: Callable[[], bool] = lambda: True) -> Iterator[httpx.Client]:
    server = ProbeServer(HOST, 0, alive)
    port = server.start()
    try:
        with httpx.Client(base_url=f"http://{HOST}:{port}") as client:
            yield client
    finally:
        server.stop()


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(probe_server, "monotonic", clock)
    return clock


class TestProbeServer:
    def test_livez_says_what_it_is_told(self) -> None:
        verdicts = iter([True, False, True])
        with probes(lambda: next(verdicts)) as client:
            answers = [client.get("/livez") for _ in range(3)]
        assert [(answer.status_code, answer.text) for answer in answers] == [
            (200, "alive\n"),
            (503, "stuck\n"),
            (200, "alive\n"),
        ]

    def test_metrics_are_those_of_the_process(self) -> None:
        with probes() as client:
            answer = client.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        assert "# TYPE plinth_jobs_started_total counter" in answer.text

    @pytest.mark.parametrize("path", ["/", "/livez/", "/metrics/x", "/docs"])
    def test_nothing_else_is_there(self, path: str) -> None:
        with probes() as client:
            assert client.get(path).status_code == 404

    def test_a_client_that_says_nothing_keeps_nobody_waiting(self) -> None:
        with probes() as client:
            at = urlsplit(str(client.base_url))
            assert at.hostname
            assert at.port
            with socket.create_connection((at.hostname, at.port)):
                assert client.get("/livez").status_code == 200

    def test_a_port_that_is_taken_is_an_error(self) -> None:
        with socket.create_server((HOST, 0)) as taken, pytest.raises(ProbeServerError, match="in use"):
            ProbeServer(HOST, taken.getsockname()[1], lambda: True).start()

    def test_the_port_is_free_again_after_the_stop(self) -> None:
        first = ProbeServer(HOST, 0, lambda: True)
        port = first.start()
        first.stop()
        second = ProbeServer(HOST, port, lambda: True)
        assert second.start() == port
        second.stop()


class TestLoopWatch:
    async def test_a_loop_that_does_not_turn_is_seen_from_outside(self, clock: Clock) -> None:
        watch = LoopWatch()
        watch.start()
        try:
            with probes(lambda: watch.alive) as client:
                assert client.get("/livez").status_code == 200
                # This test never gives the loop its turn; the server answers all the same.
                clock.now += STUCK_SECONDS - 0.01
                assert client.get("/livez").status_code == 200
                clock.now += 0.01
                assert client.get("/livez").status_code == 503
        finally:
            watch.stop()

    async def test_a_loop_that_turns_again_is_alive_again(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probe_server, "TICK_SECONDS", 0.0)
        watch = LoopWatch()
        watch.start()
        clock.now += STUCK_SECONDS
        assert not watch.alive
        await _turns()
        assert watch.alive
        watch.stop()
        clock.now += STUCK_SECONDS
        await _turns()
        assert not watch.alive, "it goes on after its stop"


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
