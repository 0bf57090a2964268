"""A try-out, and pods of another namespace that have nothing but this repository: its code and all that it prints.

They get no 2xx behind identity and change nothing: by the policy, and where there is none by the key. The tests follow
on one another.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.core.config import Settings
from plinth.identity import sign_local_token
from plinth.settings import DEVELOPMENT_SECRET_KEY
from tests.e2e import stranger
from tests.e2e.cluster import Cluster, image
from tests.e2e.release import (
    KEY,
    NODE_PORT,
    RESTRICTED_CONTAINER,
    RESTRICTED_POD,
    Release,
    caller,
    namespace,
    until,
)

POD = "stranger"
DATA = "SELECT (SELECT count(*) FROM item), (SELECT count(*) FROM job), (SELECT count(*) FROM pg_class)"


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Iterator[Release]:
    """As the README has it: no value but the key, and the image that the cluster has."""
    with namespace(cluster, "plinth-strangers") as release:
        values = ("--set", "image.tag=e2e-1", "--set", f"secretKey.value={KEY}")
        release.helm("install", "plinth", "charts/plinth", "--wait", "--timeout", "300s", *values)
        yield release


@pytest.fixture(scope="module")
def elsewhere(cluster: Cluster) -> Iterator[Release]:
    """A pod of the same image in a namespace of its own."""
    with namespace(cluster, "plinth-elsewhere") as elsewhere:
        container = {"name": POD, "image": image("1"), "command": ["sleep", "3600"], **RESTRICTED_CONTAINER}
        pod = {"metadata": {"name": POD}, "spec": {**RESTRICTED_POD, "containers": [container]}}
        elsewhere.core.create_namespaced_pod(elsewhere.namespace, pod)
        until(lambda: elsewhere.phase(POD) == "Running", "the stranger is there", within=60)
        yield elsewhere


class TestByPolicy:
    def test_a_stranger_reaches_nothing(self, release: Release, elsewhere: Release) -> None:
        with unchanged(release):
            came_of = tried(release, elsewhere)
        assert {name: result for name, result in came_of.items() if result is not None} == {}

    def test_the_namespace_of_the_release_reaches_the_api(self, release: Release) -> None:
        assert "Succeeded" in release.helm("test", "plinth")


class TestOnTheNodePort:
    def test_this_machine_reaches_the_api_and_a_stranger_gets_nothing(
        self, release: Release, elsewhere: Release
    ) -> None:
        release.upgrade("1")
        release.settle("1")
        (token,) = release.tokens("alice")
        with caller(token) as http:
            assert http.get("me").status_code == 200
        with caller(forged()) as http:
            assert http.get("me").status_code == 401
        with unchanged(release):
            came_of = tried(release, elsewhere)
        # Of the node port the policy sees the node's address or the pod's, as the network plugin has it.
        port = {name: result for name, result in came_of.items() if name.startswith("node port:")}
        assert port.keys() < came_of.keys()
        assert set(port.values()) <= {None, 401}
        assert {name: came_of[name] for name in came_of.keys() - port.keys() if came_of[name] is not None} == {}


class TestByTheKey:
    def test_a_stranger_without_a_policy_in_its_way_is_refused_by_each_server(
        self, release: Release, elsewhere: Release
    ) -> None:
        release.upgrade("1", "--set", "networkPolicy.enabled=false")
        release.settle("1")
        with unchanged(release):
            came_of = tried(release, elsewhere)
        refused: dict[str, Any] = {}
        for way in ("pod", "service", "node port"):
            refused |= {f"{way}: {method} {path}": 401 for method, path in stranger.REQUESTS}
        for component, drain in (("api", {"GET": 405, "POST": 403}), ("worker", {"GET": 404, "POST": 404})):
            refused |= {f"{component}: {method} drain": status for method, status in drain.items()}
            refused |= {f"{component}: PUT log-level": 403, f"{component}: POST log-level": 405}
        for password in stranger.PASSWORDS:
            refused[f"postgresql: {password!r}"] = "InvalidPasswordError"
            refused[f"redis: {password!r}"] = "AuthenticationError"
        assert came_of == refused

    def test_another_key_takes_the_place_of_the_first_in_every_server(self, release: Release) -> None:
        """The volume of PostgreSQL remembers the first one's password."""
        (token,) = release.tokens("alice")
        other = KEY.translate(str.maketrans("0123456789abcdef", "fedcba9876543210"))
        release.upgrade("1", "--set", f"secretKey.value={other}")
        release.settle("1")
        assert "Succeeded" in release.helm("test", "plinth")
        with caller(token) as http:
            assert http.get("me").status_code == 401


def forged() -> str:
    """A token of an operator, signed with the key that the repository prints."""
    settings = Settings.isolated(ENVIRONMENT="local", SECRET_KEY=DEVELOPMENT_SECRET_KEY)
    return sign_local_token(settings, subject="mallory", ttl=3600, scopes=["admin"], roles=["admin", "operator"])


def tried(release: Release, elsewhere: Release) -> dict[str, Any]:
    """What came of each attempt, by its name."""
    api, worker = release.pods("api")[0].status, release.pods("worker")[0].status
    given = {
        "api": {
            "pod": f"{api.pod_ip}:8000",
            "service": f"plinth-api.{release.namespace}.svc",
            "node port": f"{api.host_ip}:{NODE_PORT}",
        },
        "second": {"api": api.pod_ip, "worker": worker.pod_ip},
        "postgresql": f"plinth-postgresql.{release.namespace}.svc",
        "redis": f"plinth-redis.{release.namespace}.svc",
        "token": forged(),
    }
    script = Path(stranger.__file__).read_text()
    came_of: dict[str, Any] = json.loads(elsewhere.execute(POD, "python", "-c", script, json.dumps(given)))
    return came_of


@contextmanager
def unchanged(release: Release) -> Iterator[None]:
    """Nothing is written, no log speaks more or less, no pod drains and none is started again while the block runs."""
    before = state(release)
    yield
    assert state(release) == before


def state(release: Release) -> Any:
    pods = [pod.metadata.name for component in ("api", "worker") for pod in release.pods(component)]
    levels = [release.execute(pod, "plinth", "log-level").strip() for pod in pods]
    # A pod that drains says so with every answer.
    answers = [
        release.execute(pod, "python", "-c", "import httpx; r = httpx.get('http://127.0.0.1:8000/api/v1/public/health');"
                                             "print(r.status_code, r.headers.get('connection'))").strip()
        for pod in pods if "-api-" in pod
    ]  # fmt: skip
    redis = release.execute("plinth-redis-0", "sh", "-c", "redis-cli exists stranger").strip()
    return pods, levels, answers, redis, release.sql(DATA), release.restarts("api", "worker", "postgresql", "redis")
