"""Compression for clients that accept it."""

from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware, GZipResponder
from starlette.types import ASGIApp, Receive, Scope, Send

from plinth.accept_encoding import gzip_wish

__all__ = ["GZipAcceptedMiddleware"]

# A body, or a part of a stream, of this size or more is compressed in a thread: 64 KiB of JSON take 0.3 to 1 ms, in
# which no other request is served. The way to a thread takes 0.05.
THREAD_BYTES = 64 * 1024


class GZipAcceptedMiddleware(GZipMiddleware):
    """Starlette's GZipMiddleware, for clients that want gzip by the weights of `Accept-Encoding`.

    Other clients' responses have no `Vary: Accept-Encoding` either; no shared cache may keep a response of this API
    anyway. A client that accepts nothing but gzip gets small bodies compressed too.
    """

    def __init__(
        self,
        app: ASGIApp,
        minimum_size: int = 500,
        compresslevel: int = 9,
        thread_minimum_size: int = THREAD_BYTES,
        *,
        exclude_content_types: tuple[str, ...] = DEFAULT_EXCLUDED_CONTENT_TYPES,
    ) -> None:
        super().__init__(
            app, minimum_size, compresslevel, thread_minimum_size, exclude_content_types=exclude_content_types
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = [value for name, value in scope.get("headers", ()) if name == b"accept-encoding"]
        if not accepted or scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        wants_gzip, wants_nothing_else = gzip_wish(b",".join(accepted).decode("latin-1"))
        if not wants_gzip:
            await self.app(scope, receive, send)
            return
        responder = GZipResponder(
            self.app,
            1 if wants_nothing_else else self.minimum_size,  # an empty body stays empty
            self.compresslevel,
            thread_minimum_size=self.thread_minimum_size,
            exclude_content_types=self.exclude_content_types,
        )
        await responder(scope, receive, send)
