"""A release of the chart in a namespace of its own, and what a test does to it and asks of it."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from kubernetes import client, config
from kubernetes.stream import stream
from kubernetes.stream.ws_client import ERROR_CHANNEL

from tests.e2e.cluster import ROOT, Cluster, CommandFailed, image

# Where k8s/kind.yaml maps the node port.
NODE_PORT = 30080
URL = "http://127.0.0.1:8080/api/v1/"
CHART = str(ROOT / "charts/plinth")
# They give the API that node port.
KIND_VALUES = str(ROOT / "k8s/values-kind.yaml")
# The same for every install and upgrade of the run, which passes it each time.
KEY = secrets.token_hex(32)

# What the namespace asks of a pod and of a container that a test puts into it.
RESTRICTED_POD = {
    "automountServiceAccountToken": False,
    "terminationGracePeriodSeconds": 1,
    "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
}
RESTRICTED_CONTAINER = {
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
}


class Release:
    """The release `plinth` in a namespace that enforces the restricted Pod Security Standard."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        # The client's types ask for its classes, where it takes what is written in a manifest as well.
        new_client: Any = config.new_client_from_config
        api = new_client(config_file=cluster.kubeconfig, context=cluster.context)
        self.core: Any = client.CoreV1Api(api)
        self.apps: Any = client.AppsV1Api(api)
        self.batch: Any = client.BatchV1Api(api)

    # --- Helm ---

    def helm(self, *arguments: str) -> str:
        return self.cluster.helm(*arguments, "--namespace", self.namespace)

    def install(self, version: str = "1", *options: str) -> None:
        self._bring_up("install", 300, *self._values(version), *options)

    def upgrade(self, version: str, *options: str, timeout: int = 180) -> None:
        self._bring_up("upgrade", timeout, *self._values(version), *options)

    def _bring_up(self, command: str, timeout: int, *options: str) -> None:
        """Raises:
        CommandFailed: with what Helm has said, which is little, and what there is in the namespace.
        """
        try:
            self.helm(command, "plinth", CHART, "--wait", "--timeout", f"{timeout}s", *options)
        except CommandFailed as error:
            raise CommandFailed(f"{error}\n{self.what_is_there()}") from None

    @staticmethod
    def _values(version: str) -> list[str]:
        return ["--values", KIND_VALUES, "--set", f"image.tag=e2e-{version}", "--set", f"secretKey.value={KEY}"]

    def revision(self) -> dict[str, Any]:
        """The newest of `helm history`: `status`, `revision`, `description` and so on."""
        newest: dict[str, Any] = json.loads(self.helm("history", "plinth", "--output", "json"))[-1]
        return newest

    # --- pods ---

    def pods(self, component: str) -> list[Any]:
        """Those of a component that are not on their way out."""
        pods = self.core.list_namespaced_pod(
            self.namespace, label_selector=f"app.kubernetes.io/component={component}"
        ).items
        return [pod for pod in pods if pod.metadata.deletion_timestamp is None]

    def ready(self, component: str, number: int) -> bool:
        pods = self.pods(component)
        return len(pods) == number and all(is_ready(pod) for pod in pods)

    def any_ready(self, *components: str) -> bool:
        return any(is_ready(pod) for component in components for pod in self.pods(component))

    def wait_until_ready(self, *, api: int = 2, worker: int = 1, within: float = 120) -> None:
        wanted = {"postgresql": 1, "redis": 1, "api": api, "worker": worker}
        until(lambda: all(self.ready(*pair) for pair in wanted.items()), f"ready are {wanted}", within=within)

    def settle(self, version: str) -> None:
        """Wait until all pods of a roll-out are of this version: Helm comes back while the last ones still drain."""

        def images() -> list[str]:
            pods = self.core.list_namespaced_pod(
                self.namespace, label_selector="app.kubernetes.io/component in (api, worker)"
            ).items
            return [pod.spec.containers[0].image for pod in pods]

        until(lambda: images() == [image(version)] * 3, f"two API pods and a worker are {version}", within=60)
        self.wait_until_ready()

    def kill(self, pod: Any) -> None:
        """Delete a pod as if its machine had died: no signal but SIGKILL, no preStop."""
        self.core.delete_namespaced_pod(pod.metadata.name, self.namespace, grace_period_seconds=0)

    def events(self, reason: str) -> list[str]:
        """What Kubernetes has said in the namespace for that reason."""
        said = self.core.list_namespaced_event(self.namespace, field_selector=f"reason={reason}").items
        return [f"{event.involved_object.name}: {event.message}" for event in said]

    def what_is_there(self) -> str:
        """Describes a failure for the log: the pods, their newest events and the end of what unready ones have said."""
        seen = [self._kubectl("get", "pods,jobs,pvc", "--output", "wide")]
        seen.append("\n".join(self._kubectl("get", "events", "--sort-by", ".lastTimestamp").splitlines()[-25:]))
        pods = self.core.list_namespaced_pod(self.namespace).items
        seen += [
            f"{pod.metadata.name}:\n{self._kubectl('logs', pod.metadata.name, '--all-containers', '--tail', '8')}"
            for pod in pods
            if pod.status.phase != "Succeeded" and not is_ready(pod)
        ]
        return "\n".join(seen)

    def _kubectl(self, *arguments: str) -> str:
        """What kubectl says in the namespace, be it an error."""
        try:
            return self.cluster.kubectl("--namespace", self.namespace, *arguments)
        except CommandFailed as error:
            return str(error)

    def phase(self, pod: str) -> str:
        return str(self.core.read_namespaced_pod(pod, self.namespace).status.phase)

    def remove_pod(self, name: str) -> None:
        """Delete a pod of the test's own, and wait until it is gone."""
        self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)

        def names() -> list[str]:
            return [pod.metadata.name for pod in self.core.list_namespaced_pod(self.namespace).items]

        until(lambda: name not in names(), f"the pod {name} is gone", within=60)

    def restarts(self, *components: str) -> int:
        statuses = [
            status
            for component in components
            for pod in self.pods(component)
            for status in pod.status.container_statuses
        ]
        return sum(status.restart_count for status in statuses)

    def scale(self, kind: str, name: str, replicas: int) -> None:
        patch = getattr(self.apps, f"patch_namespaced_{kind}_scale")
        patch(name, self.namespace, {"spec": {"replicas": replicas}})

    def execute(self, pod: str, *command: str) -> str:
        """Run a command in a pod's only container and return what it has said."""
        channel = stream(
            self.core.connect_get_namespaced_pod_exec, pod, self.namespace, command=list(command),
            stdout=True, stderr=True, stdin=False, tty=False, _preload_content=False,
        )  # fmt: skip
        try:
            channel.run_forever(timeout=60)
            # Its own `returncode` knows no command that could not be begun.
            ended = channel.read_channel(ERROR_CHANNEL) or "{}"
            said: str = channel.read_all()
        finally:
            # Its own `close` leaves the socket open when the other side was the first.
            channel.sock.shutdown()
        assert json.loads(ended).get("status") == "Success", f"{command} in {pod}: {ended} {said}"
        return said

    def sql(self, statement: str) -> str:
        """What psql says to a statement, without headings: rows on lines, columns separated by |."""
        psql = ("psql", "--username", "plinth", "--tuples-only", "--no-align", "--command", statement)
        return self.execute("plinth-postgresql-0", *psql).strip()

    def tokens(self, *subjects: str) -> list[str]:
        commands = "; ".join(f"plinth token --sub {subject}" for subject in subjects)
        return self.execute(self.pods("api")[0].metadata.name, "sh", "-c", commands).split()


AnyRelease = TypeVar("AnyRelease", bound=Release)


@contextmanager
def namespace(cluster: Cluster, name: str) -> Iterator[Release]:
    """A new namespace for a release, with nothing in it yet. It goes when the block ends."""
    with own_namespace(Release(cluster, name)) as release:
        yield release


@contextmanager
def own_namespace(release: AnyRelease) -> Iterator[AnyRelease]:
    """The namespace of a release, made anew. It goes when the block ends."""
    name = release.namespace
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    release.core.create_namespace({"metadata": {"name": name, "labels": labels}})
    try:
        yield release
    finally:
        # The node port is free at once then; pods take the time that they are given to go.
        for service in release.core.list_namespaced_service(name).items:
            release.core.delete_namespaced_service(service.metadata.name, name)
        release.core.delete_namespace(name)


@contextmanager
def caller(token: str) -> Iterator[httpx.Client]:
    """A caller of the API from outside of the cluster."""
    with httpx.Client(base_url=URL, headers={"Authorization": f"Bearer {token}"}, timeout=10) as http:
        yield http


def is_ready(pod: Any) -> bool:
    return any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions or [])


def until(condition: Callable[[], Any], what: str, *, within: float) -> None:
    """Wait for something.

    Raises:
        AssertionError: It has not come within so many seconds.
    """
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.5)
