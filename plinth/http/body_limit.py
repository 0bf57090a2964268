"""Middleware that refuses request bodies: too large, not JSON, or of a caller that is not allowed."""

from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plinth.errors import AppException, PayloadTooLargeError, UnsupportedMediaTypeError
from plinth.http.error_handlers import app_exception_response
from plinth.http.json_body import check_json, is_json, takes_json

__all__ = ["BodyLimitMiddleware"]


class BodyLimitMiddleware:
    """Refuses request bodies of more than `max_bytes`: counts the bytes received, with or without Content-Length.

    A body that is JSON by its type is checked by `check_json`. A body of any other type is refused where the endpoint
    takes JSON.

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
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "")
        received = 0
        asked = False
        json: list[bytes] | None = None  # what has been received of it

        async def counting_receive() -> Message:
            nonlocal received, asked, json
            if not asked:
                asked = True
                await self._ask(scope)
            message = await receive()
            part = message.get("body", b"")
            try:
                if received == 0 and part:
                    json = _begin_json(scope, headers.get("content-type", ""))
                received += len(part)
                if received > self.max_bytes:
                    raise self._too_large()
                if json is not None:
                    json.append(part)
                    if message["type"] == "http.request" and not message.get("more_body", False):
                        check_json(b"".join(json))
                        json = None
            except AppException as error:
                if "response_started" in scope["state"]:  # too late for another answer: as if the client had left
                    return {"type": "http.disconnect"}
                raise _Refused(error) from None
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


def _begin_json(scope: Scope, content_type: str) -> list[bytes] | None:
    """A list for the parts of a body that is JSON; None for another one."""
    if is_json(content_type):
        return []
    if takes_json(scope):
        raise UnsupportedMediaTypeError("This takes JSON: Content-Type: application/json.")
    return None


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


class _Refused(BaseException):
    # Not an Exception: FastAPI turns every Exception raised while it reads a body into a 400.
    def __init__(self, error: AppException) -> None:
        self.error = error
