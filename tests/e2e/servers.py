"""Servers in the release's namespace that have nothing to do with the chart."""

from typing import Any

from tests.e2e.release import RESTRICTED_CONTAINER, RESTRICTED_POD, Release, is_ready, until

PASSWORD = "much-to-guess"


def start_postgresql(release: Release, *, tls: bool = False) -> None:
    """As `database`, with the database and the user `shop`. With TLS, by the Secret `database-tls`."""
    files = {"ssl": "on", "ssl_cert_file": "/etc/tls/tls.crt", "ssl_key_file": "/etc/tls/tls.key"} if tls else {}
    start(release, "database", 5432, {
        "image": "postgres:17",
        "env": [
            {"name": "POSTGRES_USER", "value": "shop"},
            {"name": "POSTGRES_PASSWORD", "value": PASSWORD},
            {"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"},
        ],
        "args": [word for name, value in files.items() for word in ("-c", f"{name}={value}")],
        "readinessProbe": {"exec": {"command": ["pg_isready", "-h", "127.0.0.1"]}, "periodSeconds": 1},
    }, "/var/lib/postgresql/data", "/var/run/postgresql", "/tmp", tls=tls)  # fmt: skip


def start_redis(release: Release) -> None:
    """As `cache`."""
    start(release, "cache", 6379, {
        "image": "redis:8",
        "args": ["redis-server", "--requirepass", PASSWORD],
        "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
    }, "/data", "/tmp")  # fmt: skip


def start(release: Release, name: str, port: int, container: dict[str, Any], *folders: str, tls: bool = False) -> None:
    """A server that has nothing to do with the chart, under a name in the DNS. Nothing it writes outlives it."""
    mounts = [{"name": f"folder-{number}", "mountPath": folder} for number, folder in enumerate(folders)]
    volumes: list[dict[str, Any]] = [{"name": mount["name"], "emptyDir": {}} for mount in mounts]
    if tls:
        mounts.append({"name": "tls", "mountPath": "/etc/tls"})
        volumes.append({"name": "tls", "secret": {"secretName": f"{name}-tls", "defaultMode": 0o640}})
    security: Any = RESTRICTED_POD["securityContext"]
    pod = {
        **RESTRICTED_POD,
        # The user of both images.
        "securityContext": {**security, "runAsUser": 999, "fsGroup": 999},
        "containers": [{"name": name, **container, "volumeMounts": mounts, **RESTRICTED_CONTAINER}],
        "volumes": volumes,
    }
    labels = {"app": name}
    release.core.create_namespaced_pod(release.namespace, {"metadata": {"name": name, "labels": labels}, "spec": pod})
    service = {"selector": labels, "ports": [{"port": port}]}
    release.core.create_namespaced_service(release.namespace, {"metadata": {"name": name}, "spec": service})
    until(lambda: is_ready(release.core.read_namespaced_pod(name, release.namespace)), f"{name} is ready", within=60)
