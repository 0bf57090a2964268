"""How the release is watched: monitors, rules, dashboards, and where its traces go."""

import json
from functools import cache

import yaml

from tests.chart.cases import Release, main_container, release
from tests.chart.tools import CHART, Object
from tests.chart.watched import tracing_variables

_METRICS_LABELS = {"app.kubernetes.io/name": "plinth", "app.kubernetes.io/instance": "plinth"}


def traces_say_where_they_come_from(release: Release) -> None:
    for component, container in release.containers():
        if container["name"] not in (main_container(component), "wait") or component not in release.ours():
            continue
        wanted = tracing_variables(release, component)
        own = [entry for entry in container["env"] if entry["name"].startswith(("OTEL_", "K8S_"))]
        assert own == [{"name": name} | entry for name, entry in wanted.items()]
        if wanted:
            # Kubernetes fills in only what stands before.
            assert own[-1]["name"] == "OTEL_RESOURCE_ATTRIBUTES"


def monitors_find_the_pods_by_their_port(release: Release) -> None:
    for kind, section, endpoints in (
        ("PodMonitor", "podMonitor", "podMetricsEndpoints"),
        ("ServiceMonitor", "serviceMonitor", "endpoints"),
    ):
        values = release.values["metrics"][section]
        assert len(release.all(kind)) == values["enabled"]
        for item in release.all(kind):
            assert item["metadata"]["name"] == release.name
            assert values["labels"].items() <= item["metadata"]["labels"].items()
            components = {"key": "app.kubernetes.io/component", "operator": "In", "values": release.watched}
            limit = {"sampleLimit": values["sampleLimit"]} if values["sampleLimit"] else {}
            assert item["spec"] == {
                "selector": {"matchLabels": _METRICS_LABELS, "matchExpressions": [components]},
                "podTargetLabels": ["app.kubernetes.io/component"],
                endpoints: [_endpoint(values)],
                **limit,
            }
            for component in release.watched:
                ports = release.pods()[component]["spec"]["containers"][0]["ports"]
                assert {"name": "metrics", "containerPort": 9090} in ports


def _with_actions(relabelings: list[Object]) -> list[Object]:
    """With what the server fills in: a GitOps tool compares lists as a whole."""
    return [{"action": "replace"} | relabeling for relabeling in relabelings]


def _endpoint(values: Object) -> Object:
    running = {"sourceLabels": ["__meta_kubernetes_pod_phase"], "regex": "Running", "action": "keep"}
    endpoint = {
        "port": "metrics",
        "path": "/metrics",
        "interval": values["interval"],
        "relabelings": [running, *_with_actions(values["relabelings"])],
    }
    if values["scrapeTimeout"]:
        endpoint["scrapeTimeout"] = values["scrapeTimeout"]
    if values["metricRelabelings"]:
        endpoint["metricRelabelings"] = _with_actions(values["metricRelabelings"])
    return endpoint


def a_service_monitor_has_services_that_lead_to_each_pod(release: Release) -> None:
    monitored = release.values["metrics"]["serviceMonitor"]["enabled"]
    named = [item for item in release.all("Service") if item["spec"]["ports"][0]["name"] == "metrics"]
    assert len(named) == (len(release.watched) if monitored else 0)
    for item in named:
        families = {"ipFamilies", "ipFamilyPolicy"}
        spec = {name: value for name, value in item["spec"].items() if name not in {"selector", *families}}
        assert spec == {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "ports": [{"name": "metrics", "port": 9090, "targetPort": "metrics"}],
        }


def rules_are_the_files_filled_in(release: Release) -> None:
    values = release.values["metrics"]["rules"]
    assert len(release.all("PrometheusRule")) == values["enabled"]
    for item in release.all("PrometheusRule"):
        assert item["metadata"]["name"] == release.name
        assert values["labels"].items() <= item["metadata"]["labels"].items()
        assert item["spec"] == {"groups": _groups(release.case)}


@cache
def _groups(case: str) -> list[Object]:
    """The groups of rules, filled in by other means than the chart's."""
    whole = release(case)
    values = whole.values["metrics"]["rules"]
    objectives = values["objectives"]
    texts = {"runbooks": values["runbookUrl"], **values["severities"]}
    timeout = min(whole.config(worker).get("JOBS_SESSION_TIMEOUT", 10) for worker in whole.workers)
    filled = {
        "namespace": "shop",
        "release": whole.name,
        "pods": f'namespace="shop",pod=~"{whole.name}-(api|worker)-.+"',
        "recorded": f'namespace="shop",release="{whole.name}"',
        **{name: json.dumps(text)[1:-1] for name, text in texts.items()},  # as YAML has it between double quotes
        "late": str(values["lateSeconds"]),
        "heartbeat": f"{timeout / 2:g}",
        "migrationDeadline": str(whole.values["migrate"]["activeDeadlineSeconds"]),
        "apiReplicas": str(_least(whole.values["api"])),
        "workerReplicas": str(sum(_least(whole.values[worker]) for worker in whole.workers)),
        "latencyExceptRoutes": objectives["latency"]["exceptRoutes"],
    }
    for name, promise in objectives.items():
        filled[name] = f"{promise['percent']:g}"
        filled[f"{name}Minimum"] = str(promise["minimum"])
        seconds = f"{promise.get('seconds', 0):g}"
        filled[f"{name}Seconds"] = seconds.replace(".", "[.]") if "." in seconds else f"{seconds}([.]0)?"
    groups = []
    for file in sorted((CHART / "rules").glob("*.yaml")):
        if file.stem == "certificates" and not values["certManager"]:
            continue
        text = file.read_text()
        for name, value in filled.items():
            text = text.replace(f"${{{name}}}", value)
        groups += yaml.safe_load(text)["groups"]
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        rule["labels"] = {**values["additionalLabels"], **rule["labels"]}
    return groups


def _least(component: Object) -> int:
    scaling = [component[name] for name in ("keda", "autoscaling") if component.get(name, {}).get("enabled")]
    return int(scaling[0]["minReplicas"] if scaling else component["replicas"])


def dashboards_are_the_files(release: Release) -> None:
    values = release.values["metrics"]["dashboards"]
    if not values["enabled"]:
        return
    for file in (CHART / "dashboards").glob("*.json"):
        item = release.get("ConfigMap", f"dashboard-{file.stem}")
        assert values["labels"].items() <= item["metadata"]["labels"].items()
        assert item["metadata"].get("annotations", {}) == values["annotations"]
        assert item["data"] == {f"plinth-{file.name}": file.read_text()}
