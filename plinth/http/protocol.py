"""HTTP/1.1 as uvicorn speaks it, with a bound on what comes before the body, and word of the shutdown."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["ON_SHUTDOWN", "BoundedHttpToolsProtocol"]

# What common proxies allow, and far more than a token of 8 KB needs.
MAX_HEAD_BYTES = 65_536

ON_SHUTDOWN = "on_shutdown"
"""The key in the lifespan's state of functions to call when the server begins to shut down."""


class BoundedHttpToolsProtocol(HttpToolsProtocol):
    """Refuses a request whose line and headers are larger than `MAX_HEAD_BYTES`, with 400.

    httptools itself has no limit: a stranger could make a process keep a hundred megabytes of headers.

    Tells responses that would go on and on when the server begins to shut down: uvicorn waits for every response to
    end, and the lifespan hears of it only after that.
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
        """Called for each connection, so each function is called as often."""
        super().shutdown()
        for function in self.app_state.get(ON_SHUTDOWN, ()):
            function()
