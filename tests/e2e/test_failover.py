"""A PostgreSQL that changes its primary under load, planned and not. Each test leaves everything ready again."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e import addons
from tests.e2e.cluster import Cluster
from tests.e2e.database_cluster import ClusterRelease, values_file, watched
from tests.e2e.release import own_namespace, until
from tests.e2e.traffic import Traffic, traffic

# On each side, and requests a second of each: a hundred a second. An owner may keep fifty exports.
CALLERS, RATE = 10, 5
# Seconds after the first row that is written again.
AGAIN_WITHIN = 5
# A row that comes through begins before the primary is gone, and may end after it.
SLACK = 1
# The share of requests that may fail at other times: this may be a busy machine.
STRAY = 0.01
# An outage of which readiness tells: it needs two checks that fail, a second apart.
WORTH_TELLING = 5


# Six minutes on a quiet machine: `make e2e ARGS='-m "" -k test_failover'`.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> str:
    return values_file(tmp_path_factory.mktemp("values"))


@pytest.fixture(scope="module")
def release(cluster: Cluster, values: str) -> Iterator[ClusterRelease]:
    addons.install(cluster, addons.CLOUDNATIVE_PG)
    with own_namespace(ClusterRelease(cluster, "plinth-failover")) as release:
        release.install("1", "--values", values)
        yield release


@pytest.fixture
def ready(release: ClusterRelease) -> Iterator[ClusterRelease]:
    release.wait_until_healthy()
    yield release
    release.wait_until_healthy()


@contextmanager
def nothing_is_lost(release: ClusterRelease, folder: Path) -> Iterator[None]:
    """Load while the block runs, which takes the primary away and waits until there is one again."""
    restarts = release.restarts("api", "worker")
    with watched(release) as seen, traffic(release, folder, retry=True, rate=RATE, callers=CALLERS) as load:
        time.sleep(5)
        yield
        time.sleep(10)
        standbys = release.streaming()
    assert seen.is_back(), f"no row comes through any more, and {standbys} standbys stream"
    gaps = seen.away()
    unready = [moment for moment, ready in seen.readiness if not ready]
    outside = [
        failure
        for moment, failure in zip(load.failed_at, load.failures, strict=False)
        if not any(left - SLACK < moment < back + AGAIN_WITHIN for left, back in gaps)
    ]
    report(folder.name, load, unready, gaps, len(outside))
    load.kept(release)
    assert len(outside) <= STRAY * load.requests, outside[:20]
    left, back = gaps[0]
    assert back - left < WORTH_TELLING or any(left < moment < back for moment in unready)
    assert max(unready, default=0) < max(back for _, back in gaps) + AGAIN_WITHIN
    assert release.restarts("api", "worker") == restarts


def report(name: str, load: Traffic, unready: list[float], gaps: list[tuple[float, float]], outside: int) -> None:
    """Print the figures to quote: of the longest time without a primary, and of failures and readiness around it."""
    left, back = gaps[0]
    near = [moment for moment in load.failed_at if left - SLACK < moment < back + 2 * AGAIN_WITHIN]
    told = [moment for moment in unready if left < moment < back + 2 * AGAIN_WITHIN]
    print(  # noqa: T201
        f"\n{name}: no primary for {', '.join(f'{back - left:.1f}' for left, back in gaps[:4])} s;"
        f" {len(load.failed_at)} of {load.requests} requests failed, {outside} of them at another time;"
        f" in the longest the last {max(near, default=back) - back:+.1f} s after it was back;"
        f" unready after {min(told, default=back) - left:.1f} s, until {max(told, default=back) - back:+.1f} s"
    )


def test_killed_primary(ready: ClusterRelease, tmp_path: Path) -> None:
    old = ready.primary
    with nothing_is_lost(ready, tmp_path):
        ready.kill(ready.core.read_namespaced_pod(old, ready.namespace))
        until(lambda: ready.primary != old, "there is another primary", within=90)


def test_planned_switchover(ready: ClusterRelease, tmp_path: Path) -> None:
    old = ready.primary
    new = min(set(ready.status()["instanceNames"]) - {old})
    with nothing_is_lost(ready, tmp_path):
        ready.promote(new)
        until(lambda: ready.primary == new, "it is the primary", within=90)


def test_drained_node_of_the_primary(ready: ClusterRelease, tmp_path: Path) -> None:
    """By `kubectl drain`. Pods of ours are there too; the volume cannot move in this cluster, so its instance waits."""
    if "control-plane" in ready.node(ready.primary):
        other = next(name for name in ready.status()["instanceNames"] if "control-plane" not in ready.node(name))
        ready.promote(other)
        until(lambda: ready.primary == other, "the primary is where it can be drained", within=90)
        ready.wait_until_healthy()
    old = ready.primary
    node = ready.node(old)
    try:
        with nothing_is_lost(ready, tmp_path):
            drain = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=150s")
            ready.cluster.kubectl("drain", node, *drain)
            assert ready.primary != old
            ready.wait_until_ready()
    finally:
        ready.cluster.kubectl("uncordon", node)


def test_setting_that_needs_a_restart(ready: ClusterRelease, values: str, tmp_path: Path) -> None:
    with nothing_is_lost(ready, tmp_path):
        ready.upgrade("1", "--values", values, "--set", "cloudnativepg.parameters.shared_buffers=64MB")
        until(lambda: shared_buffers(ready) == "64MB", "the primary has it", within=180)
        until(ready.healthy, "all instances serve", within=120)


@pytest.mark.slow
def test_killed_primary_behind_a_pooler(ready: ClusterRelease, values: str, tmp_path: Path) -> None:
    """Its image, ghcr.io/cloudnative-pg/pgbouncer, is the operator's choice, and comes from there."""
    ready.upgrade("1", "--values", values, "--set", "cloudnativepg.pooler.enabled=true", timeout=300)
    ready.wait_until_healthy()
    old = ready.primary
    with nothing_is_lost(ready, tmp_path):
        ready.kill(ready.core.read_namespaced_pod(old, ready.namespace))
        until(lambda: ready.primary != old, "there is another primary", within=90)


def shared_buffers(release: ClusterRelease) -> str:
    try:
        return release.sql("SHOW shared_buffers")
    except AssertionError:  # it restarts
        return ""
