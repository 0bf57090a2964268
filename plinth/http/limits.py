"""What a connection may cost: bytes, headers, seconds, and how many connections there may be."""

import sys
from dataclasses import dataclass
from typing import Self

from plinth.settings.http import HttpSettings

__all__ = ["ConnectionLimits", "Patience", "allowed_connections"]

# File descriptors that are kept for the database, Redis, the collector and the second port.
RESERVED_FILES = 100
# Bytes of a body's framing (chunk sizes, extensions, trailers) for each byte of the body, beside `head_bytes`.
FRAMING = 16
# Behind a request that is being answered. One read brings up to 256 KiB.
MAX_HELD_BYTES, MAX_HELD_REQUESTS = 327_680, 100
SHUTDOWN_PATIENCE = 5.0  # seconds instead of the limits', once the server shuts down


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds on each connection of the API, and on their number. `docs/security.md` lists them."""

    head_bytes: int = 32_768
    """The request line and the headers together, also while they are incomplete."""
    headers: int = 100
    head_seconds: float = 10.0
    """From the first byte, or from the start of the connection, to the end of the headers."""
    bytes_per_second: int = 500
    """The least average speed of a body that is received and of a response that is read, after `patience`."""
    patience: float = 20.0
    """Seconds that a transfer may pause in total. A faster transfer regains them."""
    connections: int = 1_000
    message_bytes: int = 1_048_576
    """A message of a WebSocket."""

    @classmethod
    def of(cls, settings: HttpSettings) -> Self:
        """The limits of a process with these settings."""
        return cls(
            head_bytes=settings.MAX_HEAD_BYTES,
            headers=settings.MAX_HEADERS,
            head_seconds=settings.HEAD_TIMEOUT,
            bytes_per_second=settings.MIN_BYTES_PER_SECOND,
            connections=allowed_connections(settings.MAX_CONNECTIONS),
            message_bytes=settings.MAX_BODY_BYTES,
        )


class Patience:
    """How long a transfer may still pause."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._rate = limits.bytes_per_second
        self.most = self._left = limits.patience

    def reset(self) -> None:
        self._left = self.most

    def is_over(self, moved: int, seconds: float) -> bool:
        """Whether it is over, after `seconds` in which so many bytes moved."""
        self._left = min(self.most, self._left + moved / self._rate - seconds)
        return self._left < 0


def allowed_connections(wanted: int) -> int:
    """`wanted`, or fewer where the process may open fewer files."""
    if sys.platform == "win32":
        return wanted
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if files == resource.RLIM_INFINITY else max(1, min(wanted, files - RESERVED_FILES))
