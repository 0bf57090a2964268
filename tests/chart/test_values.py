"""The schema of the chart's values: what it refuses, what it accepts, and that every example is right."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from app import __version__
from app.core.config import Settings
from plinth.jobs.metrics import of_kind
from plinth.telemetry.http_metrics import HttpMetrics
from scripts.values_schema import ENV_EXAMPLE, generated
from tests.chart.tools import CHART, ROOT, Object, RenderError, default_values, merged, nodes, template

SCHEMA: Object = json.loads((CHART / "values.schema.json").read_text())

_MISTAKES: dict[str, tuple[Object, str]] = {
    "a misspelt section": ({"apii": {}}, "additional properties 'apii' not allowed"),
    "a misspelt key": ({"api": {"replica": 2}}, "additional properties 'replica' not allowed"),
    "a misspelt key, deep": ({"worker": {"keda": {"enable": True}}}, "additional properties 'enable' not allowed"),
    "a misspelt setting": ({"config": {"LOGLEVEL": "DEBUG"}}, "additional properties 'LOGLEVEL' not allowed"),
    "a secret among the settings": (
        {"config": {"SUPABASE_JWT_SECRET": "s"}}, "additional properties 'SUPABASE_JWT_SECRET' not allowed",
    ),
    "a setting that the chart decides": ({"config": {"METRICS_PORT": 1}}, "'METRICS_PORT' not allowed"),
    "a setting out of its bounds": ({"config": {"JOBS_CONCURRENCY": 0}}, "minimum: got 0, want 1"),
    "a number for a text": ({"config": {"OIDC_AUDIENCE": 285710964302104578}}, "got number, want null or string"),
    "an unknown choice": ({"worker": {"config": {"LOG_FORMAT": "xml"}}}, "must be one of 'auto', 'json', 'console'"),
    "text for what the chart computes with": ({"config": {"DB_POOL_SIZE": "10"}}, "got string, want integer"),
    "a number in quotes": ({"api": {"replicas": "2"}}, "got string, want integer"),
    "a switch in quotes": ({"redis": {"enabled": "no"}}, "got string, want boolean"),
    "a number for a variable": ({"extraEnv": [{"name": "A", "value": 1}]}, "got number, want string"),
    "a number for a setting of PostgreSQL": (
        {"cloudnativepg": {"parameters": {"work_mem": 4}}}, "at '/cloudnativepg/parameters/work_mem': got number",
    ),
    "no instance at all": ({"cloudnativepg": {"instances": 0}}, "minimum: got 0, want 1"),
    "an unknown mode": ({"migrate": {"mode": "jobs"}}, "'job', 'hook', 'disabled'"),
    "an unknown environment": ({"environment": "prod"}, "'staging', 'production'"),
    "half a digest": ({"image": {"digest": "sha256:12"}}, "does not match pattern"),
    "no worker at all": ({"worker": {"keda": {"minReplicas": 0}}}, "minimum: got 0, want 1"),
    "a removed section": ({"api": None}, "missing property 'api'"),
    "a removed key": ({"config": {"DB_POOL_SIZE": None}}, "missing property 'DB_POOL_SIZE'"),
    "a relabeling that the operator does not have": (
        {"metrics": {"podMonitor": {"relabelings": [{"source_labels": ["a"]}]}}},
        "source_labels",
    ),
    "a label that Prometheus does not take": (
        {"metrics": {"rules": {"additionalLabels": {"my-team": "shop"}}}},
        "my-team",
    ),
    "a label that Prometheus refuses": (
        {"metrics": {"rules": {"additionalLabels": {"__name__": "shop"}}}}, "invalid propertyName '__name__'",
    ),
    "a label that Prometheus sets itself": (
        {"metrics": {"rules": {"additionalLabels": {"alertname": "shop"}}}}, "invalid propertyName 'alertname'",
    ),
    "routes with a line break": (
        {"metrics": {"rules": {"objectives": {"latency": {"exceptRoutes": ".*/events\n"}}}}}, "does not match pattern",
    ),
    "an interval without a unit": ({"metrics": {"podMonitor": {"interval": "15"}}}, "does not match pattern"),
    "an objective of 100%": (
        {"metrics": {"rules": {"objectives": {"latency": {"percent": 100}}}}}, "exclusiveMaximum: got 100, want 100",
    ),
    "a bound that is not one of the buckets": (
        {"metrics": {"rules": {"objectives": {"latency": {"seconds": 0.3}}}}}, "value must be one of",
    ),
    "a percentage where a share is expected": ({"tracing": {"ratio": 10}}, "maximum: got 10, want 1"),
    "an attribute of spans with a comma": (
        {"tracing": {"resourceAttributes": {"a,b": "c"}}}, "'a,b' does not match pattern",
    ),
    "an address without a scheme": ({"tracing": {"endpoint": "collector:4318"}}, "does not match pattern"),
    "a name that no Service may have": ({"fullnameOverride": "Shop"}, "at '/fullnameOverride': 'Shop' does not match"),
    "a label with a space": ({"api": {"podLabels": {"team": "a b"}}}, "at '/api/podLabels/team': 'a b' does not match"),
    "a label that is too long": ({"redis": {"podLabels": {"team": "a" * 64}}}, "maxLength: got 64, want 63"),
    "a label with two prefixes": ({"tests": {"podLabels": {"a/b/c": "d"}}}, "'a/b/c' does not match pattern"),
    "an annotation with a space": ({"worker": {"podAnnotations": {"a b": "c"}}}, "'a b' does not match pattern"),
    "a node's label with a space": ({"migrate": {"nodeSelector": {"pool": "a b"}}}, "'a b' does not match pattern"),
    "a variable with a space": ({"extraEnv": [{"name": "A B", "value": "1"}]}, "'A B' does not match pattern"),
    "a container without an image": ({"api": {"sidecars": [{"name": "proxy"}]}}, "missing property 'image'"),
    "a container in capitals": (
        {"api": {"initContainers": [{"name": "Proxy", "image": "a"}]}}, "'Proxy' does not match pattern",
    ),
    "a mount without a path": ({"api": {"extraVolumeMounts": [{"name": "a"}]}}, "missing property 'mountPath'"),
    "a quantity with a space": (
        {"api": {"resources": {"limits": {"memory": "1 Gi"}}}}, "'1 Gi' does not match pattern",
    ),
    "an image in capitals": ({"image": {"repository": "Shop"}}, "'Shop' does not match pattern"),
    "a tag with a digest": ({"image": {"tag": "1@sha256:12"}}, "'1@sha256:12' does not match pattern"),
    "a host with a scheme": ({"ingress": {"hosts": ["https://a.example"]}}, "'https://a.example' does not match"),
    "a host in capitals": ({"httpRoute": {"hostnames": ["A.example"]}}, "'A.example' does not match"),
    "a key of a Secret with a slash": ({"secretKey": {"key": "a/b"}}, "'a/b' does not match pattern"),
    "a peer that says nothing": ({"networkPolicy": {"apiFrom": [{}]}}, "minProperties: got 0, want 1"),
    "a namespace in capitals": ({"networkPolicy": {"kedaNamespace": "Keda"}}, "'Keda' does not match pattern"),
    "a class in capitals": ({"ingress": {"className": "NGINX"}}, "'NGINX' does not match pattern"),
    **{
        f"a registry with {what}": ({where: {key: registry}}, f"'{registry}' does not match pattern")
        for where, key in (("image", "registry"), ("global", "imageRegistry"))
        for what, registry in (("a scheme", "https://registry.example"), ("a slash behind it", "registry.example/"))
    },
    **{
        f"an address of a collector with {what}": ({"tracing": {"endpoint": url}}, f"'{url}' does not match pattern")
        for what, url in (("no number for its port", "http://c:otlp"), ("half an escape", "http://c/%z"))
    },
    "a family of addresses twice": ({"api": {"service": {"ipFamilies": ["IPv4", "IPv4"]}}}, "are equal"),
    "a network without its size": (
        {"api": {"service": {"loadBalancerSourceRanges": ["192.0.2.1"]}}}, "'192.0.2.1' does not match pattern",
    ),
    "a variable from no source": ({"extraEnv": [{"name": "A", "valueFrom": {}}]}, "minProperties: got 0, want 1"),
    "a port of a container as text": (
        {"api": {"sidecars": [{"name": "a", "image": "a:1", "ports": ["8080"]}]}},
        "at '/api/sidecars/0/ports/0': got string, want object",
    ),
    "a security context as text": (
        {"worker": {"initContainers": [{"name": "a", "image": "a:1", "securityContext": "none"}]}},
        "at '/worker/initContainers/0/securityContext': got string, want null or object",
    ),
    "a number for a policy of restarts": (
        {"migrate": {"initContainers": [{"name": "a", "image": "a:1", "restartPolicy": 1}]}},
        "at '/migrate/initContainers/0/restartPolicy': got number",
    ),
    **{
        f"a number for the name of a Secret in {where}": ({where: {key: [{"name": 1}]}}, "got number, want string")
        for where, key in (("global", "imagePullSecrets"), ("image", "pullSecrets"))
    },
    "a number for the name of a volume": (
        {"api": {"extraVolumeMounts": [{"name": 1, "mountPath": "/a"}]}},
        "at '/api/extraVolumeMounts/0/name': got number, want string",
    ),
    "a constraint without a key": (
        {"api": {"topologySpreadConstraints": [{"maxSkew": 1}]}}, "missing properties 'topologyKey'",
    ),
    "a path without its type": (
        {"ingress": {"extraPaths": [{"path": "/", "backend": {}}]}}, "missing property 'pathType'",
    ),
    "a number for a setting of PostgreSQL, in its spec": (
        {"cloudnativepg": {"spec": {"postgresql": {"parameters": {"max_connections": 90}}}}},
        "at '/cloudnativepg/spec/postgresql/parameters/max_connections': got number, want string",
    ),
    "a text for a section of a Cluster": (
        {"cloudnativepg": {"spec": {"postgresql": "none"}}}, "at '/cloudnativepg/spec/postgresql': got string",
    ),
    "a text for a section of a Pooler": (
        {"cloudnativepg": {"pooler": {"spec": {"pgbouncer": "none"}}}},
        "at '/cloudnativepg/pooler/spec/pgbouncer': got string",
    ),
    "a resource under the wrong head": ({"api": {"resources": {"cpu": "1"}}}, "'cpu' not allowed"),
}  # fmt: skip


@pytest.mark.parametrize("helm", ["HELM", "HELM4"])
@pytest.mark.parametrize("case", _MISTAKES)
def test_a_mistake_is_named(case: str, helm: str) -> None:
    values, sentence = _MISTAKES[case]
    with pytest.raises(RenderError) as refused:
        template(values, helm=helm)
    assert "values don't meet the specifications of the schema" in str(refused.value)
    assert sentence in str(refused.value)


def test_other_keys_of_global_are_accepted() -> None:
    template({"global": {"region": "eu", "tracing": {"enabled": True}}})


def test_every_default_is_in_the_schema_and_every_key_of_the_schema_has_a_default() -> None:
    keys = {".".join(map(str, path)) for path, _ in nodes(default_values()) if path}
    known = {".".join(path) for path in _schema_paths(SCHEMA)}
    settings = {".".join(path) for path in _schema_paths(SCHEMA) if path[0] == "config" or path[1:2] == ("config",)}
    opaque = re.compile(r"\.(\d+|requests|limits)(\.|$)|\.claims$|\.labels\.|\.spec\.")
    assert {key for key in keys if not opaque.search(key)} <= known
    assert {key for key in known if not opaque.search(key)} - settings - keys == set()


def test_our_own_objects_take_no_other_keys() -> None:
    open_objects = {
        ".".join(map(str, path))
        for path, part in nodes(SCHEMA)
        if isinstance(part, dict) and isinstance(part.get("properties"), dict) and part.get("type") == "object"
        if part.get("additionalProperties") is not False
    }
    parts_of_pods = {f"definitions.{name}.items" for name in ("containers", "volumes", "volumeMounts")}
    parts_of_pods |= {"definitions.containers.items.properties.ports.items", "definitions.named"}
    operators = {f"properties.cloudnativepg.properties.{where}spec" for where in ("", "pooler.properties.")}
    assert open_objects == {"properties.global", *parts_of_pods, *operators}


@pytest.mark.parametrize("helm", ["HELM", "HELM4"])
def test_setting_of_a_service_is_accepted_and_checked(tmp_path: Path, helm: str) -> None:
    class ShopSettings(Settings):
        CURRENCY: Literal["EUR", "USD"] = "EUR"

    chart = tmp_path / "plinth"
    shutil.copytree(CHART, chart)
    env_example = f"{ENV_EXAMPLE.read_text()}# The currency of every price.\n# CURRENCY=EUR\n"
    (chart / "values.schema.json").write_text(generated(ShopSettings, json.dumps(SCHEMA), env_example))
    manifest = template({"config": {"CURRENCY": "USD"}}, chart=chart, helm=helm)
    assert "- name: CURRENCY\n              value: USD" in manifest
    for wrong, sentence in ({"CURRENCY": "euro"}, "must be one of 'EUR', 'USD'"), ({"CURENCY": "EUR"}, "not allowed"):
        with pytest.raises(RenderError, match=sentence):
            template({"config": wrong}, chart=chart, helm=helm)


def test_defaults_are_those_of_the_application() -> None:
    settings = Settings.isolated()
    for name, value in default_values()["config"].items():
        assert getattr(settings, name) == value, name


def test_bounds_of_objectives_are_bounds_of_the_histograms() -> None:
    """With any other number, the rule would never have a value."""
    objectives = SCHEMA["properties"]["metrics"]["properties"]["rules"]["properties"]["objectives"]["properties"]
    requests = HttpMetrics()
    requests.histograms("GET", "/", 200)
    text = requests.render(openmetrics=False)
    bounds = re.findall(r'^http_server_request_duration_seconds_bucket{.*le="([0-9.]+)"', text, re.MULTILINE)
    assert objectives["latency"]["properties"]["seconds"]["enum"] == [float(bound) for bound in bounds]
    waits = "".join(of_kind("any").wait.lines(openmetrics=False))
    bounds = re.findall(r'^plinth_job_wait_seconds_bucket{.*le="([0-9.]+)"', waits, re.MULTILINE)
    assert objectives["timeliness"]["properties"]["seconds"]["enum"] == [float(bound) for bound in bounds]


def test_the_chart_is_for_the_version_of_the_application() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__


def test_numbers_are_not_written_in_scientific_notation() -> None:
    """Helm reads every number as a float, and writes 1048576 as 1.048576e+06."""
    manifest = template({"config": {"MAX_BODY_BYTES": 1048576, "DB_POOL_TIMEOUT": 0.25}})
    assert '"1048576"' in manifest
    assert '"0.25"' in manifest
    assert "e+0" not in manifest


def test_a_map_becomes_the_json_that_the_setting_reads() -> None:
    manifest = template({"config": {"PERMISSIONS": {"admin": ["orders:write", "orders:read"]}}})
    written = re.findall(r"name: PERMISSIONS\n +value: (.*)", manifest)
    assert {yaml.safe_load(value) for value in written} == {'{"admin":["orders:write","orders:read"]}'}
    read = Settings.isolated(PERMISSIONS=yaml.safe_load(written[0])).PERMISSIONS
    assert read == (("admin", ("orders:write", "orders:read")),)


def _examples() -> dict[str, Object]:
    """YAML in comments of values.yaml, and the blocks of the pages that set values."""
    found: dict[str, Object] = {}
    text = (CHART / "values.yaml").read_text()
    for match in re.finditer(r"(?:^ *#   .*\n)+", text, re.MULTILINE):
        block = re.sub(r"^ *#   ", "", match[0], flags=re.MULTILINE)
        if not block.startswith(("kubectl", "helm")):
            line = text.count("\n", 0, match.start()) + 1
            found[f"values.yaml:{line}"] = yaml.safe_load(block)
    for page in (CHART / "README.md", ROOT / "docs" / "kubernetes.md", ROOT / "docs" / "sizing.md"):
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL), start=1):
            # An object of another program, such as an Application of Argo CD, is none.
            if not block.startswith("apiVersion:"):
                found[f"{page.name}, block {number}"] = yaml.safe_load(block)
    return found


EXAMPLES = _examples()


@pytest.mark.parametrize("where", EXAMPLES)
def test_an_example_works(where: str) -> None:
    manifest = template(_completed(EXAMPLES[where]))
    assert manifest != template({}), "the example changes nothing"


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8


def _completed(values: Object) -> Object:
    """An identity provider makes the environment production, and so does a Cluster: that needs more than is shown."""
    provider = values.get("config", {}).get("AUTH_PROVIDER", "local")
    database = values.get("externalDatabase", {}).get("existingSecret")
    cluster = values.get("cloudnativepg", {}).get("enabled", False)
    partial = cluster or (provider != "local" and not database)
    return merged({"environment": "local"}, values) if partial else values


def _schema_paths(schema: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Return the path of every key that the schema knows."""
    if "$ref" in schema:
        return _schema_paths(SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]], path)
    paths = {path} if path else set()
    for part in schema.get("allOf", []):
        paths |= _schema_paths(part, path)
    for name, part in schema.get("properties", {}).items():
        paths |= _schema_paths(part, (*path, name))
    return paths
