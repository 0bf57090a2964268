"""KEDA, which asks the database how much there is to do."""

from collections.abc import Iterator

import pytest

from tests.e2e import addons
from tests.e2e.batch import ask_for_a_batch, batch_is_whole
from tests.e2e.cluster import Cluster
from tests.e2e.release import Release, namespace, until

WORKERS = 3
VALUES = (
    "--set", "worker.keda.enabled=true",
    "--set", f"worker.keda.maxReplicas={WORKERS}",
    "--set", "worker.keda.pollingInterval=2",
    "--set", "worker.keda.jobsPerReplica=2",
    "--set", "worker.keda.behavior.scaleDown.stabilizationWindowSeconds=5",
    # A worker that runs one export at a time leaves a backlog.
    "--set-string", "worker.config.JOBS_CONCURRENCY=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Iterator[Release]:
    addons.install(cluster, addons.KEDA)
    with namespace(cluster, "plinth-autoscaling") as release:
        release.install("1", *VALUES)
        yield release


def test_workers_come_with_a_backlog_and_go_with_it(release: Release) -> None:
    """And every job is done once, however many workers came and went meanwhile."""
    release.wait_until_ready()
    exports = ask_for_a_batch(release)
    until(lambda: release.ready("worker", WORKERS), f"{WORKERS} workers run", within=120)
    batch_is_whole(release, exports)
    until(lambda: release.ready("worker", 1), "one is left", within=180)
