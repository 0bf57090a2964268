"""The chart's defaults on clusters of their own: one with IPv6 alone, and one with both families."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

import pytest

from tests.e2e import cluster as clusters
from tests.e2e.cluster import SERVER_IMAGES, image
from tests.e2e.release import KEY, Release, namespace
from tests.e2e.visitor import visitor

CONFIG = """
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking: {{ipFamily: {family}}}
"""
VALUES = ("--set", "image.tag=e2e-1", "--set", f"secretKey.value={KEY}")


@contextmanager
def installed(family: str, *options: str) -> Iterator[Release]:
    """A release on a cluster of one node, which goes with the block."""
    cluster = clusters.create(f"{clusters.NAME}-{family}", CONFIG.format(family=family))
    try:
        cluster.load(image("1"), *SERVER_IMAGES)
        with namespace(cluster, f"plinth-{family}") as release:
            release.helm("install", "plinth", "charts/plinth", "--wait", "--timeout", "300s", *VALUES, *options)
            yield release
    finally:
        clusters.delete(cluster)


@pytest.fixture(scope="module")
def releases(images: list[str]) -> Iterator[dict[str, Release]]:
    """One for each, by family. They are made side by side: most of the minute and a half that one takes is waiting."""
    options = {"ipv6": (), "dual": ("--set", "api.service.ipFamilyPolicy=RequireDualStack")}
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        making = {
            family: threads.submit(stack.enter_context, installed(family, *those)) for family, those in options.items()
        }
        yield {family: made.result() for family, made in making.items()}


@pytest.fixture
def ipv6(releases: dict[str, Release]) -> Release:
    return releases["ipv6"]


@pytest.fixture
def dual(releases: dict[str, Release]) -> Release:
    return releases["dual"]


class TestIPv6Alone:
    def test_everything_is_ready_when_helm_comes_back(self, ipv6: Release) -> None:
        """By probes of each pod, to addresses of IPv6."""
        for component, number in {"api": 2, "worker": 1, "postgresql": 1, "redis": 1}.items():
            assert ipv6.ready(component, number)
            assert {ip_address(pod.status.pod_ip).version for pod in ipv6.pods(component)} == {6}
        assert ipv6.restarts("api", "worker", "postgresql", "redis") == 0

    def test_helm_test_passes(self, ipv6: Release) -> None:
        assert "Succeeded" in ipv6.helm("test", "plinth")


class TestBothFamilies:
    def test_the_service_answers_on_both(self, dual: Release) -> None:
        service = dual.core.read_namespaced_service("plinth-api", dual.namespace)
        addresses = service.spec.cluster_ips
        assert {ip_address(address).version for address in addresses} == {4, 6}
        with visitor(dual, {}) as name:
            assert answering(dual, name, [(address, 80) for address in addresses]) == {*addresses}

    @pytest.mark.parametrize(("component", "port"), [("api", 8000), ("api", 9090), ("worker", 9090)])
    def test_each_pod_listens_on_both(self, dual: Release, component: str, port: int) -> None:
        pod = dual.pods(component)[0]
        addresses = [entry.ip for entry in pod.status.pod_ips]
        assert {ip_address(address).version for address in addresses} == {4, 6}
        assert answering(dual, pod.metadata.name, [(address, port) for address in addresses]) == {*addresses}

    def test_helm_test_passes(self, dual: Release) -> None:
        assert "Succeeded" in dual.helm("test", "plinth")


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
