"""Prometheus and Jaeger in the cluster, asked through the API server."""

import json
import os
from functools import partial
from typing import Any
from urllib.parse import urlencode

from tests.e2e import addons
from tests.e2e.cluster import ROOT, Cluster, CommandFailed
from tests.e2e.release import until

FOLDER = ROOT / "k8s/observability"
NAMESPACE = "monitoring"
# Which Service takes the traces, as for `make observe`: the collector, or Jaeger itself.
COLLECTOR = os.environ.get("COLLECTOR", "otel-collector")
IMAGES = {
    "prometheus-plinth": "quay.io/prometheus/prometheus:v2.53.3",
    "jaeger": "jaegertracing/all-in-one:1.62.0",
    "otel-collector": "otel/opentelemetry-collector-contrib:0.150.0",
}


def install(cluster: Cluster) -> None:
    """Install what k8s/observability describes, and the operator that its Prometheus needs; wait until all is there."""
    workloads = {"prometheus-plinth": "statefulset", "jaeger": "deployment", COLLECTOR: "deployment"}
    cluster.load(*(IMAGES[name] for name in workloads))
    addons.install(cluster, addons.PROMETHEUS_OPERATOR)
    collector = [] if COLLECTOR == "jaeger" else ["collector"]
    for name in ("namespace", "prometheus", "prometheus-operator", "jaeger", *collector):
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "--filename", str(FOLDER / f"{name}.yaml"))
    made = partial(cluster.kubectl, "get", "statefulset", "--namespace", NAMESPACE)
    until(lambda: "prometheus-plinth" in made(), "the operator has made a Prometheus", within=60)
    for name, kind in workloads.items():
        cluster.kubectl("rollout", "status", f"{kind}/{name}", "--namespace", NAMESPACE, "--timeout=120s")


class Prometheus:
    """The one that `install` has made."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query: each with its `metric` (labels) and its `value` (time and text)."""
        answer = _get(self._cluster, "prometheus-operated:9090", "api/v1/query", query=expression)
        assert answer["status"] == "success", answer
        series: list[dict[str, Any]] = answer["data"]["result"]
        return series

    def number(self, expression: str) -> float:
        """The value of a query that gives one; 0 where it gives none."""
        series = self.query(expression)
        assert len(series) <= 1, series
        return float(series[0]["value"][1]) if series else 0

    def by(self, expression: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The values of a query by these labels. Series that stand at 0 are left out."""
        values = {
            tuple(series["metric"].get(label, "") for label in labels): float(series["value"][1])
            for series in self.query(expression)
        }
        return {key: value for key, value in values.items() if value}

    def rules(self, namespace: str) -> list[dict[str, Any]]:
        """The rules that have come from a namespace, as the last evaluation left them."""
        answer = _get(self._cluster, "prometheus-operated:9090", "api/v1/rules")
        return [
            rule for group in answer["data"]["groups"] if f"/{namespace}-" in group["file"] for rule in group["rules"]
        ]


def trace(cluster: Cluster, trace_id: str) -> list[dict[str, Any]]:
    """The spans of a trace, as Jaeger has them, each with its service under `service`; none if it has no such trace."""
    try:
        answer = _get(cluster, "jaeger:16686", f"api/traces/{trace_id}")
    except CommandFailed as error:
        if "NotFound" not in str(error):
            raise
        return []
    return [
        span | {"service": found["processes"][span["processID"]]["serviceName"]}
        for found in answer["data"]
        for span in found["spans"]
    ]


def _get(cluster: Cluster, service: str, path: str, **parameters: str) -> Any:
    proxy = f"/api/v1/namespaces/{NAMESPACE}/services/{service}/proxy"
    query = f"?{urlencode(parameters)}" if parameters else ""
    return json.loads(cluster.kubectl("get", "--raw", f"{proxy}/{path}{query}"))
