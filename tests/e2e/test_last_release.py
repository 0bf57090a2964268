"""From the last release to this tree, and from one secret key to the next, under load.

The servers belong to no release: the chart's own ones start again when their password changes.
"""

import json
import secrets
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from scripts.releases import releases
from tests.adoption.fork import Fork
from tests.e2e.cluster import ROOT, Cluster, image, run
from tests.e2e.release import CHART, KIND_VALUES, NODE_PORT, Release, own_namespace, until
from tests.e2e.servers import PASSWORD, start_postgresql, start_redis
from tests.e2e.traffic import traffic

# Three minutes: `make e2e ARGS='-m "" -k test_last_release'`.
pytestmark = pytest.mark.slow

RELEASED = "released"
OLD, NEW = secrets.token_hex(32), secrets.token_hex(32)
VALUES = {
    "environment": "local",  # for tokens of `plinth token`
    "externalDatabase": {"existingSecret": "database", "maxConnections": 100},
    "postgresql": {"enabled": False},
    "externalRedis": {"existingSecret": "cache"},
    "redis": {"enabled": False},
    "secretKey": {"existingSecret": "key"},
    "api": {"service": {"type": "NodePort", "nodePort": NODE_PORT}},
}


class External(Release):
    """A release with a PostgreSQL and a Redis of its namespace."""

    values = ""
    """The file of its values."""

    def sql(self, statement: str) -> str:
        psql = ("psql", "--username", "shop", "--tuples-only", "--no-align", "--command", statement)
        return self.execute("database", *psql).strip()

    def wait_until_ready(self, *, api: int = 2, worker: int = 1, within: float = 120) -> None:
        until(lambda: self.ready("api", api) and self.ready("worker", worker), "all pods are ready", within=within)

    def set_secret(self, name: str, **values: str) -> None:
        data = {key: b64encode(value.encode()).decode() for key, value in values.items()}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
        self.cluster.kubectl("apply", "--namespace", self.namespace, "--filename", "-", text=json.dumps(secret))


@pytest.fixture(scope="module")
def old(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the last release that the changelog names. Its image is in the cluster."""
    (newest, *_) = releases((ROOT / "CHANGELOG.md").read_text())
    tree = Fork(tmp_path_factory.mktemp("released") / "tree", newest.commit).folder
    dockerfile = str(tree / "docker/Dockerfile")
    run("docker", "build", "--file", dockerfile, "--tag", image(RELEASED), "--build-arg", "VERSION=e2e", str(tree))
    cluster.load(image(RELEASED))
    return tree


@pytest.fixture(scope="module")
def release(cluster: Cluster, old: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[External]:
    """The last release, installed with its own chart."""
    values = tmp_path_factory.mktemp("values") / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES))
    with own_namespace(External(cluster, "plinth-last-release")) as release:
        start_postgresql(release)
        start_redis(release)
        release.set_secret("database", DATABASE_URL=f"postgresql://shop:{PASSWORD}@database:5432/shop?sslmode=disable")
        release.set_secret("cache", REDIS_URL=f"redis://:{PASSWORD}@cache:6379/0")
        release.set_secret("key", SECRET_KEY=OLD)
        release.values = str(values)
        release.helm(
            "install", "plinth", str(old / "charts/plinth"), "--wait", "--timeout", "300s", "--values", str(values),
            "--set", f"image.tag=e2e-{RELEASED}",
        )  # fmt: skip
        yield release


def test_upgrade_from_the_last_release_fails_no_request(release: External, tmp_path: Path) -> None:
    with traffic(release, tmp_path) as seen:
        release.helm(
            "upgrade", "plinth", CHART, "--wait", "--timeout", "300s", "--values", release.values,
            "--values", KIND_VALUES, "--set", "image.tag=e2e-1", "--set", "config.REDIS_PLAINTEXT=true",
        )  # fmt: skip
        release.settle("1")
    seen.nothing_failed()
    seen.kept(release)
    assert release.restarts("api", "worker") == 0


def test_another_secret_key_fails_no_request(release: External, tmp_path: Path) -> None:
    """docs/security.md, "Rotate the secret key": the new one behind the old one, then before it."""
    with traffic(release, tmp_path) as seen:
        for key in (f"{OLD},{NEW}", f"{NEW},{OLD}"):
            release.set_secret("key", SECRET_KEY=key)
            restart(release)
    seen.nothing_failed()
    seen.kept(release)


def restart(release: External) -> None:
    of = ("--namespace", release.namespace)
    release.cluster.kubectl("rollout", "restart", "deployment/plinth-api", "deployment/plinth-worker", *of)
    for name in ("plinth-api", "plinth-worker"):
        release.cluster.kubectl("rollout", "status", f"deployment/{name}", "--timeout", "180s", *of)
    release.settle("1")
