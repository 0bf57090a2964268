"""What every pod keeps, jobs, init containers, databases and tests included."""

import re
from typing import Any

from app.core.config import Settings
from tests.chart.cases import Release, main_container
from tests.chart.cluster_uri import in_the_pod
from tests.chart.tools import KEY, Object
from tests.chart.watched import HOOK, key_annotation, scrape_annotations, tracing_variables

_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_OF_PODS = (
    *("nodeSelector", "tolerations", "priorityClassName"),
    *("runtimeClassName", "hostAliases", "dnsConfig"),
)
_EXTRA = ("proxy", "sidecar", "prepare")
_UNITS = {"": 1.0, "m": 0.001, "Mi": 2.0**20, "Gi": 2.0**30}
_SECRETS = {
    "DATABASE_URL": "postgresql://plinth:much-to-guess@db.example.com:5432/plinth?sslmode=require",
    "DATABASE_REPLICA_URL": "postgresql://plinth:much-to-guess@db-ro.example.com:5432/plinth?sslmode=require",
    "REDIS_URL": "rediss://redis.example.com:6379/0",
    "SECRET_KEY": KEY,
}


def pods_meet_the_restricted_standard(release: Release) -> None:
    for component, pod in release.pods().items():
        number = 999 if component in ("postgresql", "redis") else 10001
        users = {"runAsUser": number, "runAsGroup": number, "fsGroup": number}
        standard = {
            "runAsNonRoot": True,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        } | ({} if release.values["securityPreset"] == "openshift" else users)
        assert pod["spec"]["securityContext"] == standard | release.values[component]["podSecurityContext"]
        assert not pod["spec"].keys() & {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"}


def containers_meet_the_restricted_standard(release: Release) -> None:
    for component, container in release.containers():
        own = {} if container["name"] in _EXTRA else release.values[component]["securityContext"]
        assert container["securityContext"] == _CONTAINER_SECURITY | own


def pods_hold_no_token_and_no_service_links(release: Release) -> None:
    for pod in release.pods().values():
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["enableServiceLinks"] is False


def containers_say_what_they_need_and_may_have(release: Release) -> None:
    for _, container in release.containers():
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert requests.keys() == limits.keys() == {"cpu", "memory", "ephemeral-storage"}
        for name in requests:
            assert 0 < _quantity(requests[name]) <= _quantity(limits[name])


def resources_are_those_of_the_values(release: Release) -> None:
    for component, container in release.containers():
        if container["name"] not in _EXTRA:
            assert container["resources"] == release.values[component]["resources"]


def every_container_can_write_to_tmp_and_to_no_other_place_by_chance(release: Release) -> None:
    for component, pod in release.pods().items():
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            if container["name"] in _EXTRA:
                continue
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            expected = {
                "postgresql": {"data": "/var/lib/postgresql/data", "run": "/var/run/postgresql"},
                "redis": {"data": "/data"},
            }.get(component, {})
            if release.values[component].get("extraVolumes"):
                expected = {"certificates": "/certificates"}
                assert {"name": "certificates", "mountPath": "/certificates", "readOnly": True} in container[
                    "volumeMounts"
                ]
            if release.cluster:
                expected = {"database-ca": "/run/database-ca"}
                assert {"name": "database-ca", "mountPath": "/run/database-ca", "readOnly": True} in container[
                    "volumeMounts"
                ]
            assert mounts == expected | {"tmp": "/tmp"}


def volumes_are_bounded_and_mounted(release: Release) -> None:
    for component, pod in release.pods().items():
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        claims = {"data"} if component == "postgresql" else set()
        mounted = {
            mount["name"]
            for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
            for mount in container.get("volumeMounts", [])
        }
        assert mounted == volumes.keys() | claims
        for volume in volumes.values():
            if volume["name"] == "database-ca":
                secret = {"secretName": f"{release.cluster}-ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
                assert volume["secret"] == secret, "the authority's private key stays out of the pods"
            elif volume["name"] != "certificates":
                assert _quantity(volume["emptyDir"]["sizeLimit"]) <= 128 * 2**20


def images_are_the_ones_of_the_values(release: Release) -> None:
    registry = release.values["global"]["imageRegistry"]
    prefix = f"{registry}/" if registry else ""
    for component, container in release.containers():
        if container["name"] in _EXTRA:
            continue
        image = release.values[component].get("image", release.values["image"])
        version = f"@{image['digest']}" if image["digest"] else f":{image['tag'] or '0.1.0'}"
        assert container["image"] == f"{prefix}{image['repository']}{version}"
        assert container["imagePullPolicy"] == image["pullPolicy"]


def images_are_pulled_with_every_secret(release: Release) -> None:
    wanted = release.values["global"]["imagePullSecrets"] + release.values["image"]["pullSecrets"]
    for pod in release.pods().values():
        assert pod["spec"].get("imagePullSecrets", []) == wanted


def our_containers_run_a_configuration_that_the_application_accepts(release: Release) -> None:
    for component, container in _ours(release):
        values, secrets = _environment(container)
        given = {name: value for name, value in values.items() if name in Settings.model_fields}
        given |= {name: _SECRETS[name] for name in secrets if name in _SECRETS}
        if release.cluster:
            urls = given.keys() & {"DATABASE_URL", "DATABASE_REPLICA_URL"}
            given |= {name: in_the_pod(given[name]) for name in urls}
        settings = Settings.isolated(**given)

        assert str(settings.ENVIRONMENT) == _environment_of(release)
        assert settings.METRICS_PORT == 9090
        assert {"DATABASE_URL", "METRICS_PORT", "ENVIRONMENT"} <= settings.model_fields_set
        config = release.config(component)
        assert config.keys() <= settings.model_fields_set
        expected = Settings.isolated(**(given | {key: _as_variable(value) for key, value in config.items()}))
        assert settings.model_dump() == expected.model_dump()
        wanted = {*config, "ENVIRONMENT", "METRICS_PORT", "DATABASE_URL", "SECRET_KEY"}
        wanted |= {"CLUSTER_URI"} if release.cluster else set()
        wanted |= {"REDIS_URL"} if release.values["redis"]["enabled"] or _redis(release) else set()
        replica = release.values["externalDatabase"]["replicaKey"] or release.values["cloudnativepg"]["readReplicas"]
        wanted |= {"DATABASE_REPLICA_URL"} if replica and component == "api" else set()
        wanted |= {entry["name"] for entry in release.values["extraEnv"] + release.values[component]["extraEnv"]}
        wanted |= {"TOKEN"} if component == "tests" and release.values["tests"]["tokenSecret"] else set()
        wanted |= tracing_variables(release, component).keys()
        assert {entry["name"] for entry in container["env"]} == wanted


def secrets_come_from_secrets(release: Release) -> None:
    values = release.values
    database, database_key = release.database_secret
    for component, container in _ours(release):
        _, secrets = _environment(container)
        key = (release.direct or database_key) if component == "migrate" else database_key
        assert secrets.pop("CLUSTER_URI" if release.cluster else "DATABASE_URL") == (database, key)
        if component == "api" and (replica := values["externalDatabase"]["replicaKey"]):
            assert secrets.pop("DATABASE_REPLICA_URL") == (database, replica)
        secret = values["secretKey"]["existingSecret"] or f"{release.name}-key"
        assert secrets.pop("SECRET_KEY") == (secret, values["secretKey"]["key"])
        if _redis(release) or values["redis"]["enabled"]:
            assert secrets.pop("REDIS_URL") == (_redis(release) or f"{release.name}-redis-auth", "REDIS_URL")
        if component == "tests" and values["tests"]["tokenSecret"]:
            assert secrets.pop("TOKEN") == (values["tests"]["tokenSecret"], "TOKEN")
        assert not secrets


def variables_of_the_values_reach_every_container(release: Release) -> None:
    for component, container in _ours(release):
        for entry in release.values["extraEnv"] + release.values[component]["extraEnv"]:
            assert entry in container["env"]
        sources = release.values["extraEnvFrom"] + release.values[component]["extraEnvFrom"]
        assert container.get("envFrom", []) == sources


def no_variable_is_set_twice(release: Release) -> None:
    for _, container in _ours(release):
        names = [entry["name"] for entry in container["env"]]
        assert len(names) == len(set(names))


def scheduling_follows_the_values(release: Release) -> None:
    for component, pod in release.pods().items():
        values = release.values[component]
        for key in _OF_PODS:
            assert pod["spec"].get(key, type(values[key])()) == values[key]


def pods_carry_the_labels_annotations_and_volumes_of_the_values(release: Release) -> None:
    for component, pod in release.pods().items():
        values = release.values[component]
        assert values["podLabels"].items() <= pod["metadata"]["labels"].items()
        made = HOOK if component == "tests" else scrape_annotations(release, component) | key_annotation(release)
        assert pod["metadata"].get("annotations", {}) == made | values["podAnnotations"]
    for component in {*release.watched, "migrate"} & release.pods().keys():
        values, pod = release.values[component], release.pods()[component]
        own = [volume for volume in pod["spec"]["volumes"] if volume["name"] not in ("tmp", "database-ca")]
        assert own == values["extraVolumes"]


def extra_containers_start_around_the_wait_and_are_as_restricted(release: Release) -> None:
    for component, pod in release.ours().items():
        values = release.values[component]
        own = values.get("initContainers", [])
        native = [position for position, item in enumerate(own, start=1) if item.get("restartPolicy") == "Always"]
        before = native[-1] if native else 0
        waits = ["wait"] if component in release.watched else []
        init = pod["spec"].get("initContainers", [])
        names = [item["name"] for item in own]
        assert [item["name"] for item in init] == names[:before] + waits + names[before:]
        names = [item["name"] for item in pod["spec"]["containers"]]
        assert names == [main_container(component)] + [item["name"] for item in values.get("sidecars", [])]
        extra = [item for item in init if item["name"] != "wait"] + pod["spec"]["containers"][1:]
        given = own + values.get("sidecars", [])
        assert extra == [container | {"securityContext": _CONTAINER_SECURITY} for container in given]


def _ours(release: Release) -> list[tuple[str, Object]]:
    return [
        (component, container)
        for component, container in release.containers()
        if component in release.ours() and container["name"] in (main_container(component), "wait")
    ]


def _environment(container: Object) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """The variables with a value, and those from a Secret with its name and key."""
    values = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    assert all(isinstance(value, str) for value in values.values())
    secrets = {
        entry["name"]: (entry["valueFrom"]["secretKeyRef"]["name"], entry["valueFrom"]["secretKeyRef"]["key"])
        for entry in container["env"]
        if "value" not in entry and "fieldRef" not in entry["valueFrom"]
    }
    return values, secrets


def _environment_of(release: Release) -> str:
    deployed = release.own_database or release.values["config"]["AUTH_PROVIDER"] != "local"
    return str(release.values["environment"] or ("production" if deployed else "local"))


def _redis(release: Release) -> str:
    return str(release.values["externalRedis"]["existingSecret"])


def _as_variable(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)


def _quantity(text: Any) -> float:
    match = re.fullmatch(r"([0-9.]+)(m|Mi|Gi|)", str(text))
    assert match, text
    return float(match[1]) * _UNITS[match[2]]
