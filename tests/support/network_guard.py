"""No test reaches another machine: it would be slow, it would fail at random, and it would load what is not ours."""

import ipaddress
import socket
from typing import Any

attempts: list[str] = []
"""What was tried and refused; the code under test may have swallowed the error."""


class NetworkRefused(OSError):
    """A test wanted to reach another machine."""


def install() -> None:
    """Let sockets connect to this machine alone, and resolve no names but its own. For the whole process."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _check(self.family, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _check(self.family, address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_number(host):
            _check(socket.AF_INET, (host,))
        return getaddrinfo(host, *args, **kwargs)

    socket.socket.connect = guarded_connect  # type: ignore[method-assign, assignment]
    socket.socket.connect_ex = guarded_connect_ex  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = guarded_getaddrinfo


def _check(family: int, address: Any) -> None:
    if family not in (socket.AF_INET, socket.AF_INET6):
        return
    host = _text(address[0])
    if host in ("", "localhost") or (_is_number(host) and ipaddress.ip_address(host).is_loopback):
        return
    attempts.append(host)
    raise NetworkRefused(f"tests stay on this machine, and this one goes for {host}")


def _is_number(host: Any) -> bool:
    try:
        ipaddress.ip_address(_text(host))
    except ValueError:
        return False
    return True


def _text(host: Any) -> str:
    return host.decode() if isinstance(host, bytes) else host or ""
