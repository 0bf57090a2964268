"""Compression for clients that accept it."""

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send

__all__ = ["GZipAcceptedMiddleware"]


class GZipAcceptedMiddleware(GZipMiddleware):
    """Starlette's gzip, out of the way of those who do not accept it.

    They get no `Vary: Accept-Encoding` either: nothing here may be kept by a cache that more than one client uses.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if any(name == b"accept-encoding" and b"gzip" in value for name, value in scope.get("headers", ())):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)
