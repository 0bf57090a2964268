"""`k8s/observability`: fits together, fits the chart, and is as restricted as the release."""

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.chart.schemas import problems
from tests.chart.tools import NEWEST, OLDEST, ROOT, Object, default_values, merged, objects_of, run, template, tool

FOLDER = ROOT / "k8s" / "observability"
FILES = {path.name: objects_of(path.read_text()) for path in sorted(FOLDER.glob("*.yaml")) if "values" not in path.name}
OBJECTS = [item for items in FILES.values() for item in items]
VALUES = {path.stem.partition("-")[2]: yaml.safe_load(path.read_text()) for path in FOLDER.glob("values-*.yaml")}


def _get(kind: str, name: str) -> Object:
    (item,) = [item for item in OBJECTS if item["kind"] == kind and item["metadata"]["name"] == name]
    return item


def _pods() -> dict[str, Object]:
    return {
        item["metadata"]["name"]: item["spec"]["template"]["spec"] for item in OBJECTS if item["kind"] == "Deployment"
    }


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("file", FILES)
def test_objects_are_what_kubernetes_takes(file: str, version: str) -> None:
    for item in FILES[file]:
        if item["apiVersion"] != "monitoring.coreos.com/v1":
            assert problems(version, item) == [], item["metadata"]["name"]


def test_everything_is_in_one_namespace_which_is_restricted() -> None:
    namespace = _get("Namespace", "monitoring")
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    for item in OBJECTS:
        if item["kind"] not in ("Namespace", "ClusterRole", "ClusterRoleBinding"):
            assert item["metadata"]["namespace"] == "monitoring"
    assert default_values()["networkPolicy"]["metricsNamespace"] == "monitoring"


def test_pods_meet_the_restricted_standard() -> None:
    assert _pods().keys() == {"prometheus", "otel-collector", "jaeger"}
    for spec in [*_pods().values(), _get("Prometheus", "plinth")["spec"]]:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for spec in _pods().values():
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}


def test_only_prometheus_has_rights_and_may_only_find_pods() -> None:
    for name, spec in _pods().items():
        assert spec["automountServiceAccountToken"] is (name == "prometheus")
    assert _get("ClusterRole", "plinth-prometheus")["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    ]
    account = {"kind": "ServiceAccount", "name": "prometheus", "namespace": "monitoring"}
    assert _get("ClusterRoleBinding", "plinth-prometheus")["subjects"] == [account]
    assert _pods()["prometheus"]["serviceAccountName"] == "prometheus"
    assert _get("Prometheus", "plinth")["spec"]["serviceAccountName"] == "prometheus"


def test_services_lead_to_ports_that_are_there() -> None:
    for item in OBJECTS:
        if item["kind"] == "Service":
            name = item["metadata"]["name"]
            assert item["spec"]["selector"] == {"app.kubernetes.io/name": name}
            (container,) = _pods()[name]["containers"]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            assert all(ports[port["targetPort"]] == port["port"] for port in item["spec"]["ports"])


def test_the_collector_hands_on_to_jaeger() -> None:
    config = yaml.safe_load(_get("ConfigMap", "otel-collector")["data"]["config.yaml"])
    pipeline = config["service"]["pipelines"]["traces"]
    assert set(pipeline["receivers"]) == config["receivers"].keys()
    assert set(pipeline["processors"]) == config["processors"].keys()
    assert set(pipeline["exporters"]) == config["exporters"].keys()
    assert pipeline["processors"][0] == "memory_limiter", "what is refused is not to be batched first"
    protocols = {
        name: int(options["endpoint"].rpartition(":")[2])
        for name, options in config["receivers"]["otlp"]["protocols"].items()
    }
    (container,) = _pods()["otel-collector"]["containers"]
    assert {port["name"].removeprefix("otlp-"): port["containerPort"] for port in container["ports"]} == protocols
    host, _, port = config["exporters"]["otlp_grpc"]["endpoint"].partition(":")
    assert host == "jaeger.monitoring"
    assert int(port) in {entry["port"] for entry in _get("Service", "jaeger")["spec"]["ports"]}


def test_servers_listen_on_ipv6_too() -> None:
    """On a cluster of IPv6 alone a pod has no other address."""
    for file in FOLDER.glob("*.yaml"):
        assert "0.0.0.0" not in file.read_text(), file.name
    receivers = yaml.safe_load(_get("ConfigMap", "otel-collector")["data"]["config.yaml"])["receivers"]
    assert {of["endpoint"] for of in receivers["otlp"]["protocols"].values()} == {":4317", ":4318"}


def test_plain_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "prometheus.yml"
    file.write_text(_get("ConfigMap", "prometheus")["data"]["prometheus.yml"])
    done = run(tool("PROMTOOL"), "check", "config", "--syntax-only", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_plain_prometheus_gives_the_labels_that_queries_select_by() -> None:
    (job,) = yaml.safe_load(_get("ConfigMap", "prometheus")["data"]["prometheus.yml"])["scrape_configs"]
    given = {step["target_label"] for step in job["relabel_configs"] if "target_label" in step}
    assert {"namespace", "pod"} <= given


def test_both_ways_keep_exemplars() -> None:
    (container,) = _pods()["prometheus"]["containers"]
    assert "--enable-feature=exemplar-storage" in container["args"]
    assert _get("Prometheus", "plinth")["spec"]["enableFeatures"] == ["exemplar-storage"]


@pytest.mark.parametrize("way", VALUES)
def test_the_values_fit_the_chart_and_lead_here(way: str) -> None:
    values = VALUES[way]
    items = objects_of(template(values))
    assert {"PodMonitor", "PrometheusRule"} <= {item["kind"] for item in items} or way == "plain"
    endpoint = urlsplit(values["tracing"]["endpoint"])
    service, _, namespace = str(endpoint.hostname).partition(".")
    assert namespace == values["networkPolicy"]["collectorNamespace"] == "monitoring"
    assert endpoint.port in {port["port"] for port in _get("Service", service)["spec"]["ports"]}
    # What `make observe COLLECTOR=jaeger` makes of it.
    assert endpoint.port in {port["port"] for port in _get("Service", "jaeger")["spec"]["ports"]}


def test_pods_are_found_in_one_of_the_two_ways() -> None:
    assert VALUES.keys() == {"operator", "plain"}
    for way, values in VALUES.items():
        metrics = merged(default_values()["metrics"], values["metrics"])
        assert metrics["podMonitor"]["enabled"] is (way == "operator")
        assert metrics["scrapeAnnotations"] is (way == "plain")
        assert metrics["rules"]["enabled"] is (way == "operator")


def test_rules_for_plain_prometheus_are_the_chart_s() -> None:
    """The recipe of the script and of the page, whose `sed` depends on how the chart writes its object."""
    for file in (ROOT / "scripts" / "observe.sh", FOLDER / "README.md"):
        assert "sed '1,/^spec:/d; s/^  //'" in file.read_text()
    only = ("--show-only=templates/observability/rules.yaml",)
    manifest = template({"metrics": {"rules": {"enabled": True}}}, options=only)
    lines = manifest.splitlines()
    rules = "\n".join(line.removeprefix("  ") for line in lines[lines.index("spec:") + 1 :])
    (item,) = objects_of(manifest)
    assert yaml.safe_load(rules) == item["spec"]


def test_make_loads_the_images_that_are_used() -> None:
    used = {container["image"] for spec in _pods().values() for container in spec["containers"]}
    used.add(_get("Prometheus", "plinth")["spec"]["image"])
    done = subprocess.run(
        ["make", "-n", "observe", "COLLECTOR=otel-collector"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (images,) = re.findall("for image in (.*?); do", done.stdout)
    assert set(images.split()) == used


def test_the_page_names_every_file() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.yaml)\)", (FOLDER / "README.md").read_text()))
    assert linked == {path.name for path in FOLDER.glob("*.yaml")}
