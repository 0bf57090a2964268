import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from plinth.embedded.address import Address
from plinth.embedded.process import EmbeddedError


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_free_port_passes_the_check() -> None:
    Address.free("127.0.0.1").check()


def test_busy_port_is_an_error_that_suggests_another_port(busy: int) -> None:
    with pytest.raises(EmbeddedError) as refused:
        Address("127.0.0.1", busy).check()
    assert str(refused.value) == (
        f"Port {busy} on 127.0.0.1 is in use by another program. Stop that one, or choose another port: "
        f"plinth run --port {busy + 1}, or make run PORT={busy + 1}."
    )


def test_port_that_is_busy_in_ipv4_is_busy_on_all_addresses(busy: int) -> None:
    with pytest.raises(EmbeddedError, match=rf"^Port {busy} on :: is in use"):
        Address("::", busy).check()


def test_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(EmbeddedError, match=r"^Nothing can listen on 192\.0\.2\.1, port 8000: .*address"):
        Address("192.0.2.1", 8000).check()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("localhost", "http://localhost:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
    ],
)
def test_url_of_an_address_can_be_used_by_a_local_client(host: str, url: str) -> None:
    assert Address(host, 8000).url == url


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/good" else 503)
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def test_address_answers_only_where_the_status_is_200() -> None:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = Address("0.0.0.0", server.server_port)
        try:
            assert address.answers("/good")
            assert not address.answers("/bad")
        finally:
            server.shutdown()
            thread.join()
    assert not address.answers("/good")
