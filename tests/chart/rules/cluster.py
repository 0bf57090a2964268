"""The Cluster of CloudNativePG, and the way of the pods to it."""

from plinth.settings.dsn import PostgresURL
from tests.chart.cases import Release
from tests.chart.cluster_uri import TLS, in_the_pod
from tests.chart.policies import Peer, allowed


def the_cluster_is_as_the_values_say(release: Release) -> None:
    values = release.values["cloudnativepg"]
    for item in release.all("Cluster"):
        image = values["image"]
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
            for name, service in (("DATABASE_URL", "rw"), ("DATABASE_REPLICA_URL", "ro")):
                url = PostgresURL.parse(in_the_pod(variables[name]))
                assert {host for host, port in url.hosts if port in (None, 5432)} == {f"plinth-database-{service}.shop"}
                assert (url.user, url.password, url.database) == ("app", "much-to-guess", "app")
                assert url.parameters == TLS


def standbys_follow_the_primary(release: Release) -> None:
    if release.cluster:
        instance = Peer("shop", {"cnpg.io/cluster": release.cluster})
        assert allowed(release.all("NetworkPolicy"), instance, instance, 5432)
