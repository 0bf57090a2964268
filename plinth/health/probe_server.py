"""The second port: probes, metrics and draining, served by threads, so that it answers when the event loop does not."""

import gzip
import io
import socket
import sys
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog

from plinth.telemetry.logging import log_level, set_log_level
from plinth.telemetry.metrics import exposition

__all__ = ["ProbeServer", "ProbeServerError"]

log = structlog.get_logger("plinth.probes")

POLL_SECONDS = 0.1  # between two looks at whether to stop


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Socketserver would print a traceback for each client that hangs up, or says nothing.
        log.debug("a client was not answered", error=repr(sys.exc_info()[1]))

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the DNS for its own name, and a start must not wait for that.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = 5  # seconds for a client to send its request

    def log_message(self, *args: Any) -> None:
        pass

    def get_stderr(self) -> Any:
        return io.StringIO()  # for tracebacks: what failed has been logged, and that a client is slow is no news


class ProbeServerError(Exception):
    """The second port cannot be served; the message says where and why."""


class ProbeServer:
    """Serves the second port of a process on `host`:`port`, in threads. 0: any free port.

    `/livez` and `/readyz` answer 200 or 503, by `alive` and `ready`; `/metrics` those of the process, in the form
    that the client asks for; `/log-level` tells and sets the level of the log; `/drain`, where there is a `drain`,
    answers when it has returned.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        alive: Callable[[], bool],
        ready: Callable[[], bool],
        drain: Callable[[], None] | None = None,
    ) -> None:
        self._address = host, port
        self._alive = alive
        self._ready = ready
        self._drain = drain

    def start(self) -> int:
        """Begin to serve; returns the port, and logs the address.

        Raises:
            ProbeServerError: the address is not ours, or is taken.
        """
        host, port = self._address
        shown = f"[{host}]" if ":" in host else host
        try:
            server = _Server6 if ":" in host else _Server
            self._server = make_server(host, port, self._serve, server, _Quiet)
        except OSError as error:
            raise ProbeServerError(f"Liveness and metrics cannot be served on {shown}:{port}: {error}") from error
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
            content = self._answer(environ, start_response)
            return content if environ["REQUEST_METHOD"] != "HEAD" else []
        except OSError:  # the client does not send what it has announced
            raise
        except Exception:
            log.exception("the second port has no answer", path=environ["PATH_INFO"])
            raise

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/livez":
                alive = self._alive()
                status, body = ("200 OK", "alive") if alive else ("503 Service Unavailable", "stuck")
                if not alive:
                    log.warning("the event loop is stuck")
            case "/readyz":
                status, body = ("200 OK", "ready") if self._ready() else ("503 Service Unavailable", "unavailable")
            case "/metrics":
                return _metrics(environ, start_response)
            case "/log-level":
                status, body = _log_level(environ)
            case "/drain" if self._drain is not None:
                self._drain()
                status, body = "200 OK", "drained"
            case _:
                status, body = "404 Not Found", "/livez, /readyz and /metrics are here"
        content = f"{body}\n".encode()
        start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))])
        return [content]


def _log_level(environ: dict[str, Any]) -> tuple[str, str]:
    """The level; with PUT and a level for a body, the old one and the new one.

    Only for whoever is on this machine, which in a pod means in this pod: it comes from an operator's terminal. Not for
    the rest of 127.0.0.0/8, where sidecars bring from what others send.
    """
    if environ["REQUEST_METHOD"] != "PUT":
        return "200 OK", log_level()
    if not _is_local(environ["REMOTE_ADDR"]):
        return "403 Forbidden", "the level is set from within the container alone"
    length = environ.get("CONTENT_LENGTH") or "0"
    level = environ["wsgi.input"].read(min(int(length), 32)).decode("latin-1") if length.isdecimal() else ""
    old = log_level()
    try:
        set_log_level(level.strip().upper())
    except ValueError as error:
        return "400 Bad Request", str(error)
    log.warning("log level", old=old, new=log_level())
    return "200 OK", f"{old} {log_level()}"


def _is_local(address: str) -> bool:
    remote = ip_address(address.partition("%")[0])
    return str(getattr(remote, "ipv4_mapped", None) or remote) in ("127.0.0.1", "::1")


def _metrics(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    content_type, content = exposition(environ.get("HTTP_ACCEPT", ""))
    headers = [("Content-Type", content_type)]
    if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
        # The fastest level: lines that are so much alike shrink to a thirtieth all the same.
        content = gzip.compress(content, 1)
        headers.append(("Content-Encoding", "gzip"))
    start_response("200 OK", [*headers, ("Content-Length", str(len(content)))])
    return [content]
