"""One connection of the API: what is one request, and what a peer can cost before it is known."""

import asyncio
import gc
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from plinth.http import protocol
from plinth.http.limits import RESERVED_FILES, ConnectionLimits, allowed_connections
from plinth.http.refusals import LINES_A_MINUTE
from plinth.testing import serving

HOST = b"Host: service.test\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"


def make_app() -> FastAPI:
    app = FastAPI()
    app.state.seen = []
    app.state.go_on = threading.Event()

    @app.api_route("/", methods=["GET", "POST", "OPTIONS"])
    async def echo(request: Request) -> dict[str, Any]:
        body = await request.body()
        app.state.seen.append(request.method)
        return {"headers": sorted(request.headers.keys()), "body": body.decode("latin-1")}

    @app.get("/waits")
    async def waits() -> str:
        app.state.seen.append("waits")
        await asyncio.to_thread(app.state.go_on.wait, 30)
        return "waited"

    @app.post("/refuses")
    async def refuses() -> Response:
        return Response("too large", 413, {"Connection": "close"})

    @app.post("/answers-early")
    async def answers_early() -> str:
        return "early"

    @app.get("/large")
    async def large() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(500):
                yield b"x" * 65_536

        return StreamingResponse(chunks())

    return app


class Peer:
    """A raw connection."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=20)
        self.received = b""

    def close(self) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        """Send each part as a segment of its own."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            self.socket.sendall(part)
            time.sleep(0.01 if len(parts) > 1 else 0)

    def answer(self) -> tuple[int, bytes]:
        """Status and body of the next response."""
        while b"\r\n\r\n" not in self.received:
            self._more()
        head, self.received = self.received.split(b"\r\n\r\n", 1)
        found = re.search(rb"(?i)content-length: (\d+)", head)
        assert found
        while len(self.received) < int(found[1]):
            self._more()
        body, self.received = self.received[: int(found[1])], self.received[int(found[1]) :]
        return int(head.split()[1]), body

    def echoed(self) -> Any:
        status, body = self.answer()
        assert status == 200, body
        return json.loads(body)

    def is_closed(self) -> bool:
        """Whether the server ends the connection, without a byte more."""
        try:
            return self.received == b"" and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _more(self) -> None:
        more = self.socket.recv(65_536)
        assert more, f"the connection was closed after {self.received!r}"
        self.received += more


@contextmanager
def peer_of(url: str) -> Iterator[Peer]:
    with closing(Peer(url)) as peer:
        yield peer


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(make_app()) as url:
        yield url


@pytest.fixture
def peer(url: str) -> Iterator[Peer]:
    with peer_of(url) as peer:
        yield peer


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("plinth_http_refused_total", {"reason": reason}) or 0.0


class TestUpgrade:
    @pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0", b"h2c, websocket"])
    @pytest.mark.parametrize("apart", [True, False])
    def test_upgrade_is_ignored_and_its_body_is_no_request(self, peer: Peer, protocol: bytes, apart: bool) -> None:
        head = b"POST / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n"
        head += b"Upgrade: " + protocol + b"\r\nContent-Length: %d\r\n\r\n" % len(GET)
        peer.send(*([head, GET] if apart else [head + GET]))
        assert peer.echoed()["body"] == GET.decode()
        peer.send(GET)
        assert peer.echoed()["body"] == ""

    def test_chunked_body_of_an_upgrade_is_read(self, peer: Peer) -> None:
        head = (
            b"POST / HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        peer.send(head + b"3\r\nabc\r\n", b"0\r\n\r\n" + GET)
        assert peer.echoed()["body"] == "abc"
        assert peer.echoed()["body"] == ""

    def test_upgrade_of_a_pipelined_request_is_ignored(self, peer: Peer) -> None:
        upgrade = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        peer.send(GET + upgrade + upgrade + GET)
        assert [peer.echoed()["body"] for _ in range(4)] == [""] * 4

    def test_upgrade_of_an_http_1_0_request_leaves_its_version(self, peer: Peer) -> None:
        peer.send(b"GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert peer.echoed()["body"] == ""
        assert peer.is_closed()

    def test_connect_is_refused(self, peer: Peer) -> None:
        peer.send(b"CONNECT other.test:443 HTTP/1.1\r\n" + HOST + b"\r\n" + GET)
        assert peer.answer()[0] == 501
        assert peer.is_closed()


class TestPipelining:
    def test_each_request_has_its_answer_in_order(self, peer: Peer) -> None:
        post = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 6\r\n\r\n\r\n\r\nab"
        chunked = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n"
        peer.send(GET + post + chunked + GET + chunked + post)
        bodies = [peer.echoed()["body"] for _ in range(6)]
        assert bodies == ["", "\r\n\r\nab", "\r\n\r\n", "", "\r\n\r\n", "\r\n\r\nab"]

    @pytest.mark.parametrize("size", [7, 64])
    def test_cuts_between_segments_change_nothing(self, peer: Peer, size: int) -> None:
        chunked = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"
        sent = GET + chunked + GET
        peer.send(*(sent[start : start + size] for start in range(0, len(sent), size)))
        assert [peer.echoed()["body"] for _ in range(3)] == ["", "abc", ""]

    def test_requests_behind_a_slow_one_are_not_parsed(self) -> None:
        app = make_app()
        with serving(app) as url, peer_of(url) as peer:
            behind = GET.replace(b"/ ", b"/?behind ")
            peer.send(b"GET /waits HTTP/1.1\r\n" + HOST + b"\r\n" + behind * 90)
            while not app.state.seen:
                time.sleep(0.01)
            cycles = [found for found in gc.get_objects() if type(found) is RequestResponseCycle]
            assert not [cycle for cycle in cycles if cycle.scope["query_string"] == b"behind"]
            app.state.go_on.set()
            assert peer.answer() == (200, b'"waited"')
            assert all(peer.echoed()["body"] == "" for _ in range(90))

    def test_more_requests_than_are_kept_end_the_connection_after_the_response(self) -> None:
        app = make_app()
        with serving(app) as url, peer_of(url) as peer:
            threading.Timer(0.2, app.state.go_on.set).start()
            peer.send(b"GET /waits HTTP/1.1\r\n" + HOST + b"\r\n" + GET * 1000)
            assert peer.answer() == (200, b'"waited"')
            assert peer.is_closed()

    def test_more_bytes_than_are_kept_end_the_connection_after_the_response(self) -> None:
        app = make_app()
        with serving(app) as url, peer_of(url) as peer:
            threading.Timer(0.2, app.state.go_on.set).start()
            peer.socket.settimeout(5)
            with suppress(OSError):  # it is not read from
                peer.send(b"GET /waits HTTP/1.1\r\n" + HOST + b"\r\n" + GET * 1_000_000)
            assert peer.answer() == (200, b'"waited"')

    def test_malformed_request_behind_a_good_one_is_answered_after_it(self, peer: Peer) -> None:
        peer.send(GET + b"no request\r\n\r\n" + GET)
        assert peer.echoed()["body"] == ""
        assert peer.answer()[0] == 400
        assert peer.is_closed()

    def test_head_whose_end_is_cut_apart_takes_no_second_one_along(self) -> None:
        app = make_app()
        with serving(app) as url, peer_of(url) as peer:
            post = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello"
            for cut in (1, 2, 3):
                app.state.go_on.clear()
                head = b"GET /waits HTTP/1.1\r\n" + HOST + b"\r\n"
                peer.send(head[:-cut], head[-cut:] + post)
                app.state.go_on.set()
                assert peer.answer() == (200, b'"waited"')
                assert peer.echoed()["body"] == "hello"

    def test_head_that_comes_while_another_request_is_answered_is_read_to_its_end(self) -> None:
        app = make_app()
        with serving(app) as url, peer_of(url) as peer:
            head = b"GET /waits HTTP/1.1\r\n" + HOST + b"\r\n"
            peer.send(head + GET[:8], GET[8:-2])
            app.state.go_on.set()
            assert peer.answer() == (200, b'"waited"')
            peer.send(GET[-2:])
            assert peer.echoed()["body"] == ""


class TestHead:
    @pytest.mark.parametrize(
        "head",
        [
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + HOST + b"Host: other.test\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + HOST + b"Authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + HOST + b"X : a\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n",
            b"GET / HTTP/1.1\n" + HOST + b"\n",
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ],
    )
    def test_head_that_can_be_read_two_ways_is_refused(self, peer: Peer, head: bytes) -> None:
        peer.send(head + GET)
        status, body = peer.answer()
        assert status == 400
        assert json.loads(body)["code"] == "malformed"
        assert peer.is_closed()

    @pytest.mark.parametrize(
        ("head", "status"),
        [
            (b"GET /\r\n\r\n", 505),
            (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
            (b"GET / RTSP/1.1\r\n" + HOST + b"\r\n", 505),
            (b"GET / RTSP/1.0\r\n" + HOST + b"\r\n", 505),
            (b"\r\nPOST / RTSP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", 505),
            (b"OPTIONS / RTSP/1.1\r\n" + HOST + b"\r\n", 505),
            (b"DESCRIBE rtsp://service.test/ RTSP/1.0\r\n" + HOST + b"\r\n", 505),
            (b"SOURCE / ICE/1.0\r\n" + HOST + b"\r\n", 505),
            (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
            (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity\r\n\r\n", 501),
        ],
    )
    def test_what_this_server_does_not_speak_is_refused(self, peer: Peer, head: bytes, status: int) -> None:
        peer.send(head + GET)
        assert peer.answer()[0] == status
        assert peer.is_closed()

    @pytest.mark.parametrize("cut", range(1, 20))
    def test_protocol_in_several_segments_is_known(self, peer: Peer, cut: int) -> None:
        request = b"GET / RTSP/1.1\r\n" + HOST + b"\r\n"
        peer.send(request[:cut], request[cut:])
        assert peer.answer()[0] == 505
        assert peer.is_closed()

    def test_protocol_of_each_pipelined_request_is_known(self, peer: Peer) -> None:
        peer.send(GET + b"GET / RTSP/1.1\r\n" + HOST + b"\r\n" + GET)
        assert peer.echoed()["body"] == ""
        assert peer.answer()[0] == 505
        assert peer.is_closed()

    @pytest.mark.parametrize(
        ("head", "status"),
        [
            (b"HEAD / HTTP/1.1\r\n\r\n", 400),
            (b"\r\nHEAD / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
            (b"HEAD / HTTP/1.1\r\n" + HOST + b"X : a\r\n\r\n", 400),
            (b"HEAD / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
            (b"HEAD / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
            (b"HEAD /" + b"a" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
        ],
    )
    def test_refused_head_has_no_body(self, peer: Peer, head: bytes, status: int) -> None:
        peer.send(head)
        received = b""
        while more := peer.socket.recv(65_536):
            received += more
        lines, body = received.split(b"\r\n\r\n", 1)
        assert int(lines.split()[1]) == status
        assert re.search(rb"content-length: [1-9]", lines)  # of the body that a GET has
        assert body == b""

    def test_absolute_target_is_served_with_and_without_a_path(self, peer: Peer) -> None:
        for target in (b"http://service.test/", b"http://service.test"):
            peer.send(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
            assert peer.echoed()["body"] == ""

    @pytest.mark.parametrize("target", [b"http://[x/", b"http:///", b"http://a:b/"])
    def test_target_that_cannot_be_read_is_refused(self, peer: Peer, target: bytes) -> None:
        peer.send(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        assert peer.answer()[0] == 400
        assert peer.is_closed()

    def test_http_1_0_needs_no_host(self, peer: Peer) -> None:
        peer.send(b"GET / HTTP/1.0\r\n\r\n")
        assert peer.echoed()["body"] == ""

    def test_trailer_is_no_header(self, peer: Peer) -> None:
        head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n"
        peer.send(
            head + b"1\r\na\r\n0\r\n", b"Authorization: Bearer x\r\nX-Forwarded-For: 192.0.2.1\r\nHost: b\r\n\r\n"
        )
        found = peer.echoed()
        assert found["headers"] == ["host", "trailer", "transfer-encoding"]
        peer.send(GET)
        assert peer.echoed()["headers"] == ["host"]

    def test_as_many_headers_as_allowed_are_served(self, peer: Peer) -> None:
        peer.send(b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"x-%d: y\r\n" % number for number in range(99)) + b"\r\n")
        assert len(peer.echoed()["headers"]) == 100

    def test_head_of_the_largest_size_is_served(self, peer: Peer) -> None:
        start = b"GET / HTTP/1.1\r\n" + HOST + b"X: "
        peer.send(start + b"a" * (32_768 - len(start) - 4) + b"\r\n\r\n")
        assert peer.echoed()["headers"] == ["host", "x"]

    @pytest.mark.parametrize(
        "head",
        [
            b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 32_768 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 1_000_000,
            b"GET /" + b"a" * 1_000_000,
            b"GET / HTTP/1.1\r\n" + HOST + b"a" * 1_000_000,
            b"\r\n" * 500_000,
            b"GET / HTTP/1.1\r\n" + HOST + b"x: y\r\n" * 100 + b"\r\n",
            b"GET / HTTP/1.1\r\n" + HOST + b"x: y\r\n" * 100_000,
        ],
        ids=["complete", "endless-value", "endless-target", "endless-name", "line-breaks", "many", "endlessly-many"],
    )
    def test_larger_head_is_refused(self, peer: Peer, head: bytes) -> None:
        peer.send(head)
        assert peer.answer()[0] == 431
        assert peer.is_closed()

    def test_refusals_are_counted_and_a_bounded_number_is_logged(self, url: str) -> None:
        before = refused("malformed")
        with capture_logs() as lines:
            for _ in range(3 * LINES_A_MINUTE):
                with peer_of(url) as peer:
                    peer.send(b"no request\r\n\r\n")
                    assert peer.answer()[0] == 400
        found = [line for line in lines if line["event"] == "connection refused"]
        assert refused("malformed") == before + 3 * LINES_A_MINUTE
        assert len(found) <= 2 * LINES_A_MINUTE  # a minute may end meanwhile
        assert {line["client"] for line in found} <= {"127.0.0.1"}


class TestWebsockets:
    def test_only_a_get_without_a_body_is_upgraded(self, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the service has a WebSocket library: the protocol that takes over reads no body."""
        monkeypatch.setattr(protocol.BoundedHttpToolsProtocol, "_should_upgrade_to_ws", lambda self: True)
        head = b" / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\n"
        peer.send(b"POST" + head + b"hello", b"GET" + head, b"hello", b"POST" + head.replace(b": 5", b": 0") + GET)
        assert [peer.echoed()["body"] for _ in range(4)] == ["hello", "hello", "", ""]


class TestBody:
    def test_client_that_waits_for_100_continue_can_go_on(self, peer: Peer) -> None:
        head = b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        peer.send(head)
        assert peer.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(b"hello")
        assert peer.echoed()["body"] == "hello"
        peer.send(GET)
        assert peer.echoed()["body"] == ""

    def test_answer_instead_of_100_continue_ends_the_connection(self, peer: Peer) -> None:
        """Whether the client sends its body now cannot be known."""
        head = b"POST /answers-early HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 64\r\n\r\n"
        peer.send(head)
        assert peer.answer() == (200, b'"early"')
        assert peer.is_closed()

    @pytest.mark.parametrize("framing", [b"1;" + b"a" * 100_000, b"1\r\na\r\n0\r\n" + b"X: y\r\n" * 20_000])
    def test_framing_out_of_proportion_is_refused(self, peer: Peer, framing: bytes) -> None:
        peer.send(b"POST /answers-early HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + framing)
        assert peer.answer()[0] in (200, 400)  # the endpoint may be the first
        assert peer.is_closed()

    def test_small_chunks_are_read(self, peer: Peer) -> None:
        peer.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 50_000)
        peer.send(b"0\r\n\r\n")
        assert peer.echoed()["body"] == "a" * 50_000

    def test_refusal_of_a_large_body_arrives(self, url: str) -> None:
        address = urlsplit(url)
        for _ in range(10):
            with closing(http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)) as client:
                client.request("POST", "/refuses", b"x" * 20_000_000)
                assert client.getresponse().status == 413

    def test_connection_goes_on_after_a_response_that_came_before_the_body(self, peer: Peer) -> None:
        peer.send(b"POST /answers-early HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n")
        assert peer.answer() == (200, b'"early"')
        peer.send(b"x" * 100_000 + GET)
        assert peer.echoed()["body"] == ""

    def test_broken_body_is_refused_while_it_is_read(self, peer: Peer) -> None:
        peer.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n")
        assert peer.answer()[0] == 400
        assert peer.is_closed()


IMPATIENT = ConnectionLimits(head_seconds=0.2, patience=0.3, bytes_per_second=1000)


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """The clock of connections, ten times as fast."""
    with pytest.MonkeyPatch.context() as patch:
        for name, seconds in (("TICK_SECONDS", 0.1), ("LINGER_IDLE_SECONDS", 0.5), ("LINGER_SECONDS", 3.0)):
            patch.setattr(protocol, name, seconds)
        yield


@pytest.fixture(scope="module")
def impatient(quick: None) -> Iterator[str]:
    with serving(make_app(), IMPATIENT) as url:
        yield url


@pytest.fixture(scope="module")
def patient(quick: None) -> Iterator[str]:
    """For peers that go on, on a busy machine as well."""
    with serving(make_app(), ConnectionLimits(head_seconds=2, patience=2, bytes_per_second=1000)) as url:
        yield url


class TestDeadlines:
    def test_peer_that_sends_nothing_is_hung_up_on(self, impatient: str) -> None:
        with peer_of(impatient) as peer:
            assert peer.is_closed()

    @pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX:", b"\r\n"])
    def test_head_that_stops_is_refused(self, impatient: str, sent: bytes) -> None:
        with peer_of(impatient) as peer:
            peer.send(sent)
            assert peer.answer()[0] == 408
            assert peer.is_closed()

    def test_second_head_that_stops_is_refused(self, impatient: str) -> None:
        with peer_of(impatient) as peer:
            peer.send(GET)
            peer.echoed()
            peer.send(b"GET / HT")
            assert peer.answer()[0] == 408
            assert peer.is_closed()

    def test_head_that_trickles_is_refused(self, impatient: str) -> None:
        def trickle(client: Peer) -> None:
            for _ in range(200):
                client.send(b"\r\n")
                time.sleep(0.05)

        with peer_of(impatient) as client, pytest.raises(OSError, match=r"Broken pipe|reset"):
            trickle(client)

    @pytest.mark.parametrize("head", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
    def test_body_that_stops_is_refused(self, impatient: str, head: bytes) -> None:
        with peer_of(impatient) as peer:
            peer.send(b"POST / HTTP/1.1\r\n" + HOST + head + b"\r\n\r\n", b"1\r\n")
            assert peer.answer()[0] == 408
            assert peer.is_closed()

    def test_peer_that_was_too_slow_is_not_listened_to_for_long(
        self, impatient: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def trickle(client: Peer) -> None:
            client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n")
            for _ in range(400):
                client.send(b"x")
                time.sleep(0.05)

        monkeypatch.setattr(protocol, "LINGER_SECONDS", 1000.0)
        with peer_of(impatient) as client, pytest.raises(OSError, match=r"Broken pipe|reset"):
            trickle(client)

    def test_body_that_stops_after_its_response_ends_the_connection(self, impatient: str) -> None:
        with peer_of(impatient) as peer:
            peer.send(b"POST /answers-early HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n", b"x")
            assert peer.answer() == (200, b'"early"')
            assert peer.is_closed()

    def test_body_that_goes_on_is_waited_for(self, patient: str) -> None:
        with peer_of(patient) as peer:
            peer.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 12500\r\n\r\n")
            for _ in range(25):
                peer.send(b"x" * 500)
                time.sleep(0.1)
            assert len(peer.echoed()["body"]) == 12_500

    def test_response_that_is_not_read_ends_the_connection(self, impatient: str) -> None:
        before = refused("not_read")
        with peer_of(impatient) as peer:
            peer.send(b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n")
            deadline = time.monotonic() + 20
            while refused("not_read") == before:
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def test_response_that_is_read_slowly_comes_whole(self, patient: str) -> None:
        with peer_of(patient) as peer:
            peer.send(b"GET /large HTTP/1.0\r\n" + HOST + b"\r\n")
            size = 0
            for number in range(100_000):
                if number % 64 == 0:
                    time.sleep(0.005)
                more = peer.socket.recv(8192)
                if not more:
                    break
                size += len(more)
            assert size > 500 * 65_536

    def test_endpoint_that_takes_long_is_waited_for(self, quick: None) -> None:
        app = make_app()
        with serving(app, IMPATIENT) as url, peer_of(url) as peer:
            peer.send(b"GET /waits HTTP/1.1\r\n" + HOST + b"\r\n")
            threading.Timer(1, app.state.go_on.set).start()
            assert peer.answer() == (200, b'"waited"')


class TestNumber:
    def test_new_client_takes_the_place_of_one_that_asks_nothing(self) -> None:
        with serving(make_app(), ConnectionLimits(connections=5)) as url, ExitStack() as idle:
            for _ in range(20):
                idle.enter_context(peer_of(url))
            with peer_of(url) as peer:
                peer.send(GET)
                assert peer.echoed()["body"] == ""

    def test_client_beyond_the_limit_is_told(self) -> None:
        app = make_app()
        with serving(app, ConnectionLimits(connections=3)) as url:
            others = [Peer(url) for _ in range(3)]
            for other in others:
                other.send(b"GET /waits HTTP/1.1\r\n" + HOST + b"\r\n")
            while len(app.state.seen) < 3:
                time.sleep(0.01)
            with peer_of(url) as peer:
                assert peer.answer()[0] == 503
                assert peer.is_closed()
            app.state.go_on.set()
            for other in others:
                assert other.answer()[0] == 200
                other.close()

    def test_new_client_takes_the_place_of_one_whose_request_is_answered(self) -> None:
        with serving(make_app(), ConnectionLimits(connections=3)) as url, ExitStack() as others:
            for sent in (
                b"POST /answers-early HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000\r\n\r\n",
                b"x\r\n\r\n",
            ):
                for _ in range(5):
                    other = others.enter_context(peer_of(url))
                    other.send(sent)
                    assert other.answer()[0] in (200, 400)
                with peer_of(url) as peer:
                    peer.send(GET)
                    assert peer.echoed()["body"] == ""

    def test_limit_leaves_files_for_the_database(self) -> None:
        import resource

        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert allowed_connections(10) == 10
        assert allowed_connections(10**9) == files - RESERVED_FILES

    def test_shutdown_waits_for_no_peer_that_asks_nothing(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(protocol, "LINGER_IDLE_SECONDS", 60)  # longer than a shutdown may take
        with serving(make_app()) as url:
            peers = [Peer(url) for _ in range(4)]
            peers[3].send(b"no request\r\n\r\n")
            assert peers[3].answer()[0] == 400  # and it is listened to for a while
            peers[1].send(b"GET / HT")
            peers[2].send(GET)
            peers[2].echoed()
        assert "timeout graceful shutdown exceeded" not in caplog.text
        for peer in peers:
            peer.close()
