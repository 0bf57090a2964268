"""Compression for clients that accept it."""

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send

__all__ = ["GZipAcceptedMiddleware"]


class GZipAcceptedMiddleware(GZipMiddleware):
    """Starlette's GZipMiddleware, skipped for clients that do not accept gzip.

    Their responses have no `Vary: Accept-Encoding` either; no shared cache may keep a response of this API anyway.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if any(name == b"accept-encoding" and b"gzip" in value for name, value in scope.get("headers", ())):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)
