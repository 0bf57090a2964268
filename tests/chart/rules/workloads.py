"""API, worker, migration and test: how they start, roll out and end."""

import re

from plinth.cli.server import GRACE_SECONDS
from tests.chart.cases import Release
from tests.chart.tools import Object


def _main(release: Release, component: str) -> Object:
    container: Object = release.ours()[component]["spec"]["containers"][0]
    return container


def _get(path: str, port: str) -> Object:
    return {"httpGet": {"path": path, "port": port}}


def commands_are_those_of_the_image(release: Release) -> None:
    host = release.values["listenHost"]
    assert _main(release, "api")["args"] == ["api", "--host", host, "--port", "8000"]
    for worker in release.workers:
        assert _main(release, worker)["args"] == ["worker", "--host", host]
    for component in (*release.watched, "migrate"):
        if component in release.ours():
            assert "command" not in _main(release, component)


def ports_have_names(release: Release) -> None:
    metrics = {"name": "metrics", "containerPort": 9090}
    assert _main(release, "api")["ports"] == [{"name": "http", "containerPort": 8000}, metrics]
    for worker in release.workers:
        assert _main(release, worker)["ports"] == [metrics]


def probes_ask_each_process_for_its_own_truth(release: Release) -> None:
    ready = f"{release.config('api')['API_V1_STR']}/public/health/ready"
    expected = {
        "api": {
            "startupProbe": _get("/livez", "metrics"),
            "livenessProbe": _get("/livez", "metrics"),
            "readinessProbe": _get(ready, "http"),
        },
    }
    of_worker = {
        "startupProbe": _get("/livez", "metrics"),
        "livenessProbe": _get("/livez", "metrics"),
        "readinessProbe": _get("/readyz", "metrics"),
    }
    expected |= dict.fromkeys(release.workers, of_worker)
    for component, probes in expected.items():
        for name, handler in probes.items():
            assert _main(release, component)[name] == handler | release.values[component][name]


def probes_leave_time_to_start_and_do_not_kill_for_a_hiccup(release: Release) -> None:
    for component in release.watched:
        container = _main(release, component)
        start, live, ready = container["startupProbe"], container["livenessProbe"], container["readinessProbe"]
        assert start["periodSeconds"] == 1, "a pod that starts in two seconds is not to wait for ten"
        assert start["periodSeconds"] * start["failureThreshold"] >= 60
        assert 20 <= live["periodSeconds"] * live["failureThreshold"] <= 60
        assert ready["periodSeconds"] * ready["failureThreshold"] <= 10
        assert live["timeoutSeconds"] >= 2 <= ready["timeoutSeconds"]


def the_api_drains_before_it_is_told_to_stop(release: Release) -> None:
    drain = ["plinth", "drain", "--port", str(_main(release, "api")["ports"][1]["containerPort"])]
    assert _main(release, "api")["lifecycle"] == {"preStop": {"exec": {"command": drain}}}
    for worker in release.workers:
        assert "lifecycle" not in _main(release, worker), "SIGTERM is what makes a worker claim no more"


def there_is_time_to_end(release: Release) -> None:
    needed = {
        "api": release.config("api")["DRAIN_SECONDS"] + GRACE_SECONDS + 5,
    }
    needed |= {worker: release.config(worker)["JOBS_SHUTDOWN_GRACE"] + 5 for worker in release.workers}
    for component, seconds in needed.items():
        grace = release.ours()[component]["spec"]["terminationGracePeriodSeconds"]
        assert grace == release.values[component]["terminationGracePeriodSeconds"] >= seconds


def pods_wait_for_the_migration(release: Release) -> None:
    for component in release.watched:
        (first,) = [item for item in release.ours()[component]["spec"]["initContainers"] if item["name"] == "wait"]
        assert first["args"] == ["wait", "--timeout", "300"]
        assert first["image"] == _main(release, component)["image"]
        assert first["env"] == _main(release, component)["env"]
        assert first.get("envFrom") == _main(release, component).get("envFrom")


def roll_outs_take_no_pod_away_before_a_new_one_is_there(release: Release) -> None:
    for component in release.watched:
        spec = release.get("Deployment", component)["spec"]
        values = release.values[component]
        assert spec["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": values["maxSurge"], "maxUnavailable": 0},
        }
        assert spec["minReadySeconds"] == values["minReadySeconds"] > 0
        assert spec["revisionHistoryLimit"] == 3
        assert release.get("Deployment", component)["metadata"].get("annotations", {}) == values["annotations"]


def replicas_are_stated_unless_an_autoscaler_owns_them(release: Release) -> None:
    for component in release.watched:
        values = release.values[component]
        scaled = values["autoscaling"]["enabled"] or values.get("keda", {}).get("enabled", False)
        assert release.get("Deployment", component)["spec"].get("replicas") == (None if scaled else values["replicas"])


def pods_spread_by_version(release: Release) -> None:
    """Over nodes by a constraint, and over zones by a preference: two constraints score no node without a zone."""
    for component, pod in release.pods().items():
        values = release.values[component]
        selector = release.selector(component)
        assert pod["spec"].get("topologySpreadConstraints", []) == [
            constraint | {"labelSelector": selector, "matchLabelKeys": ["pod-template-hash"]}
            for constraint in values.get("topologySpreadConstraints", [])
        ]
        affinity = dict(values["affinity"])
        if component in release.watched:
            term = {
                "topologyKey": "topology.kubernetes.io/zone",
                "labelSelector": selector,
                "matchLabelKeys": ["pod-template-hash"],
            }
            preference = [{"weight": 100, "podAffinityTerm": term}]
            affinity.setdefault("podAntiAffinity", {"preferredDuringSchedulingIgnoredDuringExecution": preference})
        assert pod["spec"].get("affinity", {}) == affinity


def budgets_let_drains_through(release: Release) -> None:
    for item in release.all("PodDisruptionBudget"):
        component = item["metadata"]["labels"]["app.kubernetes.io/component"]
        assert item["spec"]["maxUnavailable"] == release.values[component]["pdb"]["maxUnavailable"]
        assert item["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def the_migration_is_a_job_named_after_its_content(release: Release) -> None:
    mode = release.values["migrate"]["mode"]
    jobs = release.all("Job")
    assert len(jobs) == (mode != "disabled")
    for job in jobs:
        spec = job["spec"]
        assert re.fullmatch(rf"{release.name}-migrate-[0-9a-f]{{8}}", job["metadata"]["name"])
        assert spec["backoffLimit"] == release.values["migrate"]["backoffLimit"]
        assert spec["activeDeadlineSeconds"] == release.values["migrate"]["activeDeadlineSeconds"]
        # Helm leaves hooks behind, one for each image. Deleting any other makes GitOps tools run it again.
        assert spec.get("ttlSecondsAfterFinished") == (86400 if mode == "hook" else None)
        assert spec["template"]["spec"]["restartPolicy"] == "Never", "or the log of what failed is gone"
        assert spec["template"]["spec"]["containers"][0]["args"] == ["migrate", "--wait", "300"]
        hook = {
            "helm.sh/hook": "pre-install,pre-upgrade",
            "helm.sh/hook-delete-policy": "before-hook-creation",
        }
        wanted = release.values["migrate"]["annotations"] | (hook if mode == "hook" else {})
        assert job["metadata"].get("annotations", {}) == wanted


def a_hook_needs_nothing_that_comes_after_it(release: Release) -> None:
    made = {item["metadata"]["name"] for item in release.objects if "helm.sh/hook" not in _annotations(item)}
    for job in release.all("Job"):
        if release.values["migrate"]["mode"] == "hook":
            pod = job["spec"]["template"]["spec"]
            needed = {pod["serviceAccountName"]}
            for entry in pod["containers"][0]["env"]:
                if "valueFrom" in entry:
                    needed.add(entry["valueFrom"]["secretKeyRef"]["name"])
            assert not needed & made


def the_test_goes_through_the_service_and_tidies_up(release: Release) -> None:
    pod = release.get("Pod", "test")
    assert pod["spec"]["restartPolicy"] == "Never"
    container = _main(release, "tests")
    assert container["command"] == ["python", "-c"]
    script, address = container["args"]
    compile(script, "helm_test.py", "exec")
    assert '"me"' in script
    assert '"exports"' in script  # sample
    assert '"items"' in script  # sample
    port = release.get("Service", "api")["spec"]["ports"][0]["port"]
    assert address == f"http://{release.name}-api:{port}{release.config('api')['API_V1_STR']}"


def _annotations(item: Object) -> Object:
    annotations: Object = item["metadata"].get("annotations", {})
    return annotations
