"""A transport whose last response arrives."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["LINGER_IDLE_SECONDS", "LINGER_SECONDS", "LingeringTransport"]

# A peer that still sends is listened to for so long: else the kernel resets the connection, and the peer never reads
# the last response (RFC 9112, 9.6).
LINGER_SECONDS, LINGER_IDLE_SECONDS = 30.0, 5.0


class LingeringTransport:
    """A transport that counts what is written, and whose `close` lets the peer read the last response."""

    def __init__(self, transport: asyncio.Transport, peer_may_send: Callable[[], bool]) -> None:
        self._transport = transport
        self._peer_may_send = peer_may_send
        self.written = 0
        self.lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self.lingering:
            self.written += len(data)
            self._transport.write(data)

    def taken(self) -> int:
        """Bytes that the peer's kernel has acknowledged.

        Our kernel holds megabytes and takes more a third at a time: to a client that reads 20 KB/s it had given nothing
        for 55 s, by what the transport alone knows.
        """
        left = self._transport.get_write_buffer_size()
        if sys.platform != "win32":
            from fcntl import ioctl
            from termios import TIOCOUTQ

            with suppress(OSError):
                queued = ioctl(self._transport.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4))
                left += int.from_bytes(queued, sys.byteorder)
        return self.written - left

    def is_closing(self) -> bool:
        return self.lingering or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        if self._peer_may_send() and self._transport.can_write_eof():
            self.lingering = True
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()
