"""Names, labels, and that what refers to something finds it."""

from tests.chart.cases import Release
from tests.chart.tools import CHART, Object

_SELECTOR = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component")
_COMPONENTS = {
    "api",
    "migrate",
    "postgresql",
    "redis",
    "networkpolicy",
    "tests",
    "metrics",
    "key",
    "database",
    "pooler",
}

_API_VERSIONS = {
    "Cluster": "postgresql.cnpg.io/v1",
    "Pooler": "postgresql.cnpg.io/v1",
    "ConfigMap": "v1",
    "Deployment": "apps/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "Ingress": "networking.k8s.io/v1",
    "Job": "batch/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "Pod": "v1",
    "PodDisruptionBudget": "policy/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "ScaledObject": "keda.sh/v1alpha1",
    "Secret": "v1",
    "Service": "v1",
    "ServiceAccount": "v1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "StatefulSet": "apps/v1",
    "TriggerAuthentication": "keda.sh/v1alpha1",
}


_EXTRA = {"plinth-map", "plinth-text"}


def _chart_objects(release: Release) -> list[Object]:
    return [item for item in release.objects if item["metadata"]["name"] not in _EXTRA]


def every_object_says_what_it_is_and_where(release: Release) -> None:
    versions = dict(line.split(": ", 1) for line in (CHART / "Chart.yaml").read_text().splitlines() if ": " in line)
    for item in _chart_objects(release):
        metadata = item["metadata"]
        labels = {key: value for key, value in metadata["labels"].items() if key not in _own_labels(release, item)}
        assert metadata["namespace"] == "shop"
        assert metadata["name"].startswith(release.name)
        assert len(metadata["name"]) <= 63
        assert labels["app.kubernetes.io/component"] in _COMPONENTS | {*release.workers}
        assert labels == {
            "app.kubernetes.io/name": "plinth",
            "app.kubernetes.io/instance": "plinth",
            "app.kubernetes.io/component": labels["app.kubernetes.io/component"],
            "app.kubernetes.io/version": versions["appVersion"].strip('"'),
            "app.kubernetes.io/managed-by": "Helm",
            "helm.sh/chart": f"plinth-{versions['version']}",
        }


def _own_labels(release: Release, item: Object) -> Object:
    """Labels of the values, by which others select what is there for them."""
    sections = {
        "PodMonitor": "podMonitor",
        "ServiceMonitor": "serviceMonitor",
        "PrometheusRule": "rules",
        "ConfigMap": "dashboards",
    }
    section = sections.get(item["kind"])
    labels: Object = release.values["metrics"][section]["labels"] if section else {}
    return release.values["tests"]["podLabels"] if item["kind"] == "Pod" else labels


def kinds_are_of_versions_that_every_supported_kubernetes_has(release: Release) -> None:
    for item in release.objects:
        assert item["apiVersion"] == _API_VERSIONS[item["kind"]]


def no_two_objects_share_a_name(release: Release) -> None:
    names = [(item["kind"], item["metadata"]["name"]) for item in release.objects]
    assert len(names) == len(set(names))


def what_always_has_to_be_there_is_there(release: Release) -> None:
    for kind, name in (("Deployment", "api"), ("Deployment", "worker"), ("Service", "api"), ("Pod", "test")):
        release.get(kind, name)


def objects_are_there_when_their_values_say_so(release: Release) -> None:
    values = release.values
    expected = {
        ("StatefulSet", "postgresql"): values["postgresql"]["enabled"],
        ("Secret", "postgresql"): values["postgresql"]["enabled"],
        ("Service", "postgresql"): values["postgresql"]["enabled"],
        ("StatefulSet", "redis"): values["redis"]["enabled"],
        ("Secret", "redis-auth"): values["redis"]["enabled"],
        ("Cluster", "database"): values["cloudnativepg"]["enabled"],
        ("Pooler", "pooler"): values["cloudnativepg"]["pooler"]["enabled"],
        ("NetworkPolicy", "database"): values["cloudnativepg"]["enabled"] and values["networkPolicy"]["enabled"],
        ("Secret", "key"): bool(values["secretKey"]["value"]),
        ("Service", "redis"): values["redis"]["enabled"],
        ("PodDisruptionBudget", "api"): values["api"]["pdb"]["enabled"],
        ("HorizontalPodAutoscaler", "api"): values["api"]["autoscaling"]["enabled"],
        ("Ingress", "api"): values["ingress"]["enabled"],
        ("HTTPRoute", "api"): values["httpRoute"]["enabled"],
        ("ServiceAccount", "api"): values["api"]["serviceAccount"]["create"],
        ("ServiceAccount", "migrate"): values["migrate"]["mode"] == "job",
        ("NetworkPolicy", "default-deny"): values["networkPolicy"]["enabled"],
        ("Service", "api-metrics"): values["metrics"]["serviceMonitor"]["enabled"],
        **{
            ("Service", f"{worker}-metrics"): values["metrics"]["serviceMonitor"]["enabled"]
            for worker in release.workers
        },
        ("ConfigMap", "dashboard-service"): values["metrics"]["dashboards"]["enabled"],
        ("ConfigMap", "dashboard-jobs"): values["metrics"]["dashboards"]["enabled"],
        ("ConfigMap", "dashboard-resources"): values["metrics"]["dashboards"]["enabled"],
    }
    for worker in release.workers:
        expected |= {
            ("Deployment", worker): True,
            ("PodDisruptionBudget", worker): values[worker]["pdb"]["enabled"],
            ("HorizontalPodAutoscaler", worker): values[worker]["autoscaling"]["enabled"],
            ("ScaledObject", worker): values[worker]["keda"]["enabled"],
            ("TriggerAuthentication", worker): values[worker]["keda"]["enabled"],
            ("ServiceAccount", worker): values[worker]["serviceAccount"]["create"],
        }
    for (kind, name), there in expected.items():
        assert (release.find(kind, name) is not None) == there, f"{kind} {name}"
    extra = {item["metadata"]["name"] for item in release.objects if item["metadata"]["name"] in _EXTRA}
    assert extra == (_EXTRA if values["extraObjects"] else set())


def workloads_select_their_own_pods(release: Release) -> None:
    for kind in ("Deployment", "StatefulSet"):
        for item in release.all(kind):
            labels = {key: item["metadata"]["labels"][key] for key in _SELECTOR}
            assert item["spec"]["selector"] == {"matchLabels": labels}
            assert labels.items() <= item["spec"]["template"]["metadata"]["labels"].items()


def budgets_select_the_pods_of_their_component(release: Release) -> None:
    for item in release.all("PodDisruptionBudget"):
        labels = {key: item["metadata"]["labels"][key] for key in _SELECTOR}
        assert item["spec"]["selector"] == {"matchLabels": labels}


def services_reach_pods_of_one_component_on_a_port_they_have(release: Release) -> None:
    pods = release.pods()
    for service in release.all("Service"):
        component = service["metadata"]["labels"]["app.kubernetes.io/component"]
        selector = service["spec"]["selector"]
        assert selector == {key: service["metadata"]["labels"][key] for key in _SELECTOR}
        chosen = [name for name, pod in pods.items() if selector.items() <= pod["metadata"]["labels"].items()]
        assert chosen == [component]
        ports = {
            port["name"] for container in pods[component]["spec"]["containers"] for port in container.get("ports", [])
        }
        assert len(service["spec"]["ports"]) == 1
        assert service["spec"]["ports"][0]["targetPort"] in ports
        assert service["spec"]["ports"][0]["name"] == service["spec"]["ports"][0]["targetPort"]


def services_have_the_families_of_the_values(release: Release) -> None:
    for service in release.all("Service"):
        component = service["metadata"]["labels"]["app.kubernetes.io/component"]
        for key in ("ipFamilyPolicy", "ipFamilies"):
            wanted = release.values[component].get("service", release.values["api"]["service"])[key]
            assert service["spec"].get(key, type(wanted)()) == wanted


def pods_do_not_change_with_the_chart(release: Release) -> None:
    """A label with a version would roll every pod out, and give the Job a new name, for a change in a comment."""
    for name, pod in release.pods().items():
        if name != "tests":
            own = release.values[name].get("podLabels", {})
            assert pod["metadata"]["labels"].keys() == {*_SELECTOR, *own}


def accounts_exist_and_mount_no_token(release: Release) -> None:
    accounts = {item["metadata"]["name"]: item for item in release.all("ServiceAccount")}
    for component in (*release.watched, "migrate"):
        pod = release.pods().get(component)
        if pod is None:
            continue
        wanted = release.values[component]["serviceAccount"]
        # A hook runs before the chart's accounts are made.
        hook = component == "migrate" and release.values["migrate"]["mode"] == "hook"
        name = pod["spec"]["serviceAccountName"]
        if wanted["create"] and not hook:
            assert name == f"{release.name}-{component}"
            assert accounts[name]["automountServiceAccountToken"] is False
            assert accounts[name]["metadata"].get("annotations", {}) == wanted["annotations"]
        else:
            assert name == (wanted["name"] or "default")
    for component in ("postgresql", "redis", "tests"):
        if component in release.pods():
            assert release.pods()[component]["spec"]["serviceAccountName"] == "default"
