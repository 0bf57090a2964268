"""What happens to every request, as pure ASGI: a few microseconds each, no task, no copied body."""

import re
from os import urandom
from time import perf_counter

import structlog
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.exceptions import PayloadTooLargeError, problem_response
from app.core.lifecycle import Lifecycle
from app.core.logging import request_id_var

__all__ = [
    "BodyLimitMiddleware",
    "GZipAcceptedMiddleware",
    "ProblemCORSMiddleware",
    "RequestContextMiddleware",
    "SecurityHeadersMiddleware",
    "UnhandledErrorMiddleware",
]

log = structlog.get_logger("app.access")

# Somebody else's id goes into our logs and headers: keep its length and its characters harmless.
_ACCEPTABLE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._\-]{8,128}")


class RequestContextMiddleware:
    """Gives the request its id and writes its access line. The outermost middleware.

    The id (`X-Request-ID`, the client's own if it is well formed) is in `scope["state"]["request_id"]`, in every
    log line of the request and in the response. Response headers that other parts want to add are collected in
    `scope["state"]["response_headers"]`. Successes on `quiet_paths` are not logged: probes come every second.
    Once the process drains, each response ends its connection.
    """

    def __init__(
        self, app: ASGIApp, *, lifecycle: Lifecycle | None = None, quiet_paths: frozenset[str] = frozenset()
    ) -> None:
        self.app = app
        self.lifecycle = lifecycle or Lifecycle(drain_seconds=0)
        self.quiet_paths = quiet_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        request_id = _inbound_id(scope) or urandom(16).hex()
        extra_headers: list[tuple[bytes, bytes]] = [(b"x-request-id", request_id.encode())]
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["response_headers"] = extra_headers
        token = request_id_var.set(request_id)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.lifecycle.draining:
                    extra_headers.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", ()), *extra_headers]
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            if status >= 400 or scope["path"] not in self.quiet_paths:
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    duration_ms=round((perf_counter() - started) * 1000, 2),
                    client=(scope.get("client") or ("",))[0],
                )
            request_id_var.reset(token)


class UnhandledErrorMiddleware:
    """Logs what nobody foresaw, once and with its traceback, and answers 500 with nothing of it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response_started = False

        async def watching_send(message: Message) -> None:
            nonlocal response_started
            response_started = True
            await send(message)

        try:
            await self.app(scope, receive, watching_send)
        except Exception:
            if scope["type"] != "http":
                raise
            log.exception("unhandled exception", method=scope["method"], path=scope["path"])
            if response_started:  # too late for another answer: the server cuts the connection
                raise
            request_id = scope["state"]["request_id"]
            response = problem_response(500, code="internal_error", detail=None, request_id=request_id)
            await response(scope, receive, send)


class ProblemCORSMiddleware(CORSMiddleware):
    """Starlette's CORS, whose one error (a preflight refused) is a problem document too."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        headers = {k: v for k, v in response.headers.items() if not k.startswith("content-")}
        detail = bytes(response.body).decode()
        return problem_response(
            response.status_code,
            code="cors_refused",
            detail=detail,
            request_id=request_id_var.get() or "",
            headers=headers,
        )


def _inbound_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode() if _ACCEPTABLE_REQUEST_ID.fullmatch(value) else None
    return None


class SecurityHeadersMiddleware:
    """Adds the headers that tell browsers not to guess, frame, leak or cache what an API answers.

    A header that the endpoint has set itself stays. `docs_paths` get a policy under which the interactive
    documentation can load its scripts.
    """

    _ALWAYS: tuple[tuple[bytes, bytes], ...] = (
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
    )
    _API: tuple[tuple[bytes, bytes], ...] = (
        (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
        (b"cache-control", b"no-store"),
    )

    def __init__(self, app: ASGIApp, *, hsts: bool, docs_paths: frozenset[str] = frozenset()) -> None:
        self.app = app
        self.docs_paths = docs_paths
        hsts_header = ((b"strict-transport-security", b"max-age=31536000; includeSubDomains"),) if hsts else ()
        self._docs_headers = self._ALWAYS + hsts_header
        self._api_headers = self._docs_headers + self._API

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = self._docs_headers if scope["path"] in self.docs_paths else self._api_headers

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message.get("headers", ())}
                message["headers"] = [
                    *message.get("headers", ()),
                    *(header for header in headers if header[0] not in given),
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)


class GZipAcceptedMiddleware(GZipMiddleware):
    """Starlette's gzip, out of the way of those who do not accept it.

    They get no `Vary: Accept-Encoding` either: nothing here may be kept by a cache that more than one client uses.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if any(name == b"accept-encoding" and b"gzip" in value for name, value in scope.get("headers", ())):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class BodyLimitMiddleware:
    """Refuses request bodies of more than `max_bytes`, counting what arrives and not what was announced."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self.max_bytes:
            await self._refuse(scope, receive, send)
            return
        received = 0
        response_started = False

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise _BodyTooLargeError
            return message

        async def watching_send(message: Message) -> None:
            nonlocal response_started
            response_started = True
            await send(message)

        try:
            await self.app(scope, counting_receive, watching_send)
        except _BodyTooLargeError:
            if response_started:
                raise
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = PayloadTooLargeError(f"The request body may have at most {self.max_bytes} bytes.")
        response = problem_response(
            error.status,
            code=error.code,
            detail=error.detail,
            request_id=scope["state"]["request_id"],
            # The rest of the body is still on its way; nobody will read it.
            headers={"Connection": "close"},
        )
        await response(scope, receive, send)


class _BodyTooLargeError(BaseException):
    # Not an Exception: FastAPI answers 400 to every Exception that reading a body raises.
    pass
