"""Network addresses: free ones, and whether a program answers there."""

import errno
import http.client
import socket
from contextlib import closing
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
    def free(cls, host: str) -> Self:
        """A free address. Raises EmbeddedError if nothing can listen on the host."""
        return cls(host, cls(host, 0).check())

    def check(self) -> int:
        """The port that a server would get there: for 0 a free one. Raises EmbeddedError if none could listen."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            with socket.create_server(
                (self.host, self.port), family=family, dualstack_ipv6=self.host == "::"
            ) as server:
                return server.getsockname()[1]  # type: ignore[no-any-return]
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
        with closing(http.client.HTTPConnection(self._local_host, self.port, timeout=PROBE_TIMEOUT)) as connection:
            try:
                connection.request("GET", path)
                return connection.getresponse().status == HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False

    @property
    def _local_host(self) -> str:
        return LOCAL_ADDRESSES.get(self.host, self.host)
