"""A release on a Cluster of CloudNativePG, and a watch on its primary and on readiness."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from kubernetes import client

from tests.e2e import primary_watch
from tests.e2e.cluster import Cluster, image
from tests.e2e.release import RESTRICTED_CONTAINER, RESTRICTED_POD, URL, Release, until

NAME = "plinth-database"
INSTANCES = 3
OPERATOR = {"app.kubernetes.io/component": "operator", "app.kubernetes.io/name": "plinth"}
# As CloudNativePG says it.
HEALTHY = "Cluster in healthy state"

# One instance on each node of k8s/kind.yaml, so that one can be drained.
VALUES: dict[str, Any] = {
    "environment": "local",
    "postgresql": {"enabled": False},
    "cloudnativepg": {
        "enabled": True,
        "instances": INSTANCES,
        "storage": {"size": "1Gi"},
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "512Mi"}},
        "spec": {
            "affinity": {
                "podAntiAffinityType": "required",
                "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
            },
        },
    },
}


class ClusterRelease(Release):
    """The release `plinth` on a Cluster with a primary and two standbys."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        super().__init__(cluster, namespace)
        self._objects: Any = client.CustomObjectsApi(self.core.api_client)
        self._where = ("postgresql.cnpg.io", "v1", namespace, "clusters", NAME)

    def status(self) -> dict[str, Any]:
        """What the operator says of the Cluster."""
        status: dict[str, Any] = self._objects.get_namespaced_custom_object(*self._where)["status"]
        return status

    @property
    def primary(self) -> str:
        """The name of the primary's pod."""
        return str(self.status()["currentPrimary"])

    def node(self, pod: str) -> str:
        return str(self.core.read_namespaced_pod(pod, self.namespace).spec.node_name)

    def healthy(self) -> bool:
        """Whether all instances serve and all standbys stream.

        The operator calls a Cluster healthy with a standby that has not followed the last failover. When the other one
        goes too, each commit waits.
        """
        status = self.status()
        serving = status["phase"] == HEALTHY and status.get("readyInstances") == INSTANCES
        return serving and self.streaming() == INSTANCES - 1

    def streaming(self) -> int:
        return int(self.sql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"))

    def wait_until_healthy(self, *, within: float = 240) -> None:
        until(self.healthy, f"{INSTANCES} instances serve, and the standbys stream", within=within)
        self.wait_until_ready()

    def wait_until_ready(self, *, api: int = 2, worker: int = 1, within: float = 120) -> None:
        wanted = {"redis": 1, "api": api, "worker": worker}
        until(lambda: all(self.ready(*pair) for pair in wanted.items()), f"ready are {wanted}", within=within)

    def promote(self, pod: str) -> None:
        """Have a standby take the primary's place, as `kubectl cnpg promote` does it."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        status = {
            "targetPrimary": pod,
            "targetPrimaryTimestamp": moment,
            "phase": "Switchover in progress",
            "phaseReason": f"Switching over to {pod}",
        }
        self._objects.patch_namespaced_custom_object_status(*self._where, {"status": status})

    def sql(self, statement: str) -> str:
        psql = ("psql", "--dbname", "app", "--tuples-only", "--no-align", "--command", statement)
        return self.execute(self.primary, *psql).strip()


@dataclass
class Watched:
    """What was seen of the database and of readiness, in seconds since 1970."""

    # When a try to write a row began, and whether it came through.
    rows: list[tuple[float, bool]] = field(default_factory=list)
    # When readiness was asked, and whether it said yes.
    readiness: list[tuple[float, bool]] = field(default_factory=list)

    def is_back(self) -> bool:
        """Whether the last row came through."""
        return self.rows[-1][1]

    def away(self) -> list[tuple[float, float]]:
        """When no row came through, the longest time first: from the last one before to the first one after."""
        written = [moment for moment, came_through in self.rows if came_through]
        failed = [moment for moment, came_through in self.rows if not came_through]
        gaps = [pair for pair in pairwise(written) if any(pair[0] < moment < pair[1] for moment in failed)]
        return sorted(gaps, key=lambda gap: gap[0] - gap[1])


@contextmanager
def watched(release: ClusterRelease) -> Iterator[Watched]:
    """Watch the primary from within the cluster and readiness from outside while the block runs."""
    seen = Watched()
    pod = _start_watch(release)
    over = threading.Event()
    thread = threading.Thread(target=_ask_readiness, args=(seen, over))
    thread.start()
    try:
        yield seen
        release.execute(pod, "touch", "/tmp/stop")
        until(lambda: release.phase(pod) == "Succeeded", "the watch has ended", within=30)
        log = release.core.read_namespaced_pod_log(pod, release.namespace, _preload_content=False).data.decode()
        for line in log.splitlines():
            # Between them asyncio may tell of connections that were lost while they were made.
            if row := re.match(r"(\d+\.\d+) (.*)", line):
                seen.rows.append((float(row[1]), row[2] == "ok"))
    finally:
        over.set()
        thread.join()
        release.remove_pod(pod)
        release.core.delete_namespaced_config_map(pod, release.namespace)


def _ask_readiness(seen: Watched, over: threading.Event) -> None:
    # A connection for each: when no pod is ready, there is none to be had.
    while not over.wait(0.25):
        moment = time.time()
        try:
            ready = httpx.get(f"{URL}public/health/ready", timeout=2).status_code == 200
        except httpx.HTTPError:
            ready = False
        seen.readiness.append((moment, ready))


def _start_watch(release: ClusterRelease) -> str:
    name = "primary-watch"
    release.sql("CREATE TABLE IF NOT EXISTS primary_watch (at timestamptz); ALTER TABLE primary_watch OWNER TO app")
    script = Path(primary_watch.__file__).read_text()
    release.core.create_namespaced_config_map(
        release.namespace, {"metadata": {"name": name}, "data": {"watch.py": script}}
    )
    secret = {"secretKeyRef": {"name": f"{NAME}-app", "key": "uri"}}
    container = {
        "name": name,
        "image": image("1"),
        "command": ["python", "/watch/watch.py", "/tmp/stop"],
        "env": [{"name": "DATABASE_URL", "valueFrom": secret}],
        "volumeMounts": [{"name": "watch", "mountPath": "/watch"}, {"name": "tmp", "mountPath": "/tmp"}],
        **RESTRICTED_CONTAINER,
    }
    labels = OPERATOR | {"app.kubernetes.io/instance": "plinth"}
    release.core.create_namespaced_pod(
        release.namespace,
        {
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "restartPolicy": "Never",
                **RESTRICTED_POD,
                # Nodes may be drained under it.
                "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
                "tolerations": [{"operator": "Exists"}],
                "containers": [container],
                "volumes": [{"name": "watch", "configMap": {"name": name}}, {"name": "tmp", "emptyDir": {}}],
            },
        },
    )
    until(lambda: release.phase(name) == "Running", "the watch runs", within=30)
    return name


def values_file(folder: Path) -> str:
    path = folder / "values.json"
    path.write_text(json.dumps(VALUES))
    return str(path)
