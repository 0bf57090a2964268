"""The template of the route that a request took, for metrics, spans and access lines.

FastAPI reports the route to its own telemetry, mounts and nested routers included. Nothing public in a scope holds it:
`scope["route"].path` lacks the outer prefixes, `root_path` holds values of parameters. While FastAPI's telemetry is
off, an object of its private class takes the reports; `tests/plinth/unit/telemetry/test_route_template.py` checks the
installed version.
"""

from fastapi.telemetry._api import _RequestTelemetry
from starlette.types import Scope

__all__ = ["UNMATCHED", "route_template", "watch_route"]

UNMATCHED = "unmatched"
"""The template of requests that no route took: an unknown path, or a middleware's answer before routing."""

_KEY = "fastapi.telemetry"


def watch_route(scope: Scope) -> None:
    """Have FastAPI report this request's route. A middleware calls it before the application; once is enough."""
    if scope.get(_KEY) is None:
        root = scope.get("app_root_path", scope.get("root_path", "")).rstrip("/")
        scope[_KEY] = _RequestTelemetry(span=None, span_method="", data=None, _mount_prefix=root)


def route_template(scope: Scope) -> str:
    """The template with its full prefix, such as `/api/v1/items/{item_id}`, or `UNMATCHED`. Call after the application.

    A path within a mount has the mount's template, `/static/{path}`, unless the mounted application reports its own. A
    request whose method the route does not have still has the route's template.
    """
    report = scope.get(_KEY)
    return UNMATCHED if report is None else report.route or UNMATCHED
