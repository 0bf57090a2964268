"""What FastAPI's router knows of a request: its route, and the methods of its path, HEAD among them."""

from collections.abc import Sequence
from typing import Any

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute
from starlette.types import Scope

__all__ = ["as_get", "methods_of", "path_of", "route_of", "templates_of"]


def path_of(scope: Scope) -> str:
    """The path of a request as routes declare it, without the `root_path` that a proxy has taken off."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def route_of(scope: Scope) -> Any:
    """The route of a request that has been routed, with what the routers around it add; None where there is none.

    `tests/plinth/integration/api/test_identity_first.py` checks the installed version of FastAPI.
    """
    return scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")


def templates_of(routes: Sequence[BaseRoute]) -> set[str]:
    """The templates of all routes, with their full prefix. Mounted applications are left out."""
    return {route.path_format for route in iter_route_contexts(routes) if route.methods and route.path_format}


def methods_of(scope: Scope) -> set[str]:
    """The methods of all routes of a request's path. Starlette's own answer names those of the first alone.

    HEAD is among them wherever GET is.
    """
    methods = _declared_methods(scope)
    return methods | {"HEAD"} if "GET" in methods else methods


def as_get(scope: Scope) -> Scope:
    """The scope of a HEAD request as that of a GET, unless a route of its path declares HEAD.

    FastAPI, unlike Starlette, has HEAD only where an endpoint declares it; RFC 9110 requires it wherever GET is.
    """
    return scope if "app" not in scope or "HEAD" in _declared_methods(scope) else {**scope, "method": "GET"}


def _declared_methods(scope: Scope) -> set[str]:
    path = path_of(scope)
    methods: set[str] = set()
    for route in iter_route_contexts(scope["app"].routes):
        if route.methods and route.path_regex.match(path):
            methods |= route.methods
    return methods
