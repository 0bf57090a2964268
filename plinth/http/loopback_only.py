"""Middleware of a service whose key is known: it serves this machine alone."""

import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from plinth.http.error_handlers import problem_response
from plinth.settings.urls import is_loopback_host

__all__ = ["LoopbackOnlyMiddleware"]

_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[0-9a-z.-]+))(?::[0-9]*)?", re.IGNORECASE | re.ASCII)


class LoopbackOnlyMiddleware:
    """Answers 421 to requests that are not of this machine, by their addresses or by the name in `Host`.

    A request between two loopback addresses, or over a unix socket, is of this machine. The client's address is the one
    that a trusted proxy gives. A web page can have its own name point at 127.0.0.1 (DNS rebinding); the browser then
    sends that name.
    """

    def __init__(self, app: ASGIApp, *, known_keys: Iterable[str]) -> None:
        """`known_keys`: the settings that others can know, for the detail of the answer."""
        self.app = app
        self._detail = (
            f"Others can know the key in {' and in '.join(known_keys)}, so this service answers to this machine alone, "
            "by the name localhost or a loopback address. Set a key of your own."
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or (_stays_here(scope) and _names_loopback(scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # before it is accepted: the server answers 403
        else:
            response = problem_response(421, code="misdirected_request", detail=self._detail)
            await response(scope, receive, send)


def _stays_here(scope: Scope) -> bool:
    server, client = scope.get("server"), scope.get("client")
    if server is None or server[1] is None:  # a unix socket
        return True
    return is_loopback_host(server[0]) and client is not None and is_loopback_host(client[0])


def _names_loopback(scope: Scope) -> bool:
    found = _HOST.fullmatch(Headers(scope=scope).get("host", ""))
    return found is not None and is_loopback_host(found["ipv6"] or found["name"].removesuffix("."))
