"""The PostgreSQL and Redis of a try-out."""

import hashlib

from plinth.settings.dsn import PostgresURL
from tests.chart.cases import Release
from tests.chart.tools import Object
from tests.chart.watched import key_annotation

_PREFIX = {"postgresql": "POSTGRES", "redis": "REDIS"}
_SET_PASSWORD = [
    "sh",
    "-c",
    """until echo "ALTER ROLE plinth PASSWORD :'password'" | psql --quiet --username plinth --dbname plinth \\
    --set ON_ERROR_STOP=1 --set password="$POSTGRES_PASSWORD"; do sleep 0.5; done
""",
]


def _container(release: Release, name: str) -> Object:
    container: Object = release.get("StatefulSet", name)["spec"]["template"]["spec"]["containers"][0]
    return container


def _present(release: Release) -> list[str]:
    return [name for name in ("postgresql", "redis") if release.values[name]["enabled"]]


def they_run_once_under_a_name_of_their_own(release: Release) -> None:
    for name in _present(release):
        spec = release.get("StatefulSet", name)["spec"]
        assert spec["replicas"] == 1
        assert spec["serviceName"] == f"{release.name}-{name}-pods"
        assert release.get("Service", f"{name}-pods")["spec"]["clusterIP"] == "None"
        assert "clusterIP" not in release.get("Service", name)["spec"]


def they_listen_where_their_services_send(release: Release) -> None:
    for name in _present(release):
        number = {"postgresql": 5432, "redis": 6379}[name]
        assert _container(release, name)["name"] == name
        assert _container(release, name)["ports"] == [{"name": name, "containerPort": number}]
        for service in (name, f"{name}-pods"):
            assert release.get("Service", service)["spec"]["ports"][0]["port"] == number


def their_probes_restart_no_server_that_recovers(release: Release) -> None:
    ask = {
        "postgresql": ["pg_isready", "--host", "127.0.0.1", "--username", "plinth"],
        "redis": ["redis-cli", "ping"],
    }
    for name in _present(release):
        container = _container(release, name)
        start, live, ready = container["startupProbe"], container["livenessProbe"], container["readinessProbe"]
        assert start["exec"] == ready["exec"] == {"command": ask[name]}
        assert live["tcpSocket"] == {"port": name}
        assert start["periodSeconds"] == 1
        assert start["failureThreshold"] >= (300 if name == "postgresql" else 60)
        assert 1 <= ready["periodSeconds"] <= 5
        assert ready["timeoutSeconds"] == live["timeoutSeconds"] == 3
        assert live["periodSeconds"] * live["failureThreshold"] >= 60


def they_have_time_to_stop(release: Release) -> None:
    for name in _present(release):
        spec = release.get("StatefulSet", name)["spec"]["template"]["spec"]
        assert spec["terminationGracePeriodSeconds"] >= (60 if name == "postgresql" else 10)


def postgresql_keeps_its_data_and_its_word(release: Release) -> None:
    if not release.values["postgresql"]["enabled"]:
        return
    values = release.values["postgresql"]
    container = _container(release, "postgresql")
    # No fsync=off, and nothing else that could lose what was acknowledged.
    assert container["args"] == ["-c", f"max_connections={values['maxConnections']}"]
    (claim,) = release.get("StatefulSet", "postgresql")["spec"]["volumeClaimTemplates"]
    # The server fills in both, and the volumeMode: a GitOps tool compares lists as a whole.
    assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
    assert claim["metadata"] == {"name": "data"}
    class_name = {"storageClassName": values["storage"]["className"]} if values["storage"]["className"] else {}
    assert claim["spec"] == class_name | {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": values["storage"]["size"]}},
        "volumeMode": "Filesystem",
    }


def passwords_are_made_of_the_key(release: Release) -> None:
    """So they are known to the release alone, and no render makes another one."""
    key = release.values["secretKey"]["value"]
    for name, secret in (("postgresql", "postgresql"), ("redis", "redis-auth")):
        if release.values[name]["enabled"]:
            made = hashlib.sha256(f"{name} {key}".encode()).hexdigest() if key else "for-trying-out-only"
            assert release.get("Secret", secret)["stringData"][f"{_PREFIX[name]}_PASSWORD"] == made


def another_key_starts_them_again_with_its_passwords(release: Release) -> None:
    for name in _present(release):
        pod = release.get("StatefulSet", name)["spec"]["template"]
        assert key_annotation(release).items() <= pod["metadata"].get("annotations", {}).items()
    if release.values["postgresql"]["enabled"]:
        # Or a volume would keep the password of its first start.
        assert _container(release, "postgresql")["lifecycle"] == {"postStart": {"exec": {"command": _SET_PASSWORD}}}


def the_key_of_the_values_is_in_a_secret(release: Release) -> None:
    if value := release.values["secretKey"]["value"]:
        secret = release.get("Secret", "key")
        assert secret["type"] == "Opaque"
        assert secret["stringData"] == {release.values["secretKey"]["key"]: value}
    for item in release.objects:
        if item["kind"] != "Secret":
            assert not value or value not in str(item)


def postgresql_and_its_clients_mean_the_same_database(release: Release) -> None:
    if not release.values["postgresql"]["enabled"]:
        return
    secret = release.get("Secret", "postgresql")
    assert secret["type"] == "Opaque"
    data = secret["stringData"]
    assert data.keys() == {"POSTGRES_PASSWORD", "DATABASE_URL"}
    name = f"{release.name}-postgresql"
    host = f"{name}.shop.svc"
    assert data["DATABASE_URL"] == (
        f"postgresql://plinth:{data['POSTGRES_PASSWORD']}@{host}:5432/plinth?sslmode=disable"
    )
    assert PostgresURL.parse(data["DATABASE_URL"])
    assert _container(release, "postgresql")["env"] == [
        {"name": "POSTGRES_USER", "value": "plinth"},
        {"name": "POSTGRES_DB", "value": "plinth"},
        {
            "name": "POSTGRES_PASSWORD",
            "valueFrom": {"secretKeyRef": {"name": name, "key": "POSTGRES_PASSWORD"}},
        },
        {"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"},
    ]


def redis_saves_nothing_and_is_bounded(release: Release) -> None:
    if release.values["redis"]["enabled"]:
        assert _container(release, "redis")["args"] == [
            "redis-server", "--requirepass", "$(REDISCLI_AUTH)", "--save", "", "--appendonly", "no",
            "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru",
        ]  # fmt: skip


def redis_and_its_clients_mean_the_same_server(release: Release) -> None:
    if not release.values["redis"]["enabled"]:
        return
    name = f"{release.name}-redis-auth"
    secret = release.get("Secret", "redis-auth")
    assert secret["type"] == "Opaque"
    data = secret["stringData"]
    assert data.keys() == {"REDIS_PASSWORD", "REDIS_URL"}
    assert data["REDIS_URL"] == f"redis://:{data['REDIS_PASSWORD']}@{release.name}-redis:6379/0"
    assert _container(release, "redis")["env"] == [
        {"name": "REDISCLI_AUTH", "valueFrom": {"secretKeyRef": {"name": name, "key": "REDIS_PASSWORD"}}},
    ]
