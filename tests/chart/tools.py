"""The programs that the chart's tests run, and what they make of the chart."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

Object: TypeAlias = dict[str, Any]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "plinth"
OLDEST, NEWEST = "1.30", "1.37"
"""The Kubernetes versions between which the chart is meant to work."""

CUSTOM_RESOURCES = (
    "keda.sh/v1alpha1/ScaledObject",
    "postgresql.cnpg.io/v1/Cluster",
    "gateway.networking.k8s.io/v1/HTTPRoute",
    "monitoring.coreos.com/v1/PodMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
    "monitoring.coreos.com/v1/ServiceMonitor",
)

KEY = "5b0f2d7c91e84a36f0c7b21d9e6a4f8338f4a6e9d12b7c0f63a48e19c7d2f0b5"
"""What a release is given as its secretKey.value, unless the values of a test name a key or say that there is none."""

_WHERE_FROM = {
    "HELM": ("helm", "Helm 3: https://helm.sh/docs/intro/install"),
    "HELM4": ("helm4", "Helm 4, beside Helm 3 under another name: https://helm.sh/docs/intro/install"),
    "KUBE_SCORE": ("kube-score", "kube-score: https://github.com/zegl/kube-score"),
    "PROMTOOL": ("promtool", "promtool, which comes with Prometheus: https://prometheus.io/download"),
    "CHECKOV": ("checkov", "checkov, which make chart-lint installs"),
    "HADOLINT": ("hadolint", "hadolint, which make chart-lint installs"),
    "HELM_DOCS": ("helm-docs", "helm-docs: https://github.com/norwoodj/helm-docs"),
}


class RenderError(Exception):
    """Helm refused to render the chart. Says what Helm said."""


@cache
def tool(variable: str) -> str:
    """The program that an environment variable names, or its usual name. The test fails where there is none."""
    name, source = _WHERE_FROM[variable]
    path = shutil.which(os.environ.get(variable, name))
    if path is None:
        pytest.fail(f"these tests need {source} (or {variable}=…, its path)", pytrace=False)
    return path


def run(*command: str, stdin: str | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    # Helm and promtool, which are written in Go, spend a third of their time on garbage if it is 100 as by default.
    variables = {"GOGC": "400", **os.environ}
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, cwd=cwd, env=variables)


def template(
    values: Object,
    *,
    name: str = "plinth",
    namespace: str = "shop",
    helm: str = "HELM",
    kubernetes: str = NEWEST,
    apis: tuple[str, ...] = CUSTOM_RESOURCES,
    options: tuple[str, ...] = (),
    chart: Path = CHART,
    anew: bool = False,
) -> str:
    """The manifest of a release. What was rendered once is rendered again only `anew`. Raises RenderError."""
    arguments = [f"--api-versions={api}" for api in apis] + [f"--kube-version={kubernetes}", *options]
    render = _rendered.__wrapped__ if anew or chart != CHART else _rendered
    command = (tool(helm), "template", name, str(chart), f"--namespace={namespace}", "--values=-", *arguments)
    return render(json.dumps(with_key(values)), *command)


@cache
def _rendered(values: str, *command: str) -> str:
    done = run(*command, stdin=values)
    if done.returncode != 0:
        raise RenderError(done.stderr)
    return done.stdout


def objects_of(manifest: str) -> list[Object]:
    return [document for document in yaml.load_all(manifest, Loader=yaml.CSafeLoader) if document]


@cache
def default_values() -> Object:
    values: Object = yaml.safe_load((CHART / "values.yaml").read_text())
    return values


def with_key(values: Object) -> Object:
    return values if "secretKey" in values else values | {"secretKey": {"value": KEY}}


def merged(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> Object:
    """What Helm makes of the two: maps are merged, everything else is replaced."""
    result = dict(defaults)
    for key, value in values.items():
        both_maps = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both_maps else value
    return result


def nodes(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every part of an object, with the way to it; the object itself comes first."""
    yield path, tree
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from nodes(value, (*path, key))
