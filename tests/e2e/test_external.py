"""An install as docs/kubernetes.md has it "for real": servers, secrets and identity provider are not the chart's.

The lines are the page's own, but for addresses and passwords. The tests follow on one another.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
import yaml

from plinth.settings import DEVELOPMENT_SECRET_KEY
from tests.e2e.cluster import HELM, Cluster, image
from tests.e2e.release import NODE_PORT, URL, Release, caller, is_ready, namespace
from tests.e2e.servers import PASSWORD, start_postgresql, start_redis
from tests.e2e.shell import Shell
from tests.support.pages import blocks

PAGE = "docs/kubernetes.md"
# What the page's lines say, and what is so here. A redis:8 of one's own need not speak TLS.
HERE = {
    "postgresql://user:password@host:5432/name?sslmode=verify-full&sslrootcert=system": (
        f"postgresql://shop:{PASSWORD}@database:5432/shop?sslmode=disable"
    ),
    "rediss://:password@host:6379/0": f"redis://:{PASSWORD}@cache:6379/0",
    "image.tag=1.4.0": "image.tag=e2e-2",
}
# What the page leaves to the chart, and a test does not.
BESIDES = {
    "environment": "staging",
    "image": {"tag": "e2e-1"},
    "migrate": {"mode": "hook"},
    "api": {"service": {"type": "NodePort", "nodePort": NODE_PORT}},
}


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Iterator[Release]:
    """A namespace with a PostgreSQL and a Redis in it that belong to no release."""
    with namespace(cluster, "plinth-external") as release:
        start_postgresql(release)
        start_redis(release)
        yield release


@pytest.fixture(scope="module")
def shell(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """It has run the lines of the page's install."""
    shell = Shell(release, tmp_path_factory.mktemp("shell"))
    (values,) = blocks(PAGE, "## Install: for real", "yaml")
    production = yaml.safe_load(values) | BESIDES
    production["config"]["REDIS_PLAINTEXT"] = True
    (shell.folder / "production.yaml").write_text(yaml.safe_dump(production))
    (install,) = blocks(PAGE, "## Install: for real", "console")
    shell.run(adapted(install, release, shell))
    return shell


class TestInstall:
    def test_everything_is_ready_when_helm_comes_back(self, release: Release, shell: Shell) -> None:
        """Pods and migration. What is asked for by ENVIRONMENT=staging has been accepted by each of them."""
        assert release.ready("api", 2)
        assert release.ready("worker", 1)
        assert release.restarts("api", "worker") == 0
        assert not release.pods("postgresql")
        assert not release.pods("redis")
        (migration,) = migrations(release)
        assert (migration.status.succeeded, migration.status.failed) == (1, None)

    def test_the_api_reaches_both_servers(self, release: Release, shell: Shell) -> None:
        report = httpx.get(f"{URL}public/health/ready").raise_for_status().json()
        assert report["status"] == "ready"
        assert {name: part["status"] for name, part in report["components"].items()} == {
            "database": "up",
            "redis": "up",
        }

    def test_helm_test_passes(self, release: Release, shell: Shell) -> None:
        """It has no token, and sees that it does not get in."""
        assert "Succeeded" in release.helm("test", "plinth")

    def test_nobody_gets_in_with_a_key_of_development(self, release: Release, shell: Shell) -> None:
        claims = {"sub": "mallory", "iss": "https://id.example.com/", "aud": "https://api.example.com", "exp": 4e9}
        for token in ("nonsense", jwt.encode(claims, DEVELOPMENT_SECRET_KEY)):
            with caller(token) as http:
                assert http.get("items").status_code == 401
        with pytest.raises(AssertionError, match="AUTH_PROVIDER"):
            release.tokens("mallory")


class TestUpgrade:
    def test_the_hook_migrates_before_a_new_pod_is_made(self, release: Release, shell: Shell) -> None:
        earlier = {migration.metadata.name for migration in migrations(release)}
        (upgrade,) = blocks(PAGE, "## Upgrade", "console")
        shell.run(adapted(upgrade, release, shell))
        (migration,) = [migration for migration in migrations(release) if migration.metadata.name not in earlier]
        assert migration.spec.template.spec.containers[0].image == image("2")
        # Beside them the last of the old ones may still be about.
        pods = [pod for component in ("api", "worker") for pod in release.pods(component)]
        new = [pod for pod in pods if pod.spec.containers[0].image == image("2")]
        assert [is_ready(pod) for pod in new] == [True] * 3
        assert migration.status.completion_time <= min(pod.metadata.creation_timestamp for pod in new)


def adapted(lines: str, release: Release, shell: Shell) -> str:
    """The page's lines with what is so here, for the Helm that is here."""
    programs = {
        "helm ": f"{HELM} ",
        "--rollback-on-failure": release.cluster.rollback_option(),
        "production.yaml": str(shell.folder / "production.yaml"),
    }
    for shown, here in (HERE | programs).items():
        lines = lines.replace(shown, here)
    return lines


def migrations(release: Release) -> list[Any]:
    jobs: list[Any] = release.batch.list_namespaced_job(
        release.namespace, label_selector="app.kubernetes.io/component=migrate"
    ).items
    return jobs
