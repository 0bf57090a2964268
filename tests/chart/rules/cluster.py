"""The Cluster of CloudNativePG, and the way of the pods to it."""

from plinth.settings.dsn import PostgresURL
from tests.chart.cases import Release
from tests.chart.cluster_uri import TLS, in_the_pod
from tests.chart.policies import Peer, allowed


def the_cluster_is_as_the_values_say(release: Release) -> None:
    values = release.values["cloudnativepg"]
    for item in release.all("Cluster"):
        image = values["image"]
        names = {"certificates": {"serverAltDNSNames": ["plinth-pooler.shop"]}} if release.pooled else {}
        registry = release.values["global"]["imageRegistry"] or image["registry"]
        assert (
            item["spec"]
            == {
                "instances": values["instances"],
                "imageName": f"{registry}/{image['repository']}:{image['tag']}",
                "imagePullPolicy": image["pullPolicy"],
                "imagePullSecrets": release.values["global"]["imagePullSecrets"],
                "storage": {"size": values["storage"]["size"], "storageClass": values["storage"]["className"]},
                "resources": values["resources"],
                # Pools never disconnect by themselves.
                "smartShutdownTimeout": 0,
                "postgresql": {
                    "parameters": {
                        "max_connections": str(values["maxConnections"]),
                        # Seconds until a standby looks for the new primary again, for which commits wait.
                        "wal_retrieve_retry_interval": "1s",
                    }
                    | values["parameters"],
                    # What was accepted is on two instances.
                    "synchronous": {"method": "any", "number": 1},
                },
            }
            | names
            | values["spec"]
        )


def the_pooler_is_as_the_values_say(release: Release) -> None:
    values = release.values["cloudnativepg"]["pooler"]
    for item in release.all("Pooler"):
        assert (
            item["spec"]
            == {
                "cluster": {"name": release.cluster},
                "type": "rw",
                "instances": values["instances"],
                "pgbouncer": {
                    "poolMode": "transaction",
                    "parameters": {
                        "default_pool_size": str(values["poolSize"]),
                        "max_client_conn": str(values["maxClients"]),
                        # Seconds until PgBouncer tries again after a failover.
                        "server_login_retry": "1",
                    },
                },
            }
            | values["spec"]
        )


def an_uninstall_leaves_the_cluster(release: Release) -> None:
    for item in release.all("Cluster"):
        assert item["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def pods_reach_the_primary_and_the_standbys_by_verified_tls(release: Release) -> None:
    if not release.cluster:
        return
    for component, pod in release.ours().items():
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            variables = {entry["name"]: entry.get("value", "") for entry in container["env"]}
            assert list(variables).index("CLUSTER_URI") < list(variables).index("DATABASE_URL"), component
            replicas = release.values["cloudnativepg"]["readReplicas"] and component == "api"
            assert ("DATABASE_REPLICA_URL" in variables) == replicas
            primary = "plinth-pooler" if release.pooled and component != "migrate" else "plinth-database-rw"
            for name, service in (("DATABASE_URL", primary), ("DATABASE_REPLICA_URL", "plinth-database-ro")):
                if name not in variables:
                    continue
                url = PostgresURL.parse(in_the_pod(variables[name]))
                assert {host for host, port in url.hosts if port in (None, 5432)} == {f"{service}.shop"}
                assert (url.user, url.password, url.database) == ("app", "much-to-guess", "app")
                assert url.parameters == TLS


def standbys_follow_the_primary(release: Release) -> None:
    if release.cluster:
        instance = Peer("shop", {"cnpg.io/cluster": release.cluster})
        assert allowed(release.all("NetworkPolicy"), instance, instance, 5432)
