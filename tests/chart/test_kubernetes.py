"""The objects are what Kubernetes takes, by its own schemas."""

import json

import pytest

from tests.chart.cases import CASES, release
from tests.chart.schemas import problems
from tests.chart.tools import NEWEST, OLDEST

# Of the cluster, and not of Kubernetes.
CUSTOM = {
    "Cluster",
    "Pooler",
    "ScaledObject",
    "TriggerAuthentication",
    "HTTPRoute",
    "PodMonitor",
    "PrometheusRule",
    "ServiceMonitor",
}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("case", CASES)
def test_objects_are_what_kubernetes_takes(case: str, version: str) -> None:
    for item in release(case).objects:
        if item["kind"] not in CUSTOM:
            assert problems(version, item) == [], f"{item['kind']} {item['metadata']['name']}"


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_schemas_see_a_slip(version: str) -> None:
    deployment = json.loads(json.dumps(release("default").get("Deployment", "api")))
    deployment["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    assert "'redinessProbe' was unexpected" in problems(version, deployment)[0]
