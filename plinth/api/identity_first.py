"""Checks the caller before a request's body is read.

FastAPI reads and parses a body before it calls the dependencies of the endpoint: without a token a client could have a
process read megabytes and validate them, and would be counted by no limit.
"""

from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from starlette.types import Scope

from plinth.api.dependencies import Bearer

__all__ = ["check_caller"]


async def check_caller(scope: Scope) -> None:
    """Run the bearer dependency of the request's endpoint, with its limits. `before_reading` of `BodyLimitMiddleware`.

    Endpoints that do not depend on a caller are not affected.

    Raises:
        AppException: as `plinth.api.dependencies.Bearer` does.
    """
    bearer = _bearer_of(_dependant(scope))
    if bearer is not None and bearer not in scope["app"].dependency_overrides:
        await bearer(Request(scope))


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
