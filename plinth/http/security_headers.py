"""Middleware that adds security headers to every response."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plinth.http.routes import path_of

__all__ = ["SecurityHeadersMiddleware"]


class SecurityHeadersMiddleware:
    """Adds headers that forbid browsers to sniff, frame, leak or cache the responses of an API.

    A header that the endpoint has set is kept. `docs_paths` get no content security policy, so that the interactive
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
        headers = self._docs_headers if path_of(scope) in self.docs_paths else self._api_headers

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = message.get("headers", ())
                names = {name for name, _ in given}
                message["headers"] = [*given, *[header for header in headers if header[0] not in names]]
            await send(message)

        await self.app(scope, receive, send_with_headers)
