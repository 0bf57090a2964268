"""A group of workers beside the default one, added by an upgrade. The tests follow on one another."""

from tests.e2e.release import Release, caller, until

# All kinds of the sample are in the queue `default`, which the default group does not serve here.
GROUPS = (
    "--set", "workers.default.queues={mail}",
    "--set", "workers.exports.queues={default}",
    "--set", "workers.exports.replicas=2",
)  # fmt: skip


def deployments(release: Release) -> dict[str, str]:
    """The Deployments of the release, with what tells one from a successor of its name."""
    return {
        item.metadata.name: item.metadata.uid
        for item in release.apps.list_namespaced_deployment(release.namespace).items
    }


def test_an_upgrade_adds_a_group_and_leaves_the_deployments(release: Release) -> None:
    before = deployments(release)
    release.upgrade("1", *GROUPS)
    after = deployments(release)
    assert after.keys() - before.keys() == {"plinth-worker-exports"}
    assert before.items() <= after.items()
    assert release.ready("worker-exports", 2)
    until(lambda: release.ready("worker", 1), "one worker of the default group is left", within=60)


def test_a_group_runs_the_jobs_of_its_queues(release: Release) -> None:
    (token,) = release.tokens("alice")
    with caller(token) as http:

        def asked_for() -> str:
            return f"exports/{http.post('exports', json={'format': 'csv'}).raise_for_status().json()['id']}"

        path = asked_for()
        until(lambda: http.get(path).json()["status"] == "ready", "the export is ready", within=30)
        release.scale("deployment", "plinth-worker-exports", 0)
        until(lambda: not release.pods("worker-exports"), "the group has gone", within=60)
        path = asked_for()
        release.scale("deployment", "plinth-worker-exports", 1)
        assert http.get(path).json()["status"] != "ready"
        until(lambda: http.get(path).json()["status"] == "ready", "the export is ready", within=60)


def test_its_budget_lets_one_pod_go(release: Release) -> None:
    """Two budgets for one pod would let none be evicted."""
    (pod,) = release.pods("worker-exports")
    eviction = {"metadata": {"name": pod.metadata.name, "namespace": release.namespace}}
    release.core.create_namespaced_pod_eviction(pod.metadata.name, release.namespace, eviction)
    until(lambda: release.ready("worker-exports", 1), "another one is ready", within=90)
    assert release.pods("worker-exports")[0].metadata.name != pod.metadata.name
