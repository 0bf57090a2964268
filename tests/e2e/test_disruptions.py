"""What goes away under a running service, planned and not. Each test leaves everything ready again."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from kubernetes.client.exceptions import ApiException

from tests.e2e.batch import ask_for_a_batch, batch_is_whole
from tests.e2e.release import Release, until
from tests.e2e.traffic import traffic

PODS = ("api", "worker")
# For so long a liveness probe that asked for the database would have let the pod be: 3 failures, 10 s apart.
LIVENESS_SECONDS = 35


@pytest.fixture
def ready(release: Release) -> Iterator[Release]:
    release.wait_until_ready()
    yield release
    release.wait_until_ready()


class TestKilled:
    def test_workers_of_a_running_batch(self, ready: Release) -> None:
        """Three workers die one after the other, and each export of the batch is made, whole and once.

        The kubelet gives a pod about two seconds even where no grace was asked for: the exports take longer.
        """
        exports = ask_for_a_batch(ready)
        for _ in range(3):
            until(lambda: running(ready) > 0, "jobs run", within=60)
            ready.kill(ready.pods("worker")[0])
            until(lambda: ready.ready("worker", 1), "there is a worker again", within=60)
        batch_is_whole(ready, exports)
        # Not before: a lost run is counted when its worker's session is over, and three kills may take less than that.
        assert killed_runs(ready, exports) > 0

    def test_api_pods_under_load(self, ready: Release, tmp_path: Path) -> None:
        """Callers that send a write again under its key have it done once, whatever became of the first answer."""
        with traffic(ready, tmp_path, retry=True) as seen:
            for _ in range(2):
                ready.kill(ready.pods("api")[0])
                until(lambda: ready.ready("api", 2), "there are two again", within=60)
        seen.kept(ready)

    def test_redis_with_all_that_is_in_it(self, ready: Release, tmp_path: Path) -> None:
        """No caller sees an error: it holds nothing that has to be kept."""
        before = {pod.metadata.uid for pod in ready.pods("redis")}
        with traffic(ready, tmp_path) as seen:
            ready.kill(ready.pods("redis")[0])
            until(lambda: before.isdisjoint(pod.metadata.uid for pod in ready.pods("redis")), "it is new", within=60)
            until(lambda: ready.ready("redis", 1), "there is a Redis again", within=60)
            time.sleep(5)
        seen.nothing_failed()
        seen.kept(ready)
        assert ready.restarts("api", "worker") == 0


class TestDatabaseAway:
    def test_pods_are_unready_and_not_restarted_and_nothing_is_lost(self, ready: Release, tmp_path: Path) -> None:
        before = ready.restarts("api", "worker")
        with traffic(ready, tmp_path, retry=True) as seen:
            time.sleep(3)
            ready.scale("stateful_set", "plinth-postgresql", 0)
            until(lambda: not ready.any_ready(*PODS), "no pod is ready", within=60)
            time.sleep(LIVENESS_SECONDS)
            ready.scale("stateful_set", "plinth-postgresql", 1)
            ready.wait_until_ready()
        seen.kept(ready)
        assert ready.restarts("api", "worker") == before


class TestPlanned:
    def test_a_drained_node_fails_no_request(self, ready: Release, tmp_path: Path) -> None:
        """Not the node of the database, whose volume cannot move in this cluster."""
        with traffic(ready, tmp_path) as seen, drained(ready, other_node(ready)):
            ready.wait_until_ready()
        seen.nothing_failed()
        seen.kept(ready)

    def test_scaling_to_three_and_back_fails_no_request(self, ready: Release, tmp_path: Path) -> None:
        ready.scale("deployment", "plinth-api", 1)
        until(lambda: ready.ready("api", 1), "one is left", within=60)
        with traffic(ready, tmp_path) as seen:
            for replicas in (3, 1):
                ready.scale("deployment", "plinth-api", replicas)
                ready.scale("deployment", "plinth-worker", replicas)
                ready.wait_until_ready(api=replicas, worker=replicas)
                # Those that leave answer for DRAIN_SECONDS more.
                time.sleep(10)
        ready.scale("deployment", "plinth-api", 2)
        seen.nothing_failed()
        seen.kept(ready)


def running(release: Release) -> int:
    return int(release.sql("SELECT count(*) FROM job WHERE state = 'running'"))


def killed_runs(release: Release, exports: list[str]) -> int:
    """How many runs of these exports' jobs their workers did not survive."""
    given = ",".join(f"'{export}'" for export in exports)
    return int(
        release.sql(
            "SELECT sum(crash_count) FROM export JOIN (SELECT id, crash_count FROM job UNION ALL SELECT id, crash_count"
            f" FROM job_history) jobs ON jobs.id = job_id WHERE export.id IN ({given})"
        )
    )


def other_node(release: Release) -> str:
    """A node of our pods on which the database is not."""
    (database,) = release.pods("postgresql")
    nodes = {pod.spec.node_name for component in PODS for pod in release.pods(component)}
    return str(min(nodes - {database.spec.node_name}))


@contextmanager
def drained(release: Release, node: str) -> Iterator[None]:
    """As `kubectl drain` does it: no new pods, and those that are there are evicted as their budgets allow."""
    release.core.patch_node(node, {"spec": {"unschedulable": True}})
    try:
        mine = [pod for component in (*PODS, "redis") for pod in release.pods(component) if pod.spec.node_name == node]
        assert mine
        for pod in mine:
            until(partial(evicted, release, pod.metadata.name), "its budget lets the pod go", within=90)
        yield
        assert not [pod for component in PODS for pod in release.pods(component) if pod.spec.node_name == node]
    finally:
        release.core.patch_node(node, {"spec": {"unschedulable": False}})


def evicted(release: Release, pod: str) -> bool:
    try:
        release.core.create_namespaced_pod_eviction(pod, release.namespace, {"metadata": {"name": pod}})
    except ApiException as error:
        # Too Many Requests: the budget allows none for now.
        if error.status != 429:
            raise
        return False
    return True
