"""From the last release to this tree, under load."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from scripts.releases import releases
from tests.adoption.fork import Fork
from tests.e2e.cluster import ROOT, Cluster, image, run
from tests.e2e.external_release import ExternalRelease
from tests.e2e.release import CHART, KIND_VALUES, own_namespace
from tests.e2e.servers import start_postgresql, start_redis
from tests.e2e.traffic import traffic

# Two minutes: `make e2e ARGS='-m "" -k test_last_release'`.
pytestmark = pytest.mark.slow

RELEASED = "released"


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
def values(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("values") / "values.yaml"
    file.write_text(yaml.safe_dump(ExternalRelease.values()))
    return str(file)


@pytest.fixture(scope="module")
def release(cluster: Cluster, old: Path, values: str) -> Iterator[ExternalRelease]:
    """The last release, installed with its own chart."""
    with own_namespace(ExternalRelease(cluster, "plinth-last-release")) as release:
        start_postgresql(release)
        start_redis(release)
        release.set_database()
        release.set_redis()
        release.set_secret("key", SECRET_KEY=secrets.token_hex(32))
        release.helm(
            "install", "plinth", str(old / "charts/plinth"), "--wait", "--timeout", "300s", "--values", values,
            "--set", f"image.tag=e2e-{RELEASED}",
        )  # fmt: skip
        yield release


def test_upgrade_from_the_last_release_fails_no_request(release: ExternalRelease, values: str, tmp_path: Path) -> None:
    with traffic(release, tmp_path) as seen:
        release.helm(
            "upgrade", "plinth", CHART, "--wait", "--timeout", "300s", "--values", values, "--values", KIND_VALUES,
            "--set", "image.tag=e2e-1", "--set", "config.REDIS_PLAINTEXT=true",
        )  # fmt: skip
        release.settle("1")
    seen.nothing_failed()
    seen.kept(release)
    assert release.restarts("api", "worker") == 0
