"""What the values add to maps and lists of the chart's own: nothing comes twice, and false stays false."""

import copy
from typing import Any

import pytest

from tests.chart.cases import PRODUCTION
from tests.chart.schemas import problems
from tests.chart.tools import NEWEST, Object, default_values, merged, nodes, objects_of, template, with_key

_TRACING = {"endpoint": "http://collector:4318", "resourceAttributes": {"service.version": ""}}


def _pod(values: Object, component: str = "api") -> Object:
    """The pod of a component, with metadata and spec."""
    for item in objects_of(template(values)):
        pod: Object = item if item["kind"] == "Pod" else item.get("spec", {}).get("template")
        if pod and item["metadata"]["labels"]["app.kubernetes.io/component"] == component:
            assert problems(NEWEST, item) == []
            return pod
    raise AssertionError(f"no pod of {component}")


def _variables(values: Object, component: str = "api") -> list[Object]:
    variables: list[Object] = _pod(values, component)["spec"]["containers"][0]["env"]
    names = [entry["name"] for entry in variables]
    assert len(names) == len(set(names))
    return variables


def _variable(values: Object, name: str, component: str = "api") -> Any:
    return next((entry.get("value") for entry in _variables(values, component) if entry["name"] == name), None)


class TestNothingIsLost:
    """false, 0 and "" are values."""

    @pytest.mark.parametrize("where", ["sidecars", "initContainers"])
    def test_security_context_of_an_added_container(self, where: str) -> None:
        given = {"readOnlyRootFilesystem": False, "allowPrivilegeEscalation": True, "runAsUser": 0}
        container = {"name": "proxy", "image": "proxy:1", "securityContext": given}
        spec = _pod({"api": {where: [container]}})["spec"]
        added = (spec["initContainers"] if where == "initContainers" else spec["containers"])[-1]
        assert added["securityContext"] == given | {"capabilities": {"drop": ["ALL"]}}

    def test_added_capabilities_do_not_give_the_others_back(self) -> None:
        container = {"name": "p", "image": "p:1", "securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"]}}}
        added = _pod({"api": {"sidecars": [container]}})["spec"]["containers"][-1]
        assert added["securityContext"]["capabilities"] == {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}

    def test_privileged_container_is_what_it_says(self) -> None:
        """Kubernetes refuses one that may not escalate its privileges."""
        container = {"name": "p", "image": "p:1", "securityContext": {"privileged": True}}
        assert _pod({"api": {"sidecars": [container]}})["spec"]["containers"][-1] == container

    @pytest.mark.parametrize(
        ("common", "own", "expected"),
        [
            ({"DB_MAX_OVERFLOW": 3}, {"DB_MAX_OVERFLOW": 0}, "0"),
            ({"OIDC_REQUIRE_AT_JWT": True}, {"OIDC_REQUIRE_AT_JWT": False}, "false"),
            ({"RATE_LIMIT": "5/second"}, {"RATE_LIMIT": ""}, ""),
            ({"JOBS_QUEUES": ["a", "b"]}, {"JOBS_QUEUES": ["c"]}, "c"),
            ({"PERMISSIONS": {"a": ["x"]}}, {"PERMISSIONS": {"b": ["y"]}}, '{"b":["y"]}'),
            ({"RATE_LIMIT": "5/second"}, {"RATE_LIMIT": None}, None),
        ],
    )
    def test_setting_of_a_component(self, common: Object, own: Object, expected: Any) -> None:
        (name,) = own
        values = {"config": common, "worker": {"config": own}}
        assert _variable(values, name, "worker") == expected
        assert _variable(values, name) not in (expected, None)

    def test_attribute_of_traces(self) -> None:
        assert "service.version=," in f"{_variable({'tracing': _TRACING}, 'OTEL_RESOURCE_ATTRIBUTES')},"

    def test_annotation_over_the_chart_s(self) -> None:
        values = {"metrics": {"scrapeAnnotations": True}, "api": {"podAnnotations": {"prometheus.io/scrape": ""}}}
        assert _pod(values)["metadata"]["annotations"]["prometheus.io/scrape"] == ""


class TestNothingComesTwice:
    def test_variable_of_a_component_takes_the_place_of_the_common_one(self) -> None:
        url = {"name": "URL", "value": "http://$(HOST)"}
        own = {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}
        values = {"extraEnv": [{"name": "HOST", "value": "common"}, url], "api": {"extraEnv": [own]}}
        assert [entry for entry in _variables(values) if entry["name"] in ("HOST", "URL")] == [own, url]
        assert _variable(values, "HOST", "worker") == "common"

    def test_variable_in_place_of_a_setting(self) -> None:
        values = {"config": {"LOG_LEVEL": "INFO"}, "extraEnv": [{"name": "LOG_LEVEL", "value": "DEBUG"}]}
        assert _variable(values, "LOG_LEVEL") == "DEBUG"

    def test_variable_that_the_test_pod_has_too(self) -> None:
        values = {"tests": {"tokenSecret": "token", "extraEnv": [{"name": "TOKEN", "value": "mine"}]}}
        assert _variable(values, "TOKEN", "tests") == "mine"

    def test_volume_and_mount_in_place_of_the_chart_s(self) -> None:
        volume = {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}
        assert _pod({"api": {"extraVolumes": [volume]}})["spec"]["volumes"] == [volume]
        mount = {"name": "scratch", "mountPath": "/tmp"}
        values = {"api": {"extraVolumes": [{"name": "scratch", "emptyDir": {}}], "extraVolumeMounts": [mount]}}
        assert _pod(values)["spec"]["containers"][0]["volumeMounts"] == [mount]

    def test_pull_secret(self) -> None:
        secret = {"name": "registry"}
        values = {"global": {"imagePullSecrets": [secret]}, "image": {"pullSecrets": [secret]}}
        assert _pod(values)["spec"]["imagePullSecrets"] == [secret]

    @pytest.mark.parametrize("section", ["podMonitor", "rules", "dashboards"])
    def test_label_in_place_of_the_chart_s(self, section: str) -> None:
        labels = {"app.kubernetes.io/component": "mine", "helm.sh/chart": ""}
        items = objects_of(template({"metrics": {section: {"enabled": True, "labels": labels}}}))
        found = [item for item in items if item["metadata"]["labels"]["app.kubernetes.io/component"] == "mine"]
        assert found
        assert all(labels.items() <= item["metadata"]["labels"].items() for item in found)

    def test_hook_of_the_test_pod(self) -> None:
        """One that stays is there for its log."""
        policy = {"helm.sh/hook-delete-policy": "before-hook-creation"}
        annotations = _pod({"tests": {"podAnnotations": policy}}, "tests")["metadata"]["annotations"]
        assert annotations.items() >= {"helm.sh/hook": "test", **policy}.items()

    def test_hook_of_the_migration(self) -> None:
        values = merged(PRODUCTION, {"migrate": {"mode": "hook", "annotations": {"helm.sh/hook": "pre-upgrade"}}})
        (job,) = [item for item in objects_of(template(values)) if item["kind"] == "Job"]
        assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade"


def test_label_selector_of_the_values_is_left_alone() -> None:
    constraint = {
        "maxSkew": 1,
        "topologyKey": "rack",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"team": "shop"}},
    }
    spec = _pod({"api": {"topologySpreadConstraints": [constraint]}})["spec"]
    assert spec["topologySpreadConstraints"] == [constraint]


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "off"])
def test_a_switch_may_be_text(text: str) -> None:
    """As --set-string and many a GitOps tool write it."""
    values = merged(PRODUCTION, {"config": {"DB_TRANSACTION_POOLER": text}})
    assert _variable(values, "DB_TRANSACTION_POOLER") == text


class TestBlankKeys:
    """`podLabels:` with nothing behind it is null, by which Helm takes the default away."""

    @pytest.mark.parametrize("helm", ["HELM", "HELM4"])
    @pytest.mark.parametrize("case", [{}, PRODUCTION], ids=["default", "production"])
    def test_blank_key_is_its_empty_default(self, case: Object, helm: str) -> None:
        values = copy.deepcopy(merged(default_values(), with_key(case)))
        for path, part in nodes(default_values()):
            parent: Any = values
            for key in path[:-1]:
                parent = parent[key]
            if part in ("", [], {}, None) and parent[path[-1]] == part:
                parent[path[-1]] = None
        assert values["api"]["podLabels"] is None
        assert objects_of(template(values, helm=helm)) == objects_of(template(case, helm=helm))

    @pytest.mark.parametrize("key", ["global", "extraObjects"])
    def test_blank_section_of_empty_defaults(self, key: str) -> None:
        assert template({key: None}) == template({})

    def test_service_of_a_server_may_be_blank(self) -> None:
        assert template({"postgresql": {"service": None}, "redis": {"service": None}}) == template({})

    def test_resources_may_be_blank(self) -> None:
        parts = {name: {"resources": None} for name in ("api", "worker", "migrate", "tests", "postgresql", "redis")}
        assert not _pod(parts)["spec"]["containers"][0].get("resources")


def test_every_pod_takes_labels_and_annotations() -> None:
    given = {"podLabels": {"team": "shop"}, "podAnnotations": {"example.com/owner": "shop"}}
    values = dict.fromkeys(("api", "worker", "migrate", "tests", "postgresql", "redis"), given)
    for name in values:
        metadata = _pod(values, name)["metadata"]
        assert metadata["labels"]["team"] == metadata["annotations"]["example.com/owner"] == "shop"
