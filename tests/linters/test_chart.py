"""What others have to say of the chart: Helm, kube-score, checkov, and the schemas of each Kubernetes."""

import json
from pathlib import Path

import pytest

from tests.chart.cases import CASES, release
from tests.chart.schemas import problems
from tests.chart.test_kubernetes import CUSTOM
from tests.chart.tools import CHART, NEWEST, OLDEST, Object, run, template, tool

# What a cluster might be given, from a try-out to everything that can be on at once.
_CASES = ("default", "production", "full")


@pytest.mark.parametrize("helm", ["HELM", "HELM4"])
def test_helm_finds_nothing_to_complain_of(helm: str) -> None:
    done = run(tool(helm), "lint", "--strict", f"--kube-version={NEWEST}", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("minor", range(int(OLDEST[2:]) + 1, int(NEWEST[2:])))
def test_each_kubernetes_between_the_oldest_and_the_newest_takes_the_objects(minor: int) -> None:
    """Of these two, tests/chart/test_kubernetes.py tells."""
    for case in _CASES:
        for item in release(case).objects:
            if item["kind"] not in CUSTOM:
                assert problems(f"1.{minor}", item) == [], f"{item['kind']} {item['metadata']['name']}"


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


@pytest.mark.parametrize("case", _CASES)
def test_kube_score_finds_nothing_critical(case: str) -> None:
    assert _critical(template(CASES[case])) == []


def test_kube_score_would_find_something() -> None:
    manifest = template({}).replace("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false")
    assert any("container-security-context-readonlyrootfilesystem" in line for line in _critical(manifest))


# What checkov finds and we do all the same: of any object, or of those whose name ends so.
_ACCEPTED = {
    # Always would make every start of a pod depend on a registry; a tag of ours is never moved.
    "CKV_K8S_15": ("",),
    # A digest is a value of each installation (image.digest); the chart names the tag that it was released with.
    "CKV_K8S_43": ("",),
    # A process reads its settings from the environment, once. What may be in no environment is a file: NAME_FILE names
    # it, and extraVolumes mounts it.
    "CKV_K8S_35": ("",),
    # The official images have the user 999 in them, and PostgreSQL refuses to run as one that its image does not know.
    "CKV_K8S_40": ("postgresql", "redis"),
    # `helm test` runs to its end: nothing waits for it to be ready, and it has a time limit of its own.
    "CKV_K8S_8": ("-test",),
    "CKV_K8S_9": ("-test",),
    # The test's values name no namespace for their own objects; Helm puts them into the release's.
    "CKV_K8S_21": ("plinth-map", "plinth-text"),
}


def _found(folder: Path) -> list[str]:
    """What checkov finds in a folder of manifests, but for what is accepted."""
    done = run(
        tool("CHECKOV"), "--framework=kubernetes", f"--directory={folder}", "--output=json", "--quiet", "--compact",
        "--skip-download",
    )  # fmt: skip
    assert done.stdout, done.stderr
    report: Object = json.loads(done.stdout)
    assert report["summary"]["passed"] > 100
    return [
        f"{check['resource']}: {check['check_id']} {check['check_name']}"
        for check in report["results"]["failed_checks"]
        if not check["resource"].endswith(_ACCEPTED.get(check["check_id"], ()))
    ]


def test_checkov_finds_nothing(tmp_path: Path) -> None:
    for case in _CASES:
        (tmp_path / f"{case}.yaml").write_text(template(CASES[case]))
    assert _found(tmp_path) == []


def test_checkov_would_find_something(tmp_path: Path) -> None:
    damaged = template({}).replace("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true")
    (tmp_path / "damaged.yaml").write_text(damaged)
    assert any("CKV_K8S_20" in line for line in _found(tmp_path))
