"""Middleware that refuses request bodies over a size, and has the caller checked before it reads one."""

from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plinth.errors import AppException, PayloadTooLargeError
from plinth.http.error_handlers import app_exception_response

__all__ = ["BodyLimitMiddleware"]


class BodyLimitMiddleware:
    """Refuses request bodies of more than `max_bytes`: counts the bytes received, with or without Content-Length.

    `before_reading` is called with the scope when a body is first asked for, after routing. The `AppException` that it
    raises is the response.
    """

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, before_reading: Callable[[Scope], Awaitable[None]] | None = None
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.before_reading = before_reading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] in ("GET", "HEAD", "OPTIONS") and not _has_body(scope)):
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        received = 0
        asked = False

        async def counting_receive() -> Message:
            nonlocal received, asked
            if not asked:
                asked = True
                await self._ask(scope)
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                if "response_started" in scope["state"]:  # too late for another answer: as if the client had left
                    return {"type": "http.disconnect"}
                raise _Refused(self._too_large())
            return message

        try:
            if announced.isdecimal() and int(announced) > self.max_bytes:
                raise _Refused(self._too_large())
            await self.app(scope, counting_receive, send)
        except _Refused as refused:
            await app_exception_response(refused.error)(scope, receive, send)

    async def _ask(self, scope: Scope) -> None:
        if self.before_reading is not None:
            try:
                await self.before_reading(scope)
            except AppException as error:
                raise _Refused(error) from None

    def _too_large(self) -> PayloadTooLargeError:
        error = PayloadTooLargeError(f"The request body may have at most {self.max_bytes} bytes.")
        error.headers["Connection"] = "close"  # the rest of the body is still on its way and is not read
        return error


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


class _Refused(BaseException):
    # Not an Exception: FastAPI turns every Exception raised while it reads a body into a 400.
    def __init__(self, error: AppException) -> None:
        self.error = error
