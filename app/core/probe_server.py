"""The second port: liveness and metrics, served by threads, so that it answers when the event loop does not."""

import asyncio
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from threading import Thread
from time import monotonic
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

__all__ = ["LoopWatch", "ProbeServer", "ProbeServerError"]

# A loop that has not turned for so long does not turn any more. Kubernetes asks three times before it restarts a pod.
STUCK_SECONDS = 15.0
TICK_SECONDS = 1.0
POLL_SECONDS = 0.1  # between two looks at whether to stop


class LoopWatch:
    """Knows whether an event loop turns. `start` it in the loop; ask `alive` from any thread."""

    def __init__(self) -> None:
        self._seen = monotonic()
        self._timer: Any = None

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._loop = asyncio.get_running_loop()
        self._tick()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._seen = monotonic()
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    @property
    def alive(self) -> bool:
        return monotonic() - self._seen < STUCK_SECONDS


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    timeout = 5  # seconds for a client to send its request

    def log_message(self, *args: Any) -> None:
        pass


class ProbeServerError(Exception):
    """The second port cannot be served; the message says where and why."""


class ProbeServer:
    """Serves `/livez` (200 or 503, by `alive`) and `/metrics` on `host`:`port`, in threads. 0: any free port."""

    def __init__(self, host: str, port: int, alive: Callable[[], bool]) -> None:
        self._address = host, port
        self._alive = alive
        self._metrics = make_wsgi_app()

    def start(self) -> int:
        """Begin to serve; returns the port.

        Raises:
            ProbeServerError: the address is not ours, or is taken.
        """
        host, port = self._address
        try:
            self._server = make_server(host, port, self._serve, _Server, _Quiet)
        except OSError as error:
            raise ProbeServerError(f"Liveness and metrics cannot be served on {host}:{port}: {error}") from error
        self._thread = Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), name="probes", daemon=True)
        self._thread.start()
        return self._server.server_port

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/livez":
                alive = self._alive()
                status, body = ("200 OK", b"alive\n") if alive else ("503 Service Unavailable", b"stuck\n")
            case "/metrics":
                served: Iterable[bytes] = self._metrics(environ, start_response)
                return served
            case _:
                status, body = "404 Not Found", b"/livez and /metrics are here\n"
        start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
