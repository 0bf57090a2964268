"""Middleware that refuses request bodies over a size."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plinth.errors import PayloadTooLargeError
from plinth.http.error_handlers import problem_response

__all__ = ["BodyLimitMiddleware"]


class BodyLimitMiddleware:
    """Refuses request bodies of more than `max_bytes`: counts the bytes received, with or without Content-Length."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        received = 0

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise _BodyTooLargeError
            return message

        try:
            if announced.isdecimal() and int(announced) > self.max_bytes:
                raise _BodyTooLargeError
            await self.app(scope, counting_receive, send)
        except _BodyTooLargeError:
            if "response_started" in scope["state"]:
                raise
            response = problem_response(
                PayloadTooLargeError.status,
                code=PayloadTooLargeError.code,
                detail=f"The request body may have at most {self.max_bytes} bytes.",
                # The rest of the body is still on its way and is not read.
                headers={"Connection": "close"},
            )
            await response(scope, receive, send)


class _BodyTooLargeError(BaseException):
    # Not an Exception: FastAPI turns every Exception raised while it reads a body into a 400.
    pass
