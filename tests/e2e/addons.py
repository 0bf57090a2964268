"""What the release works with and does not bring: the Prometheus operator, KEDA and CloudNativePG.

E2E_ADDON names a program that installs them where the projects' own addresses cannot be reached; it is called with the
name of the kind cluster and those of the add-ons, and waits for them.
"""

import os

from tests.e2e.cluster import Cluster, run

PROMETHEUS_OPERATOR = "prometheus-operator"
KEDA = "keda"
CLOUDNATIVE_PG = "cloudnative-pg"

# As their projects say to install them. Server-side, since their custom resources are too long for an annotation.
_RELEASES = "https://github.com"
_MANIFESTS = {
    PROMETHEUS_OPERATOR: f"{_RELEASES}/prometheus-operator/prometheus-operator/releases/download/v0.85.0/bundle.yaml",
    KEDA: f"{_RELEASES}/kedacore/keda/releases/download/v2.20.2/keda-2.20.2-core.yaml",
    CLOUDNATIVE_PG: f"{_RELEASES}/cloudnative-pg/cloudnative-pg/releases/download/v1.27.0/cnpg-1.27.0.yaml",
}
_DEPLOYMENTS = {
    PROMETHEUS_OPERATOR: [("default", "prometheus-operator")],
    KEDA: [("keda", "keda-operator"), ("keda", "keda-metrics-apiserver")],
    CLOUDNATIVE_PG: [("cnpg-system", "cnpg-controller-manager")],
}


def install(cluster: Cluster, *names: str) -> None:
    """Install add-ons and wait until they are there. Those that are there already stay as they are."""
    if program := os.environ.get("E2E_ADDON"):
        run(program, cluster.name, *names, environment=cluster.environment)
        return
    for name in names:
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "--filename", _MANIFESTS[name])
        for namespace, deployment in _DEPLOYMENTS[name]:
            cluster.kubectl("rollout", "status", f"deployment/{deployment}", "--namespace", namespace, "--timeout=180s")
