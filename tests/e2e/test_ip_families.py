"""The chart's defaults on clusters of their own: one with IPv6 alone, and one with both families."""

import json
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from tests.e2e import cluster as clusters
from tests.e2e.cluster import SERVER_IMAGES, Cluster, image
from tests.e2e.release import KEY, Release, namespace
from tests.e2e.visitor import visitor

CONFIG = """
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking: {{ipFamily: {family}}}
"""
VALUES = ("--set", "image.tag=e2e-1", "--set", f"secretKey.value={KEY}")


def cluster_of(family: str) -> Iterator[Cluster]:
    """A cluster of one node."""
    cluster = clusters.create(f"{clusters.NAME}-{family}", CONFIG.format(family=family))
    try:
        cluster.load(image("1"), *SERVER_IMAGES)
        yield cluster
    finally:
        clusters.delete(cluster)


def install(release: Release, *options: str) -> None:
    release.helm("install", "plinth", "charts/plinth", "--wait", "--timeout", "300s", *VALUES, *options)


class TestIPv6Alone:
    @pytest.fixture(scope="class")
    def release(self, images: list[str]) -> Iterator[Release]:
        for cluster in cluster_of("ipv6"):
            with namespace(cluster, "plinth-ipv6") as release:
                install(release)
                yield release

    def test_everything_is_ready_when_helm_comes_back(self, release: Release) -> None:
        """By probes of each pod, to addresses of IPv6."""
        for component, number in {"api": 2, "worker": 1, "postgresql": 1, "redis": 1}.items():
            assert release.ready(component, number)
            assert {ip_address(pod.status.pod_ip).version for pod in release.pods(component)} == {6}
        assert release.restarts("api", "worker", "postgresql", "redis") == 0

    def test_helm_test_passes(self, release: Release) -> None:
        assert "Succeeded" in release.helm("test", "plinth")


class TestBothFamilies:
    @pytest.fixture(scope="class")
    def release(self, images: list[str]) -> Iterator[Release]:
        for cluster in cluster_of("dual"):
            with namespace(cluster, "plinth-dual") as release:
                install(release, "--set", "api.service.ipFamilyPolicy=RequireDualStack")
                yield release

    def test_the_service_answers_on_both(self, release: Release) -> None:
        service = release.core.read_namespaced_service("plinth-api", release.namespace)
        addresses = service.spec.cluster_i_ps
        assert {ip_address(address).version for address in addresses} == {4, 6}
        with visitor(release, {}) as name:
            assert answering(release, name, [(address, 80) for address in addresses]) == {*addresses}

    @pytest.mark.parametrize(("component", "port"), [("api", 8000), ("api", 9090), ("worker", 9090)])
    def test_each_pod_listens_on_both(self, release: Release, component: str, port: int) -> None:
        pod = release.pods(component)[0]
        addresses = [entry.ip for entry in pod.status.pod_i_ps]
        assert {ip_address(address).version for address in addresses} == {4, 6}
        assert answering(release, pod.metadata.name, [(address, port) for address in addresses]) == {*addresses}

    def test_helm_test_passes(self, release: Release) -> None:
        assert "Succeeded" in release.helm("test", "plinth")


def answering(release: Release, pod: str, addresses: list[tuple[str, int]]) -> set[str]:
    """The hosts among the addresses that take a connection from a pod."""
    script = f"""
import json, socket
for address in json.loads({json.dumps(addresses)!r}):
    try:
        socket.create_connection(address, timeout=3).close()
        print(address[0])
    except OSError:
        pass
"""
    return set(release.execute(pod, "python", "-c", script).split())
