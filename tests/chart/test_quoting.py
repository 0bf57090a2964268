"""Names and texts that YAML takes for something else than text."""

import copy
from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import pytest

from tests.chart.cases import FULL, PRODUCTION
from tests.chart.damage import Path
from tests.chart.schemas import problems
from tests.chart.test_kubernetes import CUSTOM
from tests.chart.test_values import SCHEMA
from tests.chart.tools import NEWEST, Object, default_values, merged, nodes, objects_of, template

# Numbers, a switch, nothing, a date, and a number to the base of 60.
ODD = ("123", "1e3", "0x1f", "true", "null", "on", "2026-01-31", "12-30")


def places(text: str, case: Object) -> list[Path]:
    """Where the values of a case have a text, and the schema takes `text` for it."""
    values = copy.deepcopy(merged(default_values(), case))
    before = {
        path: part for path, part in nodes(values) if isinstance(part, str) and part and path[0] != "extraObjects"
    }
    for path in before:
        _put(values, path, text)
    _restore_refused(values, before)
    # A key has to be long enough, and the containers of a pod have a name each.
    fixed = ("secretKey", "value"), "sidecars", "initContainers"
    return [path for path, part in nodes(values) if part == text and path != fixed[0] and not {*fixed[1:]} & {*path}]


def written(text: str, case: Object, paths: list[Path]) -> Object:
    values = copy.deepcopy(merged(default_values(), case))
    for path in paths:
        _put(values, path, text)
    return values


def _restore_refused(values: Object, before: Mapping[Path, Any]) -> None:
    validator = jsonschema_rs.Draft7Validator(SCHEMA)
    while refused := [tuple(error.instance_path) for error in validator.iter_errors(values)]:
        for path in (path for path in before if any(path[: len(part)] == part for part in refused)):
            _put(values, path, before[path])


def _put(values: Any, path: Path, part: Any) -> None:
    for key in path[:-1]:
        values = values[key]
    values[path[-1]] = part


def _shape(part: Any) -> Any:
    """The part without what its texts say."""
    if isinstance(part, dict):
        return sorted(repr((type(key).__name__, _shape(value))) for key, value in part.items())
    return [_shape(value) for value in part] if isinstance(part, list) else type(part).__name__


@pytest.mark.parametrize("case", [FULL, PRODUCTION], ids=["full", "production"])
@pytest.mark.parametrize("text", ODD)
def test_text_stays_text(text: str, case: Object) -> None:
    plainly = places("word", case)
    paths = [path for path in places(text, case) if path in plainly]
    assert len(paths) > 20
    odd, plain = (
        objects_of(template(written(word, case, paths), name=word, namespace=word)) for word in (text, "word")
    )
    assert len(odd) == len(plain)
    for one, other in zip(odd, plain, strict=True):
        assert _shape(one) == _shape(other), f"{one['kind']} {one['metadata']['name']}"
        if one["metadata"].get("labels"):
            assert one["metadata"]["namespace"] == text
            assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == text
        if one["kind"] not in CUSTOM:
            assert problems(NEWEST, one) == [], f"{one['kind']} {one['metadata']['name']}"


def test_large_numbers_stay_whole() -> None:
    """Helm writes a million as 1e+06, which Kubernetes does not take for a whole number."""
    values = copy.deepcopy(merged(default_values(), merged(FULL, {"networkPolicy": {"extraEgress": []}})))
    before = {path: part for path, part in nodes(values) if type(part) is int and path[0] not in ("config", "metrics")}
    for path in before:
        _put(values, path, 1_000_000)
    _restore_refused(values, before)
    _put(values, ("postgresql", "maxConnections"), 10**9)
    manifest = template(values)
    assert "1000000" in manifest
    assert "e+" not in manifest
