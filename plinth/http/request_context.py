"""The middleware that identifies, traces, counts and logs every request: pure ASGI, no task, no copied body."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from os import urandom
from random import random
from time import perf_counter
from typing import Any

import structlog
from opentelemetry.context import attach, detach
from opentelemetry.trace import format_trace_id
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plinth.health.lifecycle import Lifecycle
from plinth.http.addresses import network_check
from plinth.http.caller_limit import give_up_place
from plinth.http.routes import as_get, path_of
from plinth.http.websockets import WebSocketConnection, WebSockets
from plinth.telemetry.http_metrics import HTTP, HttpMetrics
from plinth.telemetry.log_profiles import ACCESS_MESSAGE, WEBSOCKET_MESSAGE
from plinth.telemetry.log_records import request_id_var
from plinth.telemetry.propagation import active
from plinth.telemetry.redaction import redact_text
from plinth.telemetry.route_template import UNMATCHED, route_template, watch_route
from plinth.telemetry.tracing import MAX_PATH, begin_request, end_request

__all__ = [
    "RequestContextMiddleware",
    "principal_hash",
]

log = structlog.get_logger("plinth.access")

CUT_OFF = 499
"""The status of a request that was cancelled or whose client left before a response began."""

# The client's own id goes into our logs and headers: its length and characters must be harmless.
_ACCEPTABLE_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{8,128}")


class RequestContextMiddleware:
    """Gives each request an id and a span, counts it and writes its access line.

    It is the outermost middleware, so that it sees the responses of all others. It is one class: each further one
    costs every message another call.

    The id (`X-Request-ID`: the client's own if it is well formed) is in `scope["state"]["request_id"]`, on every log
    line of the request and in the response. The header `traceresponse` names the trace, where there is one. Response
    headers of other parts are collected in `scope["state"]["response_headers"]`; the authenticated caller is in
    `scope["state"]["principal"]`; `response_started` is there once it is too late for another response. While the
    process drains, each response closes its connection. A request's place among those of its caller is given up.

    Requests for `quiet_paths`, the probes', are neither counted nor traced, and logged only when they fail. Of other
    successes a share of `access_sample` is logged, and all that took `slow_seconds` or longer or whose trace is
    recorded. A response that an error has cut short counts as a failure, whatever status it began with. Callers are
    logged as a hash with `hash_key`.

    A HEAD request is answered as a GET, without the body: a stream ends with its headers.

    A WebSocket has an id too, is counted by its handshake, and writes a line when it has ended.

    `trace_callers` are the addresses and networks of clients whose trace is continued (`*`: any). All others begin a
    trace of their own.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        lifecycle: Lifecycle | None = None,
        quiet_paths: frozenset[str] = frozenset(),
        access_sample: float = 1.0,
        slow_seconds: float = 1.0,
        hash_key: bytes = b"",
        trace_callers: Sequence[str] = (),
        metrics: HttpMetrics = HTTP,
    ) -> None:
        self.app = app
        self.lifecycle = lifecycle or Lifecycle(drain_seconds=0)
        self.quiet_paths = quiet_paths
        self.access_sample = access_sample
        self.slow_seconds = slow_seconds
        self.hash_of = principal_hash(hash_key)
        self.is_trusted = network_check(trace_callers)
        self.metrics = metrics
        self.log = log.bind()  # looked up once: that is 1% of a request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        propagation = active()
        given = _headers(scope, propagation.read)
        request_id = _inbound_id(given) or urandom(16).hex()
        extra_headers: list[tuple[bytes, bytes]] = [(b"x-request-id", request_id.encode())]
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["response_headers"] = extra_headers
        watch_route(scope)
        inner = scope
        if scope["method"] == "HEAD":
            inner, send = as_get(scope), _without_body(send)
        lifecycle = self.lifecycle
        quiet = path_of(scope) in self.quiet_paths
        trusted = not propagation.read.isdisjoint(given) and self.is_trusted(scope.get("client"))
        trace = None if quiet else begin_request(scope, given, trusted=trusted)
        if trace is not None:
            if trace.response:
                extra_headers.append((b"traceresponse", trace.response))
            trace_token = attach(trace.context)
        id_token = request_id_var.set(request_id)
        status = received = sent = 0
        ended = 0.0
        left = False
        error: BaseException | None = None

        async def watching_receive() -> Message:
            nonlocal received, status, left
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
            else:
                left = True
                status = status or CUT_OFF  # whatever is still sent goes nowhere
            return message

        async def watching_send(message: Message) -> None:
            nonlocal sent, status, ended
            kind = message["type"]
            if kind == "http.response.body":
                await send(message)
                sent += len(message.get("body", b""))
                if not message.get("more_body", False):
                    ended = perf_counter()
            elif kind == "http.response.start":
                if lifecycle.draining:
                    extra_headers.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", ()), *extra_headers]
                state["response_started"] = True
                await send(message)
                status = status or message["status"]
            else:
                await send(message)

        if not quiet:
            method = self.metrics.begin(scope["method"])
        try:
            await self.app(inner, watching_receive, watching_send)
        except BaseException as raised:
            error = raised
            raise
        finally:
            give_up_place(scope)
            seconds = (ended or perf_counter()) - started
            if status == 0 and isinstance(error, Exception):
                status = 500  # which the server answers
            if scope["method"] == "HEAD":
                sent = 0  # the server keeps the body
            broken = error is not None and not ended and not left
            route = route_template(scope)
            recorded = trace.span if trace is not None and trace.span.is_recording() else None
            if not quiet:
                trace_id = None if recorded is None else format_trace_id(recorded.get_span_context().trace_id)
                self.metrics.end(method, route, status or CUT_OFF, seconds, received, sent, trace_id, broken)
            if recorded is not None:
                end_request(recorded, scope, route=None if route == UNMATCHED else route, status=status, error=error)
            remarkable = broken or not 0 < status < 400 or seconds >= self.slow_seconds
            sampled = not quiet and (recorded is not None or self.access_sample == 1 or random() < self.access_sample)  # noqa: S311
            if remarkable or sampled:
                line: dict[str, Any] = {
                    "method": scope["method"],
                    "route": route,
                    "path": scope["path"][:MAX_PATH],
                    "status": status or CUT_OFF,
                    "duration_ms": round(seconds * 1000, 2),
                    "request_bytes": _announced_length(given),
                    "response_bytes": sent,
                    "client": (scope.get("client") or ("",))[0],
                }
                if broken:
                    line["error"] = type(error).__qualname__
                if "principal" in state:
                    line["principal"] = self.hash_of(state["principal"].key)
                write = self.log.error if broken or status >= 500 else self.log.info
                write(ACCESS_MESSAGE, **line)
            request_id_var.reset(id_token)
            if trace is not None:
                detach(trace_token)
            error = None  # it holds this frame, which would hold it

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        request_id = _inbound_id(_headers(scope, frozenset())) or urandom(16).hex()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["response_headers"] = [(b"x-request-id", request_id.encode())]
        watch_route(scope)
        method = self.metrics.begin("GET")

        def answered(status: int) -> None:
            # Counted by its handshake: how long it lasts is no latency.
            self.metrics.end(method, route_template(scope), status, perf_counter() - started, 0, 0, None)

        connection = state["websocket"] = WebSocketConnection(scope, receive, send, answered)
        id_token = request_id_var.set(request_id)
        try:
            await connection.serve(self.app, state.get("websockets") or WebSockets())
        finally:
            if connection.status == 0:
                answered(500)
            line: dict[str, Any] = {
                "route": route_template(scope),
                "path": scope["path"][:MAX_PATH],
                "status": connection.status or 500,
                "duration_ms": round((perf_counter() - started) * 1000, 2),
                "messages_received": connection.received,
                "messages_sent": connection.sent,
                "client": (scope.get("client") or ("",))[0],
            }
            if connection.code:
                line["close_code"] = connection.code
            if "principal" in state:
                line["principal"] = self.hash_of(state["principal"].key)
            self.log.info(WEBSOCKET_MESSAGE, **line)
            request_id_var.reset(id_token)


def _without_body(send: Send) -> Send:
    """A `send` that ends the response behind its headers."""

    async def send_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body"})

    return send_headers


_READ = frozenset({b"x-request-id", b"content-length", b"transfer-encoding"})
_LISTS = frozenset({b"tracestate", b"baggage"})


def _headers(scope: Scope, of_traces: frozenset[bytes]) -> dict[bytes, str]:
    """The request's headers that the middleware reads: its own, and those that carry traces."""
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in _READ or name in of_traces:
            if name not in found:
                found[name] = value.decode("latin-1")
            elif name in _LISTS:  # which may be spread over several lines
                found[name] += f",{value.decode('latin-1')}"
            elif name in of_traces:  # two cannot both be true
                found[name] = ""
    return found


def _inbound_id(given: dict[bytes, str]) -> str | None:
    theirs = given.get(b"x-request-id")
    if theirs is None or not _ACCEPTABLE_REQUEST_ID.fullmatch(theirs):
        return None
    # Nor may it be an API key or a token, which have such characters: an id is on log lines and in the audit log.
    return theirs if redact_text(theirs) == theirs else None


def _announced_length(given: dict[bytes, str]) -> int | None:
    """The announced size of the request's body. None: it comes in chunks."""
    if b"transfer-encoding" in given:
        return None
    length = given.get(b"content-length", "0")
    return int(length) if length.isdecimal() and len(length) < 20 else None


def principal_hash(key: bytes) -> Callable[[str], str]:
    """Make the function that hashes a caller's `key` for access lines, to 16 hexadecimal digits."""

    @lru_cache(maxsize=4096)
    def hash_of(caller: str) -> str:
        return blake2b(caller.encode(), key=key, digest_size=8).hexdigest()

    return hash_of
