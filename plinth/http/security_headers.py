"""Middleware that adds security headers to every response."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["SecurityHeadersMiddleware"]


class SecurityHeadersMiddleware:
    """Adds headers that forbid browsers to sniff, frame, leak or cache the responses of an API.

    A header that the endpoint has set is kept: a page with scripts has a content security policy of its own.
    """

    _ALWAYS: tuple[tuple[bytes, bytes], ...] = (
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
        (b"cache-control", b"no-store"),
    )
    _HSTS = ((b"strict-transport-security", b"max-age=31536000; includeSubDomains"),)

    def __init__(self, app: ASGIApp, *, hsts: bool) -> None:
        self.app = app
        self._headers = self._ALWAYS + (self._HSTS if hsts else ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = message.get("headers", ())
                names = {name for name, _ in given}
                message["headers"] = [*given, *[header for header in self._headers if header[0] not in names]]
            await send(message)

        await self.app(scope, receive, send_with_headers)
