"""Uvicorn's HTTP/1.1 protocol with a limit on the request's head, and callbacks at shutdown."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["ON_SHUTDOWN", "BoundedHttpToolsProtocol"]

# The limit of common proxies. The longest token has 8 KB.
MAX_HEAD_BYTES = 65_536

ON_SHUTDOWN = "on_shutdown"
"""The key in the lifespan's state: functions to call when the server begins to shut down."""


class BoundedHttpToolsProtocol(HttpToolsProtocol):
    """Answers 400 to a request whose line and headers are larger than `MAX_HEAD_BYTES`.

    httptools has no limit: one client could make a process keep a hundred megabytes of headers.

    At shutdown it calls the functions of `ON_SHUTDOWN`, which end event streams. Uvicorn waits for every response to
    end before it ends the lifespan, so the lifespan would be too late.
    """

    _head_bytes = 0

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name, value)
        super().on_header(name, value)

    def _count(self, *parts: bytes) -> None:
        self._head_bytes += sum(map(len, parts))
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("the request line and headers are too large")  # uvicorn answers 400 and hangs up

    def shutdown(self) -> None:
        """Called for each connection, so each function is called more than once."""
        super().shutdown()
        for function in self.app_state.get(ON_SHUTDOWN, ()):
            function()
