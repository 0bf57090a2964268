"""A database that is only reached through a native sidecar of each pod, as Cloud SQL's proxy or PgBouncer is run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.cluster import Cluster, image
from tests.e2e.release import KEY, Release, namespace, until
from tests.e2e.servers import PASSWORD, start_postgresql

# What such a proxy does: it listens for its own pod alone and passes connections on.
PROXY = """
import asyncio, signal, sys

# Process 1 gets no signal that it does not handle.
signal.signal(signal.SIGTERM, lambda *_: sys.exit())

async def pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def serve(reader, writer):
    behind = await asyncio.open_connection("database", 5432)
    await asyncio.gather(pump(reader, behind[1]), pump(behind[0], writer), return_exceptions=True)

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 6432)
    await server.serve_forever()

asyncio.run(main())
"""
SMALL = {
    "requests": {"cpu": "10m", "memory": "16Mi", "ephemeral-storage": "1Mi"},
    "limits": {"cpu": "200m", "memory": "64Mi", "ephemeral-storage": "2Mi"},
}
SIDECAR = {
    "name": "proxy",
    "image": image("1"),
    "command": ["python", "-c", PROXY],
    "restartPolicy": "Always",
    "resources": SMALL,
}
# The first one has to have ended before the sidecar starts, the last one finds the database behind it.
ASK = "import socket; socket.create_connection(('127.0.0.1', 6432), timeout=5).close()"
AROUND = [
    {"name": "before", "image": image("1"), "command": ["python", "-c", ""], "resources": SMALL},
    SIDECAR,
    {"name": "behind", "image": image("1"), "command": ["python", "-c", ASK], "resources": SMALL},
]
VALUES: dict[str, Any] = {
    "environment": "local",
    "image": {"tag": "e2e-1"},
    "secretKey": {"value": KEY},
    "externalDatabase": {"existingSecret": "through-the-proxy"},
    "postgresql": {"enabled": False},
    "api": {"initContainers": AROUND},
    "worker": {"initContainers": [SIDECAR]},
    "migrate": {"initContainers": [SIDECAR]},
}


@pytest.fixture(scope="module")
def release(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    with namespace(cluster, "plinth-sidecars") as release:
        start_postgresql(release)
        url = f"postgresql://shop:{PASSWORD}@127.0.0.1:6432/shop?sslmode=disable"
        secret = {"metadata": {"name": "through-the-proxy"}, "stringData": {"DATABASE_URL": url}}
        release.core.create_namespaced_secret(release.namespace, secret)
        values: Path = tmp_path_factory.mktemp("values") / "values.yaml"
        values.write_text(yaml.safe_dump(VALUES))
        release.helm("install", "plinth", "charts/plinth", "--wait", "--timeout", "300s", "--values", str(values))
        yield release


def test_every_pod_comes_up_behind_its_sidecar(release: Release) -> None:
    """The `release` was installed with `--wait`; nothing is waited for here."""
    assert release.ready("api", 2)
    assert release.ready("worker", 1)
    assert release.restarts("api", "worker") == 0


def test_the_migration_ends_although_its_sidecar_would_run_on(release: Release) -> None:
    """Helm does not wait for Jobs, and the sidecar is told to stop when the migration has ended."""

    def status() -> Any:
        (migration,) = release.batch.list_namespaced_job(release.namespace).items
        return migration.status

    until(lambda: status().succeeded == 1, "the migration has succeeded", within=60)
    assert not status().failed


def test_helm_test_passes(release: Release) -> None:
    assert "Succeeded" in release.helm("test", "plinth")
