"""WebSockets: how many a process has, how long each lasts, and by which code it ends.

A handshake that is refused gets the response that a request would get. Later an error ends the WebSocket with the code
4000 and the error's status: `plinth.http.error_handlers`.
"""

import asyncio
from collections.abc import Callable, Hashable
from contextlib import suppress
from time import time

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from plinth.errors import AppException, ConcurrencyLimitError, RateLimitError, ServiceUnavailableError
from plinth.http.error_handlers import CLOSE_BY_STATUS, app_exception_response, problem_response
from plinth.http.rate_limit import count_address

__all__ = ["BEARER", "WebSocketConnection", "WebSockets", "admit"]

# A process has so many, and so many of one caller: each holds a connection, and none of the database.
MAX_OPEN = 500
MAX_OPEN_EACH = 50
RETRY_AFTER_SECONDS = 5
# Then the client connects again and its token is checked again: a key that was revoked opens nothing more.
LIFETIME_SECONDS = 900.0

BEARER = "bearer"
"""The subprotocol before a token: a browser can send no header but `Sec-WebSocket-Protocol`."""

# Close codes of RFC 6455, 7.4, and of IANA's registry.
NORMAL, NO_CODE, ABNORMAL, SERVICE_RESTART = 1000, 1005, 1006, 1012
EXPIRED = CLOSE_BY_STATUS + 401

SWITCHED = 101
"""The status of a handshake that was accepted."""
CUT_OFF = 499
"""The status of one whose client left before it was answered, as of requests."""


class WebSockets:
    """The WebSockets of a process."""

    def __init__(self) -> None:
        self._open: set[WebSocketConnection] = set()

    def add(self, connection: "WebSocketConnection") -> None:
        """Count a WebSocket that begins.

        Raises:
            ServiceUnavailableError: there are too many.
        """
        if len(self._open) >= MAX_OPEN:
            raise ServiceUnavailableError(
                "Too many WebSockets are open here.", code="too_many_websockets", retry_after=RETRY_AFTER_SECONDS
            )
        self._open.add(connection)

    def remove(self, connection: "WebSocketConnection") -> None:
        """Forget a WebSocket that has ended."""
        self._open.discard(connection)

    def check(self, caller: Hashable) -> None:
        """Check that a caller may have one more WebSocket.

        Raises:
            ConcurrencyLimitError: it has as many as it may have.
        """
        if sum(connection.caller == caller for connection in self._open) >= MAX_OPEN_EACH:
            raise ConcurrencyLimitError(RETRY_AFTER_SECONDS, f"You have {MAX_OPEN_EACH} WebSockets open here already.")

    def end_all(self) -> None:
        """End all WebSockets with the code for clients to connect again. Call it on the event loop."""
        for connection in self._open:
            connection.end(SERVICE_RESTART, "connect again")


def admit(scope: Scope, caller: Hashable, expires_at: float) -> None:
    """Give a WebSocket to a caller, and end it when the token expires.

    Raises:
        ConcurrencyLimitError: as `WebSockets.check` does.
    """
    state = scope["state"]
    state["websockets"].check(caller)
    connection: WebSocketConnection = state["websocket"]
    connection.caller = caller
    connection.end_in(expires_at - time(), EXPIRED, "token_expired")


class WebSocketConnection:
    """One WebSocket, between the server and the application.

    `answered` is called with the status of the handshake. `status`, `code` (of the end) and the numbers of messages are
    for the access line.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, answered: Callable[[int], None]) -> None:
        self.caller: Hashable = None
        self.status = self.code = self.received = self.sent = 0
        self._scope = scope
        self._receive = receive
        self._send = send
        self._answered = answered
        self._timers: list[asyncio.TimerHandle] = []
        self._ending: asyncio.Task[None] | None = None

    async def serve(self, app: ASGIApp, open_ones: WebSockets) -> None:
        """Run the application; an endpoint that returns ends the WebSocket."""
        try:
            open_ones.add(self)
        except ServiceUnavailableError as error:
            with suppress(WebSocketDisconnect):
                await self._refuse(error)
            return
        try:
            await app(self._scope, self.receive, self.send)
        finally:
            open_ones.remove(self)
            for timer in self._timers:
                timer.cancel()
        if self.status == SWITCHED:
            await self._close(NORMAL, "")
        if self._ending is not None:
            await self._ending

    def end_in(self, seconds: float, code: int, reason: str) -> None:
        """End it after some seconds, if it lasts that long."""
        if seconds < LIFETIME_SECONDS:
            self._timers.append(asyncio.get_running_loop().call_later(max(0.0, seconds), self.end, code, reason))

    def end(self, code: int, reason: str) -> None:
        """End it now: the endpoint's next message, either way, raises WebSocketDisconnect."""
        if self.status == SWITCHED and self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._close(code, reason))

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.receive":
            self.received += 1
        elif message["type"] == "websocket.disconnect":
            self.code = self.code or message.get("code") or NO_CODE
        return message

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "websocket.accept":
                await self._answer(self._accepted(message), SWITCHED)
                self._scope["state"]["response_started"] = True
                loop = asyncio.get_running_loop()
                self._timers.append(loop.call_later(LIFETIME_SECONDS, self.end, SERVICE_RESTART, "connect again"))
            case "websocket.http.response.start":
                headers = [*message.get("headers", ()), *self._scope["state"]["response_headers"]]
                await self._answer({**message, "headers": headers}, message["status"])
            case "websocket.close" if not self.status and "endpoint" not in self._scope:
                await self._refuse_unknown_path()
            case "websocket.close" if not self.status:
                await self._answer(message, 403)  # the server's own for it
            case "websocket.close":
                await self._close(message.get("code", NORMAL), message.get("reason") or "")
            case "websocket.send" if self.code:
                raise ConnectionResetError  # Starlette makes WebSocketDisconnect of it
            case kind:
                await self._send(message)
                self.sent += kind == "websocket.send"

    def _accepted(self, message: Message) -> Message:
        subprotocol = message.get("subprotocol")
        if subprotocol is None and BEARER in self._scope.get("subprotocols", ()):
            subprotocol = BEARER  # a browser ends a connection that answers none of those which it has offered
        headers = [*message.get("headers", ()), *self._scope["state"]["response_headers"]]
        return {**message, "subprotocol": subprotocol, "headers": headers}

    async def _answer(self, message: Message, status: int) -> None:
        try:
            await self._send(message)
        except OSError:
            status = CUT_OFF
            raise WebSocketDisconnect(ABNORMAL) from None
        finally:
            self.status = status
            self._answered(status)

    async def _close(self, code: int, reason: str) -> None:
        if not self.code:
            self.code = code
            with suppress(OSError):  # the client has left
                await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _refuse(self, error: AppException) -> None:
        await app_exception_response(error)(self._scope, self._receive, self.send)

    async def _refuse_unknown_path(self) -> None:
        # Counted as a request for such a path is.
        try:
            await count_address(HTTPConnection(self._scope), self._scope["state"].get("anonymous_rate_limiter"))
        except RateLimitError as limited:
            await self._refuse(limited)
        else:
            await problem_response(404, code="not_found", detail=None)(self._scope, self._receive, self.send)
