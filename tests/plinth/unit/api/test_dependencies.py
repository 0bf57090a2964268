"""Dependencies of every request."""

from collections.abc import Iterator
from inspect import isasyncgenfunction, iscoroutinefunction

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from notes.config import Settings
from notes.main import create_app


def callables(dependant: Dependant) -> Iterator[object]:
    yield dependant.call
    for dependency in dependant.dependencies:
        yield from callables(dependency)


def is_asynchronous(call: object) -> bool:
    function = call if hasattr(call, "__code__") else getattr(call, "__call__", None)  # noqa: B004
    return iscoroutinefunction(function) or isasyncgenfunction(function)


def test_no_endpoint_or_dependency_runs_in_the_thread_pool() -> None:
    """A plain `def` would, at three times the cost and with a thread per request."""
    app = create_app(Settings.isolated())
    routes = [context.original_route for context in iter_route_contexts(app.routes)]
    calls = [call for route in routes if isinstance(route, APIRoute) for call in callables(route.dependant)]
    assert len(calls) > len(routes)
    assert [call for call in calls if not is_asynchronous(call)] == []
