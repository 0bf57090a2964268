"""Network addresses: free ones, and whether a program answers there."""

import errno
import http.client
import socket
from collections.abc import Container
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

from plinth.embedded.process import EmbeddedError

PROBE_TIMEOUT = 2.0  # seconds
# Where a client on this machine finds a server that listens on all addresses.
LOCAL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    @property
    def url(self) -> str:
        host = self._local_host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @classmethod
    def free(cls, host: str, *, but: Container[int]) -> Self:
        """A free address, with none of these ports. Raises EmbeddedError if nothing can listen on the host."""
        drawn = iter(cls(host, 0).check, None)
        return cls(host, next(port for port in drawn if port not in but))

    def check(self) -> int:
        """The port that a server would get there: for 0 a free one. Raises EmbeddedError if none could listen."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            family, kind, protocol, _, address = found[0]
            with socket.socket(family, kind, protocol) as probe:
                # As servers do: connections that an earlier one has left in TIME_WAIT do not count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                return probe.getsockname()[1]  # type: ignore[no-any-return]
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise EmbeddedError(
                    f"Port {self.port} on {self.host} is in use by another program. Stop that one, or choose "
                    f"another port: plinth run --port {self.port + 1}, or make run PORT={self.port + 1}."
                ) from None
            reason = str(error.strerror).lower()
            raise EmbeddedError(f"Nothing can listen on {self.host}, port {self.port}: {reason}.") from None

    def answers(self, path: str) -> bool:
        """Whether a GET of `path` is answered with 200."""
        connection = http.client.HTTPConnection(self._local_host, self.port, timeout=PROBE_TIMEOUT)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def _local_host(self) -> str:
        return LOCAL_ADDRESSES.get(self.host, self.host)
