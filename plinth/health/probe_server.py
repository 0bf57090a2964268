"""The second port: probes, metrics and draining, served by threads, so that a hung event loop cannot silence it."""

import gzip
import io
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from time import monotonic
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog

from plinth.accept_encoding import gzip_wish
from plinth.health.local_request import is_local
from plinth.telemetry.logging import log_level, set_log_level
from plinth.telemetry.metrics import exposition

__all__ = ["ProbeServer", "ProbeServerError"]

log = structlog.get_logger("plinth.probes")

POLL_SECONDS = 0.1  # between checks whether to stop
MAX_CONNECTIONS = 32
MAX_SECONDS = 10.0

_READ = ("GET", "HEAD")
_METHODS = {
    "/livez": _READ,
    "/readyz": _READ,
    "/metrics": _READ,
    "/log-level": (*_READ, "PUT"),
    "/drain": ("POST",),
}


class _Server(ThreadingMixIn, WSGIServer):
    """Serves each connection in a thread, at most `MAX_CONNECTIONS` and each for `MAX_SECONDS`.

    At the limit the oldest connection ends: a kubelet's takes milliseconds, so it is never that.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any, **options: Any) -> None:
        self._began: dict[socket.socket, float] = {}
        super().__init__(*args, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._began[request] = monotonic()
        if len(self._began) > MAX_CONNECTIONS:
            self._hang_up(next(iter(list(self._began))))
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._began.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called by the serving loop every `POLL_SECONDS`."""
        too_old = monotonic() - MAX_SECONDS
        for connection, began in list(self._began.items()):
            if began < too_old:
                self._hang_up(connection)

    def let_be(self, connection: socket.socket) -> None:
        """Lift the limits from a connection whose answer takes long."""
        self._began.pop(connection, None)

    def _hang_up(self, connection: socket.socket) -> None:
        self._began.pop(connection, None)
        with suppress(OSError):  # it has just ended by itself
            connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # socketserver would print a traceback for each client that disconnects or sends nothing.
        log.debug("a client was not answered", error=repr(sys.exc_info()[1]))

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks DNS for its own name and would delay the start.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = 5  # seconds for a client to send its request

    def log_message(self, *args: Any) -> None:
        pass

    def get_environ(self) -> dict[str, Any]:
        return {**super().get_environ(), "plinth.connection": self.connection}

    def get_stderr(self) -> Any:
        return io.StringIO()  # for tracebacks: failures are logged, and slow clients are normal


class ProbeServerError(Exception):
    """The second port cannot be served; the message says where and why."""


@dataclass
class ProbeServer:
    """Serves the second port of a process on `host`:`port`, in threads. 0: any free port.

    `/livez` and `/readyz` answer 200 or 503, by `alive` and `ready`; `/metrics` those of the process, in the form
    that the client asks for; `/log-level` tells the level of the log, and sets it by PUT; a POST to `/drain`, where
    there is a `drain`, is answered when that has returned. What changes the process is done for this machine alone.
    """

    host: str
    port: int
    _: KW_ONLY
    alive: Callable[[], bool]
    ready: Callable[[], bool]
    drain: Callable[[], None] | None = None

    def start(self) -> int:
        """Start serving, log the address and return the port.

        Raises:
            ProbeServerError: the address is not ours, or is taken.
        """
        shown = f"[{self.host}]" if ":" in self.host else self.host
        try:
            server = _Server6 if ":" in self.host else _Server
            self._server = make_server(self.host, self.port, self._serve, server, _Quiet)
        except OSError as error:
            raise ProbeServerError(f"Liveness and metrics cannot be served on {shown}:{self.port}: {error}") from error
        self._thread = Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), name="probes", daemon=True)
        self._thread.start()
        log.info("liveness and metrics", address=f"http://{shown}:{self._server.server_port}")
        return self._server.server_port

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            status, headers, content = self._answer(environ)
        except OSError:  # the client does not send the body it announced
            raise
        except Exception:
            log.exception("the second port has no answer", path=environ["PATH_INFO"])
            raise
        start_response(status, [*headers.items(), ("Content-Length", str(len(content)))])
        return [content] if environ["REQUEST_METHOD"] != "HEAD" else []

    def _answer(self, environ: dict[str, Any]) -> tuple[str, dict[str, str], bytes]:
        """Status, headers and content of the answer."""
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        headers = {"Content-Type": "text/plain"}
        allowed = _METHODS.get(path, ())
        if not allowed:
            status, body = "404 Not Found", "/livez, /readyz and /metrics are here"
        elif path == "/drain" and self.drain is None:
            status, body = "404 Not Found", "only an API drains: SIGTERM is all that a worker needs"
        elif method not in allowed:
            headers["Allow"] = ", ".join(allowed)
            status, body = "405 Method Not Allowed", f"expected {headers['Allow']}"
        elif method not in _READ and not is_local(environ):
            status, body = "403 Forbidden", "asked for from outside this container"
        elif path == "/metrics":
            return "200 OK", *_metrics(environ)
        else:
            status, body = self._text(path, environ)
        return status, headers, f"{body}\n".encode()

    def _text(self, path: str, environ: dict[str, Any]) -> tuple[str, str]:
        """Status and text of the answer to a request that may be made."""
        match path:
            case "/livez":
                if self.alive():
                    return "200 OK", "alive"
                log.warning("the event loop is stuck")
                return "503 Service Unavailable", "stuck"
            case "/readyz":
                return ("200 OK", "ready") if self.ready() else ("503 Service Unavailable", "unavailable")
            case "/log-level":
                return _set_log_level(environ) if environ["REQUEST_METHOD"] == "PUT" else ("200 OK", log_level())
            case _:
                assert self.drain is not None
                self._server.let_be(environ["plinth.connection"])
                self.drain()
                return "200 OK", "drained"


def _set_log_level(environ: dict[str, Any]) -> tuple[str, str]:
    """Set the log level to that in the body, and return the old and the new one."""
    length = environ.get("CONTENT_LENGTH") or "0"
    size = min(int(length), 32) if length.isdecimal() and len(length) < 20 else 0
    level = environ["wsgi.input"].read(size).decode("latin-1")
    old = log_level()
    try:
        set_log_level(level.strip().upper())
    except ValueError as error:
        return "400 Bad Request", str(error)
    log.warning("log level", old=old, new=log_level())
    return "200 OK", f"{old} {log_level()}"


def _metrics(environ: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    content_type, content = exposition(environ.get("HTTP_ACCEPT", ""))
    headers = {"Content-Type": content_type}
    if gzip_wish(environ.get("HTTP_ACCEPT_ENCODING", ""))[0]:
        # The fastest level: lines that are so much alike shrink to a thirtieth all the same.
        content = gzip.compress(content, 1)
        headers["Content-Encoding"] = "gzip"
    return headers, content
