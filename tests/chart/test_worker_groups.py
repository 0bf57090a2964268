"""Groups of workers: each a Deployment of its own, with what `worker` says unless it says otherwise itself."""

import pytest
import yaml

from tests.chart.cases import PRODUCTION
from tests.chart.tools import Object, RenderError, merged, objects_of, template

pytestmark = pytest.mark.parametrize("helm", ["HELM", "HELM4"])

GROUPS: Object = {
    "postgresql": {"maxConnections": 500},
    "worker": {"config": {"LOG_LEVEL": "DEBUG"}, "resources": {"limits": {"memory": "512Mi"}}, "replicas": 3},
    "workers": {
        "default": {"queues": ["default", "mail"]},
        "exports": {"queues": ["exports"], "config": {"JOBS_CONCURRENCY": 2}, "pdb": {"enabled": False}},
    },
}


def rendered(values: Object, helm: str) -> dict[tuple[str, str], Object]:
    items = objects_of(template(values, helm=helm))
    return {(item["kind"], item["metadata"]["name"].removeprefix("plinth-")): item for item in items}


def settings(deployment: Object) -> dict[str, str]:
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["name"] == "worker"
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def test_a_group_has_its_own_queues_and_settings_over_the_common_ones(helm: str) -> None:
    objects = rendered(GROUPS, helm)
    default, exports = (settings(objects["Deployment", name]) for name in ("worker", "worker-exports"))
    assert (default["JOBS_QUEUES"], default["LOG_LEVEL"]) == ("default,mail", "DEBUG")
    assert "JOBS_CONCURRENCY" not in default
    assert (exports["JOBS_QUEUES"], exports["LOG_LEVEL"], exports["JOBS_CONCURRENCY"]) == ("exports", "DEBUG", "2")
    assert objects["Deployment", "worker-exports"]["spec"]["replicas"] == 3


def test_each_group_has_its_own_scaling(helm: str) -> None:
    groups = {
        "exports": {"queues": ["exports"], "keda": {"enabled": True, "maxReplicas": 4}},
        "reports": {"queues": ["reports"], "autoscaling": {"enabled": True}},
    }
    objects = rendered({"workers": groups, "postgresql": {"maxConnections": 500}}, helm)
    scaled = {name: kind for kind, name in objects if kind in ("ScaledObject", "HorizontalPodAutoscaler")}
    assert scaled == {"worker-exports": "ScaledObject", "worker-reports": "HorizontalPodAutoscaler"}
    spec = objects["ScaledObject", "worker-exports"]["spec"]
    assert spec["scaleTargetRef"]["name"] == "plinth-worker-exports"
    assert spec["maxReplicaCount"] == 4
    for trigger in spec["triggers"]:
        assert "ARRAY['exports']" in trigger["metadata"]["query"]
    assert objects["Deployment", "worker"]["spec"]["replicas"] == 1
    assert "replicas" not in objects["Deployment", "worker-exports"]["spec"]


def test_a_budget_is_the_group_s_own(helm: str) -> None:
    """Two budgets for one pod would let none be evicted, so selectors may not overlap."""
    objects = rendered(GROUPS, helm)
    assert ("PodDisruptionBudget", "worker-exports") not in objects
    selector = objects["PodDisruptionBudget", "worker"]["spec"]["selector"]["matchLabels"]
    labels = objects["Deployment", "worker-exports"]["spec"]["template"]["metadata"]["labels"]
    assert not selector.items() <= labels.items()


def test_a_group_takes_false_and_nothing_for_what_they_are(helm: str) -> None:
    common = {"pdb": {"enabled": True}, "minReadySeconds": 5, "priorityClassName": "high"}
    own = {"pdb": {"enabled": False}, "minReadySeconds": 0, "priorityClassName": ""}
    objects = rendered({"worker": common, "workers": {"exports": own}}, helm)
    assert ("PodDisruptionBudget", "worker-exports") not in objects
    spec = objects["Deployment", "worker-exports"]["spec"]
    assert spec["minReadySeconds"] == 0
    assert "priorityClassName" not in spec["template"]["spec"]


def test_the_values_of_before_make_what_they_made(helm: str) -> None:
    """The Deployment of the group `default` has its name and its selector, which cannot be changed, of before."""
    assert rendered({"workers": {"default": {"replicas": 2}}}, helm) == rendered({"worker": {"replicas": 2}}, helm)
    assert [name for kind, name in rendered({}, helm) if kind == "Deployment"] == ["api", "worker"]


@pytest.mark.parametrize(
    ("common", "own", "served"),
    [
        ({"queues": ["a"]}, {"config": {"JOBS_QUEUES": "b"}}, "b"),
        ({"config": {"JOBS_QUEUES": ["a"]}}, {"queues": ["b"]}, "b"),
        ({"queues": ["a"], "config": {"JOBS_QUEUES": "b"}}, {}, "a"),
    ],
)
def test_the_queues_of_a_group_count_whichever_way_they_are_said(
    common: Object, own: Object, served: str, helm: str
) -> None:
    objects = rendered({"worker": common, "workers": {"exports": own}}, helm)
    assert settings(objects["Deployment", "worker-exports"])["JOBS_QUEUES"] == served


@pytest.mark.parametrize(
    ("common", "own", "expected"),
    [
        ({"minAvailable": 1}, {"maxUnavailable": 2}, {"maxUnavailable": 2}),
        ({"minAvailable": 1}, {"minAvailable": None}, {"maxUnavailable": 1}),
        ({"maxUnavailable": 2}, {"minAvailable": 1}, {"minAvailable": 1}),
        ({"minAvailable": 1}, {"enabled": True}, {"minAvailable": 1}),
    ],
)
def test_the_budget_of_a_group_counts(common: Object, own: Object, expected: Object, helm: str) -> None:
    objects = rendered({"worker": {"pdb": common}, "workers": {"exports": {"pdb": own}}}, helm)
    spec = objects["PodDisruptionBudget", "worker-exports"]["spec"]
    assert {key: value for key, value in spec.items() if key.startswith("m")} == expected


def test_the_surge_of_a_group_counts(helm: str) -> None:
    values = {"worker": {"strategy": {"type": "Recreate"}}, "workers": {"exports": {"maxSurge": 2}, "mail": {}}}
    objects = rendered({"postgresql": {"maxConnections": 500}, **values}, helm)
    assert objects["Deployment", "worker-exports"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 2
    assert objects["Deployment", "worker-mail"]["spec"]["strategy"] == {"type": "Recreate"}


def test_null_takes_out_what_worker_says(helm: str) -> None:
    common = {
        "podSecurityContext": {"fsGroup": 2000},
        "config": {"RATE_LIMIT": "5/second"},
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    }
    own = {"podSecurityContext": {"fsGroup": None}, "config": {"RATE_LIMIT": None}, "affinity": {"nodeAffinity": None}}
    deployment = rendered({"worker": common, "workers": {"exports": own}}, helm)["Deployment", "worker-exports"]
    spec = deployment["spec"]["template"]["spec"]
    assert "fsGroup" not in spec["securityContext"]
    assert "RATE_LIMIT" not in settings(deployment)
    assert not spec["affinity"]["nodeAffinity"]


@pytest.mark.parametrize(
    ("own", "left"),
    [
        ({"resources": {"limits": {"cpu": None}}}, {"limits": {"ephemeral-storage": "256Mi", "memory": "512Mi"}}),
        ({"resources": {"limits": None}}, {}),
    ],
)
def test_null_takes_out_a_limit_that_worker_has(own: Object, left: Object, helm: str) -> None:
    spec = rendered(merged(GROUPS, {"workers": {"exports": own}}), helm)["Deployment", "worker-exports"]["spec"]
    assert spec["template"]["spec"]["containers"][0]["resources"] == left | {
        "requests": {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "64Mi"}
    }


def test_null_takes_out_a_label_or_an_annotation_that_worker_has(helm: str) -> None:
    keys = ("nodeSelector", "podLabels", "podAnnotations", "annotations")
    common: Object = {key: {"pool": "jobs", "team": "shop"} for key in keys}
    own: Object = {key: {"pool": None} for key in keys}
    common["serviceAccount"] = {"annotations": common["annotations"]}
    own["serviceAccount"] = {"annotations": own["annotations"]}
    objects = rendered({"worker": common, "workers": {"exports": own}}, helm)
    deployment = objects["Deployment", "worker-exports"]
    pod = deployment["spec"]["template"]
    account = objects["ServiceAccount", "worker-exports"]["metadata"]["annotations"]
    assert deployment["metadata"]["annotations"] == account == pod["spec"]["nodeSelector"] == {"team": "shop"}
    for entries in pod["metadata"].values():
        assert entries["team"] == "shop"
        assert "pool" not in entries


@pytest.mark.parametrize(
    ("common", "own"),
    [
        ({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}, {"type": "Recreate"}),
        ({"type": "Recreate"}, {"rollingUpdate": {"maxSurge": 2}}),
    ],
)
def test_a_strategy_of_a_group_is_whole(common: Object, own: Object, helm: str) -> None:
    """Kubernetes refuses parameters of another type."""
    values = {"worker": {"strategy": common}, "workers": {"exports": {"strategy": own}}}
    assert rendered(values, helm)["Deployment", "worker-exports"]["spec"]["strategy"] == own


def test_a_seccomp_profile_of_a_group_is_whole(helm: str) -> None:
    common = {"podSecurityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "jobs.json"}}}
    own = {"podSecurityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}
    objects = rendered({"worker": common, "workers": {"exports": own}}, helm)
    spec = objects["Deployment", "worker-exports"]["spec"]["template"]["spec"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_a_shared_service_account_is_made_once(helm: str) -> None:
    objects = objects_of(template(merged(GROUPS, {"worker": {"serviceAccount": {"name": "jobs"}}}), helm=helm))
    accounts = [item["metadata"]["name"] for item in objects if item["kind"] == "ServiceAccount"]
    assert sorted(accounts) == ["jobs", "plinth-api", "plinth-migrate"]


def test_prometheus_tells_groups_apart_and_expects_all_of_them(helm: str) -> None:
    values = merged(GROUPS, {"metrics": {"podMonitor": {"enabled": True}, "rules": {"enabled": True}}})
    objects = {item["kind"]: item for item in objects_of(template(values, helm=helm))}
    monitor = objects["PodMonitor"]["spec"]
    assert monitor["podTargetLabels"] == ["app.kubernetes.io/component"]
    assert monitor["selector"]["matchExpressions"][0]["values"] == ["api", "worker", "worker-exports"]
    assert "vector(6) > 0" in yaml.safe_dump(objects["PrometheusRule"], width=1000)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"exports": {"replicas": 3}}, "2 worker pods x 14 + 6 worker-exports pods x 14 + 1 for the migration"),
        (
            {"exports": {"config": {"JOBS_SHUTDOWN_GRACE": 60}}},
            "workers.exports.terminationGracePeriodSeconds is 40 and has to be 65",
        ),
        (
            {"exports": {"keda": {"enabled": True}, "autoscaling": {"enabled": True}}},
            "workers.exports.autoscaling.enabled and workers.exports.keda.enabled are both true",
        ),
        (
            {"exports": {"keda": {"enabled": True, "minReplicas": 3}}},
            "workers.exports.keda.minReplicas is 3 and workers.exports.keda.maxReplicas is 2",
        ),
        ({"co-worker": {"terminationGracePeriodSeconds": 1}}, "workers.co-worker.terminationGracePeriodSeconds is 1"),
        ({"co-worker-a": {"keda": {"enabled": True, "minReplicas": 3}}}, "workers.co-worker-a.keda.minReplicas is 3"),
        ({"exports": {"extraEnv": [{"name": "JOBS_QUEUES", "value": "x"}]}}, "extraEnv sets JOBS_QUEUES"),
        ({"exports": {"replica": 3}}, "additional properties 'replica' not allowed"),
        ({"exports": {"keda": {"enable": True}}}, "additional properties 'enable' not allowed"),
        ({"Exports": {}}, "Exports"),
        ({"a-name-that-is-too-long": {}}, "a-name-that-is-too-long"),
        ({"exports": None}, "at '/workers/exports': got null, want object"),
    ],
)
def test_a_group_that_does_not_fit_is_refused_by_its_name(groups: Object, said: str, helm: str) -> None:
    with pytest.raises(RenderError) as refused:
        template(merged(PRODUCTION, {"workers": groups, "externalDatabase": {"maxConnections": 140}}), helm=helm)
    assert said in str(refused.value)
