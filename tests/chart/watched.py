"""What the pods of a release carry so that others can watch them: annotations and variables."""

import hashlib

from tests.chart.cases import Release
from tests.chart.tools import Object

HOOK = {
    "helm.sh/hook": "test",
    "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
    "helm.sh/hook-output-log-policy": "hook-succeeded,hook-failed",
}


def scrape_annotations(release: Release, component: str) -> Object:
    wanted = release.values["metrics"]["scrapeAnnotations"] and component in release.watched
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": "9090", "prometheus.io/path": "/metrics"}
    return annotations if wanted else {}


def key_annotation(release: Release) -> Object:
    """Pods have read the key of the values, or a password that is made of it: another one rolls them out."""
    key = release.values["secretKey"]["value"]
    return {"checksum/secret-key": hashlib.sha256(key.encode()).hexdigest()[:16]} if key else {}


def tracing_variables(release: Release, component: str) -> Object:
    """The variables that lead to the collector: a value, or the field of the pod that it comes from."""
    values = release.values["tracing"]
    if not values["endpoint"] or component not in release.watched:
        return {}
    environment = release.values["environment"] or "production"
    attributes = {
        "deployment.environment.name": environment,
        "k8s.namespace.name": "$(K8S_NAMESPACE_NAME)",
        "k8s.node.name": "$(K8S_NODE_NAME)",
        "k8s.pod.name": "$(K8S_POD_NAME)",
        "service.version": release.values["image"]["tag"] or "0.1.0",
    } | values["resourceAttributes"]
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": {"value": values["endpoint"]},
        "OTEL_TRACES_SAMPLER": {"value": "parentbased_traceidratio"},
        "OTEL_TRACES_SAMPLER_ARG": {"value": str(values["ratio"])},
        "OTEL_SERVICE_NAME": {"value": f"{release.name}-{component}"},
        "K8S_NAMESPACE_NAME": {"valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        "K8S_NODE_NAME": {"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        "K8S_POD_NAME": {"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        "OTEL_RESOURCE_ATTRIBUTES": {"value": ",".join(f"{key}={attributes[key]}" for key in sorted(attributes))},
    }
