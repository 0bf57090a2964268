"""Checks the caller before a request's body is read.

FastAPI reads and parses a body before it calls the dependencies of the endpoint: without a token a client could have a
process read megabytes and validate them, and would be counted by no limit.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from starlette.types import Scope

from plinth.api.dependencies import Bearer, check_permission
from plinth.http.routes import route_of

__all__ = ["check_caller"]


async def check_caller(scope: Scope) -> None:
    """Check the token, the limits and the permissions that the request's endpoint asks for.

    It is the `before_reading` of `BodyLimitMiddleware`. Endpoints that do not depend on a caller are not affected.

    Raises:
        AppException: as `plinth.api.dependencies.Bearer` and `require` do.
    """
    dependant = getattr(route_of(scope), "dependant", None)
    if dependant is None:
        return
    request = Request(scope)
    for bearer, permissions in _bearers(dependant, scope["app"].dependency_overrides):
        principal = await bearer(request)
        for permission in permissions:
            check_permission(request, principal, permission)


def _bearers(dependant: Dependant, overridden: Collection[Any]) -> Iterator[tuple[Bearer, Sequence[str]]]:
    """Each bearer dependency with its permissions, in the order in which FastAPI calls them."""
    if dependant.call in overridden:
        return
    if isinstance(dependant.call, Bearer):
        yield dependant.call, dependant.own_oauth_scopes or ()
    for dependency in dependant.dependencies:
        yield from _bearers(dependency, overridden)
