"""Middleware that answers 500 to unhandled exceptions."""

from starlette.requests import ClientDisconnect
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
            if scope["type"] != "http":
                raise
            log.exception("unhandled exception", method=scope["method"], path=scope["path"][:MAX_PATH])
            if "response_started" in scope["state"]:  # the server cuts the connection
                raise
            await problem_response(500, code="internal_error", detail=None)(scope, receive, send)
