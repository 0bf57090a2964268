import asyncio
import socket
from collections.abc import Iterator

import pytest

from tests.support import network_guard


@pytest.fixture(autouse=True)
def _forgive() -> Iterator[None]:
    """Clear the refused attempts, which fail any other test."""
    yield
    assert network_guard.attempts
    network_guard.attempts.clear()


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("10.0.0.1", 80), ("0.0.0.1", 80)])
def test_no_socket_connects_to_another_machine(address: tuple[str, int]) -> None:
    with socket.socket() as client:
        with pytest.raises(network_guard.NetworkRefused, match=address[0]):
            client.connect(address)
        with pytest.raises(network_guard.NetworkRefused):
            client.connect_ex(address)


def test_no_name_of_another_machine_is_resolved() -> None:
    with pytest.raises(network_guard.NetworkRefused, match=r"example\.com"):
        socket.create_connection(("example.com", 80))


async def test_event_loop_connects_to_no_other_machine() -> None:
    with pytest.raises(network_guard.NetworkRefused):
        await asyncio.open_connection("192.0.2.1", 80)
    with pytest.raises(network_guard.NetworkRefused):
        await asyncio.open_connection("example.com", 80)


def test_connections_to_this_machine_are_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("localhost", port)):
            pass
    network_guard.attempts.append("nothing")  # for _forgive


def test_refused_connection_is_recorded_even_if_the_code_swallows_the_error() -> None:
    with socket.socket() as client, pytest.raises(OSError):  # noqa: PT011 - what code under test would catch
        client.connect(("192.0.2.1", 80))
    assert network_guard.attempts == ["192.0.2.1"]
