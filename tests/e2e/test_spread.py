"""Where the scheduler puts replicas by the chart's defaults, on nodes without labels for zones and with them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.release import Release, until

ZONE = "topology.kubernetes.io/zone"
# Once could be luck.
ROLL_OUTS = 2


@pytest.fixture(scope="module")
def nodes(release: Release) -> list[str]:
    """Those that take pods. At least two, or nothing could spread."""
    nodes = [node for node in release.core.list_node().items if not node.spec.taints]
    assert len(nodes) >= 2
    assert not any(ZONE in node.metadata.labels for node in nodes)
    return [node.metadata.name for node in nodes]


def test_replicas_stand_on_different_nodes_without_zones(release: Release, nodes: list[str]) -> None:
    for _ in range(ROLL_OUTS):
        assert len(hosts(release)) == 2
        roll_out(release)
    assert len(hosts(release)) == 2


def test_replicas_stand_in_different_zones(release: Release, nodes: list[str]) -> None:
    zones = {node: f"zone-{min(number, 1)}" for number, node in enumerate(nodes)}
    with labelled(release, zones):
        for _ in range(ROLL_OUTS):
            roll_out(release)
            assert {zones[host] for host in hosts(release)} == {"zone-0", "zone-1"}


def test_replicas_stand_on_different_nodes_where_one_alone_has_a_zone(release: Release, nodes: list[str]) -> None:
    with labelled(release, {nodes[0]: "zone-0"}):
        for _ in range(ROLL_OUTS):
            roll_out(release)
            assert len(hosts(release)) == 2


def hosts(release: Release) -> set[str]:
    """The nodes of the API's pods."""
    pods = release.pods("api")
    assert len(pods) == 2
    return {pod.spec.node_name for pod in pods}


def roll_out(release: Release) -> None:
    release.cluster.kubectl("rollout", "restart", "deployment/plinth-api", "--namespace", release.namespace)
    release.cluster.kubectl(
        "rollout", "status", "deployment/plinth-api", "--namespace", release.namespace, "--timeout=120s"
    )
    until(lambda: release.ready("api", 2), "two pods are left", within=60)


@contextmanager
def labelled(release: Release, zones: dict[str, str]) -> Iterator[None]:
    """Nodes in zones for the time of the block."""
    try:
        for node, zone in zones.items():
            release.core.patch_node(node, {"metadata": {"labels": {ZONE: zone}}})
        yield
    finally:
        for node in zones:
            release.core.patch_node(node, {"metadata": {"labels": {ZONE: None}}})
