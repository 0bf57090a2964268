"""What every request pays for."""

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


def test_nothing_goes_through_the_thread_pool() -> None:
    """A plain `def` does: three times the cost of the work in it, and a thread's memory for each in flight."""
    app = create_app(Settings.isolated())
    routes = [context.original_route for context in iter_route_contexts(app.routes)]
    calls = [call for route in routes if isinstance(route, APIRoute) for call in callables(route.dependant)]
    assert len(calls) > len(routes)
    assert [call for call in calls if not is_asynchronous(call)] == []
