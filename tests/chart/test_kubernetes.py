"""What others have to say of the objects: the schemas of Kubernetes, Helm's own check, kube-score."""

import json

import pytest

from tests.chart.cases import CASES, release
from tests.chart.schemas import problems
from tests.chart.tools import CHART, NEWEST, OLDEST, run, template, tool

# Of the cluster, and not of Kubernetes.
_CUSTOM = {"ScaledObject", "TriggerAuthentication", "HTTPRoute", "PodMonitor", "PrometheusRule"}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("case", CASES)
def test_objects_are_what_kubernetes_takes(case: str, version: str) -> None:
    for item in release(case).objects:
        if item["kind"] not in _CUSTOM:
            assert problems(version, item) == [], f"{item['kind']} {item['metadata']['name']}"


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_schemas_see_a_slip(version: str) -> None:
    deployment = json.loads(json.dumps(release("default").get("Deployment", "api")))
    deployment["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    assert "'redinessProbe' was unexpected" in problems(version, deployment)[0]


@pytest.mark.parametrize("helm", ["HELM", "HELM4"])
def test_helm_finds_nothing_to_complain_of(helm: str) -> None:
    done = run(tool(helm), "lint", "--strict", f"--kube-version={NEWEST}", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


# What kube-score calls critical and we do all the same.
_REVIEWED = {
    # A tag of ours is never moved, and a digest cannot be. Always would make every start of a pod depend on a registry.
    ("", "container-image-pull-policy"),
    # The official images have that user in them, and PostgreSQL refuses to run as one that its image does not know.
    ("postgresql", "container-security-context-user-group-id"),
    ("redis", "container-security-context-user-group-id"),
}
_CRITICAL = 1


def _critical(manifest: str) -> list[str]:
    done = run(tool("KUBE_SCORE"), "score", "--output-format=json", "--kubernetes-version=v1.34", "-", stdin=manifest)
    report = json.loads(done.stdout)
    assert len(report) > 10, done.stderr
    return [
        f"{item['object_name']}: {check['check']['id']}: {'; '.join(entry['summary'] for entry in check['comments'])}"
        for item in report
        for check in item["checks"]
        if check["grade"] == _CRITICAL
        and not check["skipped"]
        and not any(
            item["object_meta"]["name"].endswith(name) and check["check"]["id"] == identifier
            for name, identifier in _REVIEWED
        )
    ]


@pytest.mark.parametrize("case", ["default", "production", "full"])
def test_kube_score_finds_nothing_critical(case: str) -> None:
    assert _critical(template(CASES[case])) == []


def test_kube_score_would_find_something() -> None:
    manifest = template({}).replace("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false")
    assert any("container-security-context-readonlyrootfilesystem" in line for line in _critical(manifest))
