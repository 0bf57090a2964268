"""The PostgreSQL and Redis of a try-out."""

from plinth.settings.dsn import PostgresURL
from tests.chart.cases import Release
from tests.chart.tools import Object


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
    assert claim["metadata"] == {"name": "data"}
    class_name = {"storageClassName": values["storage"]["className"]} if values["storage"]["className"] else {}
    assert claim["spec"] == class_name | {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": values["storage"]["size"]}},
    }


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
            "redis-server", "--save", "", "--appendonly", "no",
            "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru",
        ]  # fmt: skip
