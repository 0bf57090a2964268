"""The schemas of Kubernetes's objects, strictly: what it would pass over in silence is a problem here."""

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.chart.tools import Object


@cache
def _schemas(version: str) -> Path:
    """The folder with the schemas that a wheel ships. Only its data is used: its code needs two more packages."""
    package = importlib.util.find_spec("kubernetes_validate")
    if package is None or package.origin is None:
        pytest.fail("the chart's tests need the schemas in kubernetes-validate: make install", pytrace=False)
    folder = Path(package.origin).parent / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    assert folder.is_dir(), f"kubernetes-validate has no schemas for {version}"
    return folder


@cache
def _validator(version: str, api_version: str, kind: str) -> Any:
    group, _, number = api_version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.partition(".")[0], number) if part)
    schema, definitions = (
        json.loads((_schemas(version) / file).read_text().replace("/api/_definitions.json#", "#"))
        for file in (f"{name}.json", "_definitions.json")
    )
    return jsonschema_rs.Draft202012Validator(schema | {"$defs": definitions["$defs"]})


def problems(version: str, item: Object) -> list[str]:
    """What Kubernetes of that version would not take, or not understand."""
    validator = _validator(version, item["apiVersion"], item["kind"])
    return [f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(item)]
