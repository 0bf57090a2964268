"""Each secret of docs/kubernetes.md, "Rotate a secret", is replaced under load, and no request fails.

The tests follow on one another.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.cluster import Cluster
from tests.e2e.external_release import ExternalRelease
from tests.e2e.release import CHART, KIND_VALUES, own_namespace, until
from tests.e2e.servers import PASSWORD, start_postgresql, start_redis
from tests.e2e.traffic import traffic
from tests.support.certificates import Certificate, make_certificate

# Seven minutes, half of it until the kubelet has renewed files: `make e2e ARGS='-m "" -k test_rotation'`.
pytestmark = pytest.mark.slow

OLD, NEW = secrets.token_hex(32), secrets.token_hex(32)
VERIFIED = "sslmode=verify-full&sslrootcert=/etc/authority/ca.crt"
AUTHORITY = {
    "extraVolumes": [{"name": "authority", "secret": {"secretName": "authority"}}],
    "extraVolumeMounts": [{"name": "authority", "mountPath": "/etc/authority", "readOnly": True}],
}
# It looks into the files every minute, and asks the API server as seldom.
KUBELET_SECONDS = 180


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, Certificate]:
    """The one that signs the database's certificate at first, and the one that does later."""
    folder = tmp_path_factory.mktemp("authorities")
    return make_certificate(folder / "old.pem", "old"), make_certificate(folder / "new.pem", "new")


@pytest.fixture(scope="module")
def release(
    cluster: Cluster, authorities: tuple[Certificate, Certificate], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ExternalRelease]:
    values: dict[str, Any] = ExternalRelease.values(REDIS_PLAINTEXT=True)
    for pods in ("api", "worker", "migrate"):
        values[pods] = values.get(pods, {}) | AUTHORITY
    file = tmp_path_factory.mktemp("values") / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    with own_namespace(ExternalRelease(cluster, "plinth-rotation")) as release:
        set_certificate(release, authorities[0])
        start_postgresql(release, tls=True)
        start_redis(release)
        release.set_secret("authority", **{"ca.crt": trusted(*authorities[:1])})
        release.set_database(options=VERIFIED)
        release.set_redis()
        release.set_secret("key", SECRET_KEY=OLD)
        release.helm(
            "install", "plinth", CHART, "--wait", "--timeout", "300s", "--values", KIND_VALUES, "--values", str(file),
            "--set", "image.tag=e2e-1",
        )  # fmt: skip
        yield release


def trusted(*authorities: Certificate) -> str:
    return "".join(authority.pem() for authority in authorities)


def set_certificate(release: ExternalRelease, authority: Certificate) -> str:
    """Give the database another certificate, of this authority. Returns it."""
    own = make_certificate(authority.path.with_name("database.pem"), "database", authority)
    release.set_secret("database-tls", **{"tls.crt": own.pem(), "tls.key": own.key_pem()})
    return own.pem()


def until_it_reads(release: ExternalRelease, pod: str, file: str, content: str) -> None:
    """Wait until the kubelet has renewed a file of a Secret."""
    until(lambda: release.execute(pod, "cat", file) == content, f"{pod} has the new {file}", within=KUBELET_SECONDS)


def trust(release: ExternalRelease, *authorities: Certificate) -> None:
    """Have the running pods trust these authorities alone."""
    release.set_secret("authority", **{"ca.crt": trusted(*authorities)})
    for pod in [*release.pods("api"), *release.pods("worker")]:
        until_it_reads(release, pod.metadata.name, "/etc/authority/ca.crt", trusted(*authorities))


def test_secret_key_is_replaced_in_three_steps(release: ExternalRelease, tmp_path: Path) -> None:
    """The last one when what the old key has signed is no longer used: with callers that have new tokens."""
    old_tokens, new_tokens = tmp_path / "old", tmp_path / "new"
    old_tokens.mkdir()
    new_tokens.mkdir()
    with traffic(release, old_tokens) as seen:
        for key in (f"{OLD},{NEW}", f"{NEW},{OLD}"):
            release.set_secret("key", SECRET_KEY=key)
            release.restart()
    seen.nothing_failed()
    seen.kept(release)
    with traffic(release, new_tokens) as seen:
        release.set_secret("key", SECRET_KEY=NEW)
        release.restart()
    seen.nothing_failed()
    seen.kept(release)


def test_password_of_the_database_is_replaced_by_a_second_role(release: ExternalRelease, tmp_path: Path) -> None:
    password = secrets.token_hex(16)
    release.sql(f"CREATE ROLE shop2 LOGIN PASSWORD '{password}' IN ROLE shop")
    release.sql("ALTER ROLE shop2 SET role = shop")
    with traffic(release, tmp_path) as seen:
        release.set_database("shop2", password, VERIFIED)
        release.restart()
        release.sql("ALTER ROLE shop NOLOGIN")
        release.restart()
    release.execute("database", "psql", "--username", "shop2", "--dbname", "shop", "--command", "ALTER ROLE shop LOGIN")
    seen.nothing_failed()
    seen.kept(release)


def test_password_of_redis_is_replaced_while_it_has_both(release: ExternalRelease, tmp_path: Path) -> None:
    def acl(rule: str, password: str) -> None:
        client = ("redis-cli", "--no-auth-warning", "-a", password)
        said = release.execute("cache", *client, "ACL", "SETUSER", "default", rule)
        assert said.strip() == "OK"

    password = secrets.token_hex(16)
    with traffic(release, tmp_path) as seen:
        acl(f">{password}", PASSWORD)
        release.set_redis(password)
        release.restart()
        acl(f"<{PASSWORD}", password)
        release.restart()
    seen.nothing_failed()
    seen.kept(release)


def test_authority_of_the_database_is_replaced_without_a_restart(
    release: ExternalRelease, authorities: tuple[Certificate, Certificate], tmp_path: Path
) -> None:
    old, new = authorities
    running, restarting = tmp_path / "running", tmp_path / "restarting"
    running.mkdir()
    restarting.mkdir()
    # For minutes: callers may keep so many exports.
    with traffic(release, running, rate=2) as seen:
        trust(release, old, new)
        until_it_reads(release, "database", "/etc/tls/tls.crt", set_certificate(release, new))
        assert release.sql("SELECT pg_reload_conf()") == "t"
        trust(release, new)
    seen.nothing_failed()
    seen.kept(release)

    ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE client_addr IS NOT NULL"
    assert int(release.sql(ended)) > 0
    encrypted = "SELECT count(DISTINCT client_addr) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE ssl"
    until(lambda: release.sql(encrypted) == "3", "all pods have connected again", within=60)
    assert release.restarts("api", "worker") == 0

    with traffic(release, restarting) as seen:
        release.restart()
    seen.nothing_failed()
    seen.kept(release)
