"""Ways to damage a rendered object: every part left out, every switch flipped, every number and text changed."""

import copy
from collections.abc import Iterator
from typing import Any

from tests.chart.tools import Object, nodes

Path = tuple[str | int, ...]


def mutants(item: Object) -> Iterator[tuple[str, Object | None]]:
    """Each damaged copy with what was done to it. None: the whole object is gone."""
    for path, part in nodes(item):
        where = ".".join(map(str, path))
        if not path:
            yield "left out", None
            continue
        yield f"{where} left out", _changed(item, path, _LEFT_OUT)
        for change, value in _replacements(path, part):
            yield f"{where} {change}", _changed(item, path, value)


_LEFT_OUT = object()


def _replacements(path: Path, part: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(part, bool):
        yield "flipped", not part
    elif isinstance(part, int):
        # Twice and none: a little more or less of a time is a matter of taste.
        yield "doubled", part * 2 + (part == 0)
        if part != 0:
            yield "set to 0", 0
    elif isinstance(part, str):
        yield "changed", f"x{part}"


def _changed(item: Object, path: Path, value: Any) -> Object:
    """A copy that shares all but the way to the change."""
    result: Any = copy.copy(item)
    parent: Any = result
    for key in path[:-1]:
        parent[key] = copy.copy(parent[key])
        parent = parent[key]
    if value is _LEFT_OUT:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return dict(result)
