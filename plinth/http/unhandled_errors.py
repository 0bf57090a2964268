"""Middleware that answers 500 to unhandled exceptions, or ends a WebSocket."""

from starlette.requests import ClientDisconnect
from starlette.status import WS_1011_INTERNAL_ERROR
from starlette.types import ASGIApp, Receive, Scope, Send

from plinth.http.error_handlers import problem_response
from plinth.http.request_context import log
from plinth.telemetry.tracing import MAX_PATH

__all__ = ["UnhandledErrorMiddleware"]


class UnhandledErrorMiddleware:
    """Logs an unhandled exception once, with its traceback, and answers 500 without any detail of it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            pass  # while its body was read: the access line says so, and nothing can be answered
        except Exception:
            if scope["type"] == "lifespan":
                raise
            log.exception("unhandled exception", method=scope.get("method", "GET"), path=scope["path"][:MAX_PATH])
            if "response_started" in scope["state"]:
                if scope["type"] == "http":  # the server cuts the connection
                    raise
                await send({"type": "websocket.close", "code": WS_1011_INTERNAL_ERROR})
                return
            await problem_response(500, code="internal_error", detail=None)(scope, receive, send)
