"""Which route a request took, by its template: what metrics, spans and access lines may name of a path.

FastAPI tells the telemetry of its own what it has selected, step by step, mounts and nested routers included; nothing
else in a scope does so (`scope["route"].path` lacks the outer prefixes, `root_path` holds values of parameters). While
FastAPI's telemetry is off, something of the same form listens in its place. The names are FastAPI's private ones;
`tests/plinth/unit/telemetry/test_route_template.py` holds the installed version to them.
"""

from fastapi.telemetry._api import _RequestTelemetry
from starlette.types import Scope

__all__ = ["UNMATCHED", "route_template", "watch_route"]

UNMATCHED = "unmatched"
"""Stands for every request that no route took: an unknown path, or an answer that a middleware gave before routing."""

_KEY = "fastapi.telemetry"


def watch_route(scope: Scope) -> None:
    """Have the route noted that this request takes. For middleware: before the application. Again: nothing happens."""
    if scope.get(_KEY) is None:
        root = scope.get("app_root_path", scope.get("root_path", "")).rstrip("/")
        scope[_KEY] = _RequestTelemetry(span=None, span_method="", data=None, _mount_prefix=root)


def route_template(scope: Scope) -> str:
    """The template with its full prefix, such as `/api/v1/items/{item_id}`, or `UNMATCHED`. Ask after the application.

    A path within a mount that the mounted application does not tell more of is the mount's, `/static/{path}`. A method
    that a route does not have is still the route's.
    """
    noted = scope.get(_KEY)
    return UNMATCHED if noted is None else noted.route or UNMATCHED
