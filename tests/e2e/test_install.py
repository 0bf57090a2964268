"""An install with the chart's own values, in a namespace that enforces the restricted Pod Security Standard.

The tests follow on one another; the last one uninstalls.
"""

import re
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient, ResourceList

from tests.e2e.atomic_lists import filled_in
from tests.e2e.release import Release, caller, until
from tests.e2e.visitor import visitor


class TestInstall:
    def test_everything_is_ready_when_helm_comes_back(self, release: Release) -> None:
        """The `release` was installed with `--wait`; nothing is waited for here."""
        assert release.ready("api", 2)
        assert release.ready("worker", 1)
        assert release.ready("postgresql", 1)
        assert release.ready("redis", 1)
        assert release.restarts("api", "worker", "postgresql", "redis") == 0
        (migration,) = release.batch.list_namespaced_job(release.namespace).items
        assert migration.status.succeeded == 1
        assert not migration.status.failed

    def test_server_fills_in_nothing_that_applying_it_again_would_change(self, release: Release) -> None:
        assert filled_in(release) == []

    def test_helm_test_passes(self, release: Release) -> None:
        """It makes an item and an export of its own. The pod is gone when it has, and its log with it."""
        assert "Succeeded" in release.helm("test", "plinth")

    def test_an_item_and_an_export_through_the_service(self, release: Release) -> None:
        (token,) = release.tokens("alice")
        with caller(token) as http:
            item = http.post("items", json={"name": "a lamp", "tags": ["e2e"]}).raise_for_status().json()
            path = f"exports/{http.post('exports', json={'format': 'ndjson'}).raise_for_status().json()['id']}"
            until(lambda: http.get(path).json()["status"] == "ready", "the export is ready", within=10)
            content = http.get(f"{path}/content").raise_for_status().text
            assert item["id"] in content
            assert content.count("\n") == 1

    def test_pods_that_are_not_restricted_would_have_been_refused(self, release: Release) -> None:
        """Else the install would have proved nothing."""
        pod = {"metadata": {"name": "loose"}, "spec": {"containers": [{"name": "loose", "image": "redis:8"}]}}
        with pytest.raises(ApiException, match="violates PodSecurity"):
            release.core.create_namespaced_pod(release.namespace, pod)


class TestNetworkPolicy:
    """Which of the release's ports a pod of the same namespace can reach. The same pod, but for its labels."""

    def test_a_stranger_reaches_the_api_and_nothing_else(self, release: Release) -> None:
        with visitor(release, {}) as name:
            assert reached(release, name) == {"api"}

    def test_an_operator_reaches_the_database(self, release: Release) -> None:
        with visitor(release, {"app.kubernetes.io/component": "operator"}) as name:
            assert reached(release, name) == {"postgresql"}

    def test_an_api_pod_reaches_the_servers_and_no_other_api_pod(self, release: Release) -> None:
        assert reached(release, release.pods("api")[-1].metadata.name) == {"postgresql", "redis"}


class TestUninstall:
    def test_leaves_nothing_but_the_volumes_that_the_notes_name(self, release: Release) -> None:
        named = re.findall(r"delete pvc (\S+)", release.helm("get", "notes", "plinth"))
        assert named
        release.helm("uninstall", "plinth", "--wait", "--timeout", "120s")
        until(lambda: left(release) == {f"PersistentVolumeClaim/{name}" for name in named}, "all is gone", within=30)


def reached(release: Release, pod: str) -> set[str]:
    """The servers that take a connection from a pod: `metrics` is an API pod's second port."""
    address = release.pods("api")[0].status.pod_ip
    servers = {
        "api": ("plinth-api", 80),
        "metrics": (address, 9090),
        "postgresql": ("plinth-postgresql", 5432),
        "redis": ("plinth-redis", 6379),
    }
    script = f"""
import socket
for name, address in {servers}.items():
    try:
        socket.create_connection(address, timeout=3).close()
        print(name)
    except OSError:
        pass
"""
    return set(release.execute(pod, "python", "-c", script).split())


def left(release: Release) -> set[str]:
    """Every object of the namespace but what Kubernetes puts into each, as Kind/name."""
    new_client: Any = DynamicClient
    objects = {
        f"{resource.kind}/{item.metadata.name}"
        for resource in new_client(release.core.api_client).resources.search(namespaced=True)
        if not isinstance(resource, ResourceList) and "list" in resource.verbs and resource.kind != "Event"
        for item in resource.get(namespace=release.namespace).items
    }
    return objects - {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}
