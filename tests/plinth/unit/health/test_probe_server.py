"""The probe server answers on its own port, even when the event loop does not."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from time import monotonic, sleep
from urllib.parse import urlsplit

import httpx
import pytest

import plinth.jobs.metrics  # noqa: F401 - so that there is something to show
from plinth.health import probe_server
from plinth.health.probe_server import ProbeServer, ProbeServerError
from plinth.telemetry.logging import log_level
from tests.support.logs import logging_as

HOST = "127.0.0.1"
PATIENCE = 60.0  # seconds, for what takes none on an idle machine


def yes() -> bool:
    return True


@contextmanager
def probes(
    alive: Callable[[], bool] = yes,
    ready: Callable[[], bool] = yes,
    drain: Callable[[], None] | None = None,
    host: str = HOST,
) -> Iterator[httpx.Client]:
    server = ProbeServer(host, 0, alive=alive, ready=ready, drain=drain)
    port = server.start()
    try:
        with httpx.Client(base_url=f"http://{f'[{host}]' if ':' in host else host}:{port}") as client:
            yield client
    finally:
        server.stop()


def never_drained() -> None:
    raise AssertionError("it was drained")


@contextmanager
def connected_from(address: str) -> Iterator[None]:
    """Every connection seems to come from that address."""
    with pytest.MonkeyPatch.context() as patch:
        setup = probe_server._Quiet.setup

        def set_up(handler: probe_server._Quiet) -> None:
            setup(handler)
            handler.client_address = (address, 40000)

        patch.setattr(probe_server._Quiet, "setup", set_up)
        yield


def address_of(client: httpx.Client) -> tuple[str, int]:
    url = client.base_url
    assert url.port
    return url.host, url.port


class TestProbeServer:
    @pytest.mark.parametrize(("path", "yes", "no"), [("livez", "alive", "stuck"), ("readyz", "ready", "unavailable")])
    def test_probe_answers_200_or_503_by_its_check(self, path: str, yes: str, no: str) -> None:
        verdicts = iter([True, False, True])

        def never() -> bool:
            raise AssertionError("it was asked for something else")

        def told() -> bool:
            return next(verdicts)

        alive, ready = (told, never) if path == "livez" else (never, told)
        with probes(alive, ready) as client:
            answers = [client.get(f"/{path}") for _ in range(3)]
        assert [(answer.status_code, answer.text) for answer in answers] == [
            (200, f"{yes}\n"),
            (503, f"{no}\n"),
            (200, f"{yes}\n"),
        ]

    @pytest.mark.parametrize("path", ["/livez", "/metrics", "/nothing"])
    def test_head_is_answered_without_a_body(self, path: str) -> None:
        with probes() as client, socket.create_connection((client.base_url.host, client.base_url.port or 0)) as peer:
            peer.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
            head, _, body = b"".join(iter(lambda: peer.recv(65536), b"")).partition(b"\r\n\r\n")
        assert b"Content-Length: " in head
        assert body == b""

    def test_drain_answers_at_its_end_and_probes_are_answered_meanwhile(self) -> None:
        begun, done = threading.Event(), threading.Event()

        def drain() -> None:
            begun.set()
            assert done.wait(PATIENCE)

        with probes(drain=drain) as client, ThreadPoolExecutor() as threads:
            draining = threads.submit(client.post, "/drain", timeout=PATIENCE)
            assert begun.wait(PATIENCE)
            assert client.get("/livez").status_code == 200
            assert not draining.done()
            done.set()
            assert (draining.result().status_code, draining.result().text) == (200, "drained\n")

    def test_drain_path_is_404_where_no_drain_is_given(self) -> None:
        with probes() as client:
            assert [client.request(method, "/drain").status_code for method in ("GET", "POST")] == [404, 404]

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
    def test_drain_needs_a_post(self, method: str) -> None:
        with probes(drain=never_drained) as client:
            answer = client.request(method, "/drain")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")

    @pytest.mark.parametrize(
        ("path", "method", "allowed"),
        [
            ("/livez", "POST", "GET, HEAD"),
            ("/readyz", "DELETE", "GET, HEAD"),
            ("/metrics", "PUT", "GET, HEAD"),
            ("/log-level", "POST", "GET, HEAD, PUT"),  # which a web page could send
        ],
    )
    def test_other_method_is_405_and_names_the_allowed_ones(self, path: str, method: str, allowed: str) -> None:
        with probes() as client:
            answer = client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)

    def test_probe_server_listens_on_an_ipv6_address(self) -> None:
        with probes(host="::1") as client:
            assert client.get("/livez").status_code == 200

    def test_start_of_the_probe_server_needs_no_dns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def ask(*args: object) -> str:
            raise AssertionError(args)

        for name in ("getfqdn", "gethostbyaddr", "gethostbyname"):
            monkeypatch.setattr(socket, name, ask)
        with probes() as client:
            assert client.get("/livez").status_code == 200

    def test_metrics_path_serves_the_metrics_of_the_process(self) -> None:
        with probes() as client:
            answer = client.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        assert "# TYPE plinth_jobs_started_total counter" in answer.text

    def test_metrics_are_in_openmetrics_format_where_it_is_accepted(self) -> None:
        with probes() as client:
            answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert answer.text.endswith("# EOF\n")

    @pytest.mark.parametrize(
        "accept", ["application/openmetrics-text; version=new", "text/plain; version=x; escaping=y", ";,=", "*/*"]
    )
    def test_metrics_are_in_text_format_for_any_other_accept_header(self, accept: str) -> None:
        with probes() as client:
            answer = client.get("/metrics", headers={"Accept": accept})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")

    @pytest.mark.parametrize(
        ("accepted", "coding"), [("gzip, deflate", "gzip"), ("identity", None), ("gzip;q=0", None)]
    )
    def test_metrics_are_compressed_where_the_client_accepts_gzip(self, accepted: str, coding: str | None) -> None:
        with probes() as client:
            answer = client.get("/metrics", headers={"Accept-Encoding": accepted})
        assert answer.headers.get("content-encoding") == coding
        assert "# TYPE plinth_jobs_started_total counter" in answer.text
        if coding is None:
            assert int(answer.headers["content-length"]) == len(answer.content)

    def test_log_level_path_shows_and_sets_the_level(self) -> None:
        with logging_as(LOG_LEVEL="INFO", LOG_FORMAT="json") as log, probes() as client:
            answers = [
                client.get("/log-level"),
                client.put("/log-level", content="debug\n"),
                client.get("/log-level"),
                client.put("/log-level", content="LOUD"),
                client.put("/log-level"),
                client.put("/log-level", content="E" * 1000),
                client.get("/log-level"),
            ]
            (line,) = log.lines("log level")
        assert [(answer.status_code, answer.text.strip()) for answer in answers] == [
            (200, "INFO"),
            (200, "INFO DEBUG"),
            (200, "DEBUG"),
            (400, "expected DEBUG, INFO, WARNING, ERROR, CRITICAL"),
            (400, "expected DEBUG, INFO, WARNING, ERROR, CRITICAL"),
            (400, "expected DEBUG, INFO, WARNING, ERROR, CRITICAL"),
            (200, "DEBUG"),
        ]
        assert (line["old"], line["new"]) == ("INFO", "DEBUG")

    def test_length_that_python_does_not_read_is_no_length(self) -> None:
        with probes() as client, closing(HTTPConnection(client.base_url.host, client.base_url.port)) as plain:
            plain.request("PUT", "/log-level", headers={"Content-Length": "1" * 5000})
            assert plain.getresponse().status == 400

    @pytest.mark.parametrize(
        ("address", "local"),
        [
            ("127.0.0.1", True),
            ("127.0.0.6", False),  # Istio's sidecar, on behalf of its clients
            ("::1", True),
            ("::ffff:127.0.0.1", True),
            ("10.0.0.7", False),
            ("::ffff:10.0.0.7", False),
            ("fe80::1%eth0", False),
            ("2001:db8::1", False),
        ],
    )
    def test_only_loopback_addresses_may_change_the_process(self, address: str, local: bool) -> None:
        drained: list[None] = []
        with (
            logging_as(LOG_LEVEL="INFO"),
            connected_from(address),
            probes(drain=lambda: drained.append(None)) as client,
        ):
            answers = [client.post("/drain"), client.put("/log-level", content="ERROR")]
            assert [answer.status_code for answer in answers] == ([200, 200] if local else [403, 403])
            assert (len(drained), log_level()) == ((1, "ERROR") if local else (0, "INFO"))
            assert client.get("/log-level").status_code == client.get("/livez").status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": ""},
            {"Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
            {"Host": "rebound.example:9090"},  # a name that its owner has pointed at 127.0.0.1
            {"Host": "127.0.0.1.evil.example"},
            {"X-Forwarded-For": "10.0.0.7"},
            {"X-Forwarded-Host": "rebound.example"},
            {"X-Forwarded-Proto": "https"},
            {"X-Real-IP": "10.0.0.7"},
            {"Forwarded": "for=10.0.0.7"},
            {"Via": "1.1 proxy"},
        ],
        ids=str,
    )
    def test_browser_or_proxy_on_this_machine_may_not_change_the_process(self, headers: dict[str, str]) -> None:
        with logging_as(LOG_LEVEL="INFO"), probes(drain=never_drained) as client:
            for method, path in (("POST", "/drain"), ("PUT", "/log-level")):
                answer = client.request(method, path, headers=headers, content="ERROR")
                assert (answer.status_code, answer.text) == (403, "asked for from outside this container\n")
            assert log_level() == "INFO"

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9090", "127.0.0.1", "[::1]:9090", "[::1]", ""])
    def test_own_names_of_this_machine_may_be_asked_for(self, host: str) -> None:
        with probes(drain=lambda: None) as client:
            assert client.post("/drain", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize("path", ["/", "/livez/", "/metrics/x", "/docs"])
    def test_unknown_path_of_the_probe_server_is_404(self, path: str) -> None:
        with probes() as client:
            assert client.get(path).status_code == 404

    def test_silent_client_does_not_block_the_probes(self) -> None:
        with probes() as client:
            at = urlsplit(str(client.base_url))
            assert at.hostname
            assert at.port
            with socket.create_connection((at.hostname, at.port)):
                assert client.get("/livez").status_code == 200

    def test_many_slow_clients_take_a_bounded_number_of_threads(self) -> None:
        with probes() as client, ExitStack() as closing:
            before = threading.active_count()
            for _ in range(5 * probe_server.MAX_CONNECTIONS):
                slow = closing.enter_context(socket.create_connection(address_of(client)))
                slow.sendall(b"GET /livez HTTP/1.1\r\n")
            assert client.get("/livez").status_code == 200
            deadline = monotonic() + PATIENCE
            while threading.active_count() > before + probe_server.MAX_CONNECTIONS:
                assert monotonic() < deadline
                sleep(0.05)

    def test_client_that_trickles_is_hung_up_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probe_server, "MAX_SECONDS", 0.5)

        def trickle(slow: socket.socket) -> None:
            for _ in range(200):
                slow.sendall(b"G")
                sleep(0.1)

        with (
            probes() as client,
            socket.create_connection(address_of(client)) as slow,
            pytest.raises(OSError, match=r"Broken pipe|reset"),
        ):
            trickle(slow)

    def test_drain_may_take_longer_than_other_requests(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probe_server, "MAX_SECONDS", 0.2)
        with probes(drain=lambda: sleep(1)) as client:
            assert client.post("/drain").status_code == 200

    def test_client_that_resets_its_connection_leaves_no_traceback(self, capfd: pytest.CaptureFixture[str]) -> None:
        with logging_as(LOG_LEVEL="DEBUG", LOG_FORMAT="json") as log, probes() as client:
            at = urlsplit(str(client.base_url))
            assert at.hostname
            assert at.port
            with socket.create_connection((at.hostname, at.port)) as broken:
                # Reset, as load balancers do that only check that the port is open.
                broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                assert client.get("/livez").status_code == 200  # it has been accepted by then
            deadline = monotonic() + PATIENCE
            while not (lines := log.lines("a client was not answered")):
                assert monotonic() < deadline
                sleep(0.01)
        assert "ConnectionResetError" in lines[0]["error"]
        assert capfd.readouterr().err == ""

    def test_failed_probe_check_is_logged_as_an_ordinary_line(self, capfd: pytest.CaptureFixture[str]) -> None:
        def fail() -> bool:
            raise RuntimeError("hunter2")

        with logging_as(LOG_FORMAT="json") as log, probes(alive=fail) as client:
            assert client.get("/livez").status_code == 500
        (line,) = log.lines("the second port has no answer")
        assert line["path"] == "/livez"
        assert "RuntimeError: hunter2" in line["exception"]
        assert capfd.readouterr().err == ""

    def test_probe_server_on_a_busy_port_is_an_error(self) -> None:
        with socket.create_server((HOST, 0)) as taken, pytest.raises(ProbeServerError, match="in use"):
            ProbeServer(HOST, taken.getsockname()[1], alive=yes, ready=yes).start()

    def test_stopped_probe_server_frees_its_port(self) -> None:
        first = ProbeServer(HOST, 0, alive=yes, ready=yes)
        port = first.start()
        first.stop()
        second = ProbeServer(HOST, port, alive=yes, ready=yes)
        assert second.start() == port
        second.stop()
