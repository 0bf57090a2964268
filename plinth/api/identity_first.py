"""Middleware that checks who calls before a request's body is read.

FastAPI reads and parses a body before it calls the dependencies of the endpoint: without a token a client could have a
process read megabytes and validate them, and would be counted by no limit.
"""

from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plinth.api.dependencies import Bearer
from plinth.errors import AppException
from plinth.http.error_handlers import app_exception_response

__all__ = ["IdentityFirstMiddleware"]


class IdentityFirstMiddleware:
    """Runs the bearer dependency of an endpoint, with its limits, when the endpoint's body is first asked for.

    Endpoints that do not depend on a caller are not affected.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        checked = False

        async def receive_after_check() -> Message:
            nonlocal checked
            if not checked:
                checked = True
                await _check(scope)
            return await receive()

        try:
            await self.app(scope, receive_after_check, send)
        except _Refused as refused:
            response = app_exception_response(refused.error)
            await response(scope, receive, send)


class _Refused(BaseException):
    # Not an Exception: FastAPI turns every Exception raised while it reads a body into a 400.
    def __init__(self, error: AppException) -> None:
        self.error = error


async def _check(scope: Scope) -> None:
    bearer = _bearer_of(_dependant(scope))
    if bearer is None or bearer in scope["app"].dependency_overrides:
        return
    try:
        await bearer(Request(scope))
    except AppException as error:
        raise _Refused(error) from None


def _dependant(scope: Scope) -> Dependant | None:
    # With the dependencies of the routers around it; `tests/plinth/integration/api/test_identity_first.py` checks the
    # installed version.
    route: Any = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    return getattr(route, "dependant", None)


def _bearer_of(dependant: Dependant | None) -> Bearer | None:
    if dependant is None:
        return None
    if isinstance(dependant.call, Bearer):
        return dependant.call
    return next(filter(None, map(_bearer_of, dependant.dependencies)), None)
