"""What the chart refuses, and that its messages tell what to type."""

import pytest

from app.core.config import Settings
from plinth.cli.server import GRACE_SECONDS
from plinth.settings import DEVELOPMENT_SECRET_KEY
from tests.chart.cases import CASES, FULL, PRODUCTION
from tests.chart.tools import CHART, CUSTOM_RESOURCES, KEY, Object, RenderError, merged, objects_of, template

CLUSTER = CASES["cloudnativepg"]

# Without a database of its own, and in production in all else.
_PRODUCTION_TRY_OUT: Object = {"environment": "production", "secretKey": {"existingSecret": "keys"}}

_RECREATE: Object = {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}


def _resources(part: str, request: str | float, limit: str) -> Object:
    """The values of a part by its dotted path."""
    values: Object = {"resources": {"requests": {"memory": request}, "limits": {"memory": limit}}}
    for key in reversed(part.split(".")):
        values = {key: values}
    return values


_REFUSED: dict[str, tuple[Object, list[str]]] = {
    "two databases": (
        {"externalDatabase": {"existingSecret": "db"}},
        ["Two databases", 'the Secret "db"', "postgresql.enabled=false", "its volume stays"],
    ),
    "no database": (
        {"postgresql": {"enabled": False}},
        [
            "No database",
            "kubectl create secret generic plinth-database",
            "externalDatabase.existingSecret",
            "cloudnativepg.enabled=true",
        ],
    ),
    "a Cluster beside another database": (
        merged(CLUSTER, {"externalDatabase": {"existingSecret": "db"}}),
        ["Two databases", 'the Secret "db"', "cloudnativepg.enabled=false"],
    ),
    "a Cluster beside the try-out's database": (
        merged(CLUSTER, {"postgresql": {"enabled": True}}),
        ["Two databases: cloudnativepg.enabled and postgresql.enabled", "Set postgresql.enabled=false"],
    ),
    "standbys of one instance": (
        merged(CLUSTER, {"cloudnativepg": {"instances": 1}}),
        ["cloudnativepg.readReplicas is true, and cloudnativepg.instances is 1", "Set cloudnativepg.instances=3"],
    ),
    "a hook before its Cluster": (
        merged(CLUSTER, {"migrate": {"mode": "hook"}}),
        ["migrate.mode is hook, and cloudnativepg.enabled is true", "migrate.mode=job"],
    ),
    "a pooler that a Cluster does not have": (
        merged(CLUSTER, {"config": {"DB_TRANSACTION_POOLER": True}}),
        ["config.DB_TRANSACTION_POOLER is true, and cloudnativepg.enabled", "cloudnativepg.pooler.enabled=true"],
    ),
    "too many connections of a Cluster": (
        merged(CLUSTER, {"cloudnativepg": {"maxConnections": 90}}),
        [
            "1 for the migration + 10 for operators",
            "cloudnativepg.maxConnections is 90",
            "cloudnativepg.pooler.enabled=true",
        ],
    ),
    "too many connections of a Cluster by its own spec": (
        merged(CLUSTER, {"cloudnativepg": {"spec": {"postgresql": {"parameters": {"max_connections": "90"}}}}}),
        ["cloudnativepg.maxConnections is 90"],
    ),
    "a Cluster with local tokens": (
        merged(CLUSTER, {"config": {"AUTH_PROVIDER": "local"}}),
        ['"production"', "config.AUTH_PROVIDER"],
    ),
    "a Pooler without a Cluster": (
        {"cloudnativepg": {"pooler": {"enabled": True}}},
        ["cloudnativepg.pooler.enabled is true, and cloudnativepg.enabled is false", "Set cloudnativepg.enabled=true"],
    ),
    "a Pooler that takes all connections": (
        merged(CASES["pooled"], {"cloudnativepg": {"pooler": {"poolSize": 50}}}),
        ["2 x 3 instances x 50 + 1 for the migration + 10 for operators = 311", "cloudnativepg.maxConnections is 300"],
    ),
    "a Pooler with too few places": (
        merged(CASES["pooled"], {"cloudnativepg": {"pooler": {"maxClients": 90}}}),
        ["cloudnativepg.pooler.maxClients is 90"],
    ),
    "two redis": (
        {"externalRedis": {"existingSecret": "cache"}},
        ["Two Redis servers", 'the Secret "cache"', "redis.enabled=false"],
    ),
    "a try-out's database in production": (
        _PRODUCTION_TRY_OUT,
        ['"production"', "postgresql.enabled", "externalDatabase.existingSecret", "environment=local"],
    ),
    "an identity provider makes it production": (
        {"config": {"AUTH_PROVIDER": "custom"}},
        ['"production"', "postgresql.enabled", "environment=local"],
    ),
    "a try-out's redis in production": (
        merged(PRODUCTION, {"redis": {"enabled": True}, "externalRedis": {"existingSecret": ""}}),
        ['"production"', "redis.enabled=false", "JOBS_POLL_INTERVAL"],
    ),
    "local tokens in staging": (
        merged(PRODUCTION, {"environment": "staging", "config": {"AUTH_PROVIDER": "local"}}),
        ['"staging"', "config.AUTH_PROVIDER", "supabase, clerk or custom"],
    ),
    "no key": (
        {"secretKey": {"value": ""}},
        [
            "No key",
            "--set secretKey.value=$(openssl rand -hex 32)",
            "--reset-then-reuse-values",
            "kubectl create secret generic plinth-secret-key --from-literal=SECRET_KEY=$(openssl rand -hex 32)",
            "--set secretKey.existingSecret=plinth-secret-key",
        ],
    ),
    "no key in production": (
        merged(PRODUCTION, {"secretKey": {"existingSecret": ""}}),
        ["secretKey.existingSecret is empty", 'The environment is "production"', "openssl rand"],
    ),
    "a key among the values in production": (
        merged(PRODUCTION, {"secretKey": {"existingSecret": "", "value": KEY}}),
        ["secretKey.value is for a try-out", "--set secretKey.existingSecret=plinth-secret-key"],
    ),
    "no key on an external database": (
        merged(PRODUCTION, {"environment": "local", "secretKey": {"existingSecret": ""}}),
        ["No key", "openssl rand"],
    ),
    "two keys": (
        {"secretKey": {"existingSecret": "keys", "value": KEY}},
        ["Two keys", 'the Secret "keys"', "Leave one of them empty"],
    ),
    "a short key": (
        {"secretKey": {"value": KEY[:31]}},
        ["secretKey.value has 31 characters", "32 or more", "openssl rand"],
    ),
    "development's key": (
        {"secretKey": {"value": DEVELOPMENT_SECRET_KEY}},
        ["secretKey.value is the key for development", "openssl rand"],
    ),
    "a hook before the secret that it needs": (
        merged(
            PRODUCTION,
            {
                "environment": "local",
                "migrate": {"mode": "hook"},
                "secretKey": {"existingSecret": "", "value": KEY},
            },
        ),
        ["migrate.mode is hook, and secretKey.value is set", "secretKey.existingSecret"],
    ),
    **{
        f"a well-known password of {open_server} without a policy": (
            {
                "secretKey": {"existingSecret": "keys"},
                "networkPolicy": {"enabled": False},
                closed_server: {"enabled": False},
            }
            | without,
            ["networkPolicy.enabled is false", "known to all", "--set secretKey.existingSecret=", "openssl rand"],
        )
        for open_server, closed_server, without in (
            ("PostgreSQL", "redis", {}),
            ("Redis", "postgresql", {"environment": "local", "externalDatabase": {"existingSecret": "db"}}),
        )
    },
    **{
        f"a try-out {where} that lets nothing through": (
            values,
            [f"networkPolicy.apiFrom is empty, and {said}", "--set-json 'networkPolicy.apiFrom="],
        )
        for where, values, said in (
            ("behind an ingress", {"ingress": {"enabled": True, "hosts": ["a.example"]}}, "ingress.enabled is true"),
            (
                "behind a gateway",
                {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]}},
                "httpRoute.enabled is true",
            ),
            (
                "behind a load balancer",
                {"api": {"service": {"type": "LoadBalancer"}}},
                "api.service.type is LoadBalancer",
            ),
            ("on a node port", {"api": {"service": {"type": "NodePort"}}}, "api.service.type is NodePort"),
        )
    },
    "a setting that hides from the arithmetic": (
        {"worker": {"extraEnv": [{"name": "DB_POOL_SIZE", "value": "50"}]}},
        ["extraEnv sets DB_POOL_SIZE", "Set it in config"],
    ),
    "a setting that hides from the rules": (
        {"worker": {"extraEnv": [{"name": "JOBS_SESSION_TIMEOUT", "value": "60"}]}},
        ["extraEnv sets JOBS_SESSION_TIMEOUT", "Set it in config"],
    ),
    **{
        f"{name} for one component": (
            {"api": {"config": {name: value}}},
            [f"api.config sets {name}", "API, worker, migration and test have to agree", "Set it in config"],
        )
        for name, value in {
            "AUTH_PROVIDER": "custom",
            "OIDC_ISSUER": "https://id.example.com/",
            "CLERK_ISSUER": "https://id.example.com/",
            "SUPABASE_URL": "https://id.example.com/",
            "DB_TRANSACTION_POOLER": True,
        }.items()
    },
    **{
        f"a label of {component} by which its pods are found": (
            {component: {"podLabels": {"app.kubernetes.io/instance": "mine"}}},
            [f"{component}.podLabels sets app.kubernetes.io/instance", "Leave it out"],
        )
        for component in ("api", "worker", "migrate", "tests", "postgresql", "redis")
    },
    **{
        f"a {where} container called {name}": (
            {"worker": {where: [{"name": name, "image": "proxy:1"}] * (2 if name == "twice" else 1)}},
            [f"have a container named {name}", "Give it another name"],
        )
        for where in ("sidecars", "initContainers")
        for name in ("worker", "wait", "twice")
    },
    "a variable from two sources": (
        {"api": {"extraEnv": [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]}},
        ["extraEnv gives A a value and a valueFrom", "Leave one of them out"],
    ),
    **{
        f"a sidecar of {component} on a port of the chart's: {port}": (
            {component: {"sidecars": [{"name": "proxy", "image": "proxy:1", "ports": [port]}]}},
            [f"The container proxy of {component} has the port {port['containerPort']}", "is the chart's own"],
        )
        for component, port in (
            ("api", {"name": "http", "containerPort": 15021}),
            ("api", {"name": "own", "containerPort": 8000}),
            ("worker", {"name": "metrics", "containerPort": 15020}),
            ("worker", {"containerPort": 9090}),
        )
    },
    "a mount without its volume": (
        {"api": {"extraVolumes": [{"name": "certs"}], "extraVolumeMounts": [{"name": "cert", "mountPath": "/certs"}]}},
        ["api.extraVolumeMounts mounts the volume cert on /certs", "none of that name: tmp, certs."],
    ),
    "a node port without nodes": (
        {"api": {"service": {"nodePort": 30080}}},
        ["api.service.nodePort is 30080", "Set api.service.type=NodePort"],
    ),
    **{
        f"scrapes every {interval} for rules that look back over two minutes": (
            {"metrics": {"podMonitor": {"enabled": True, "interval": interval}, "rules": {"enabled": True}}},
            [f"metrics.podMonitor.interval is {interval}", "60s or less", "metrics.rules.enabled=false"],
        )
        for interval in ("61s", "100s", "2m", "10m", "90000ms")
    },
    **{
        f"a {monitor} that scrapes too rarely": (
            {"metrics": {monitor: {"enabled": True, "interval": "90s"}, "rules": {"enabled": True}}},
            [f"metrics.{monitor}.interval is 90s", "60s or less", "metrics.rules.enabled=false"],
        )
        for monitor in ("podMonitor", "serviceMonitor")
    },
    **{
        f"a scrape that may take {timeout} of {interval}": (
            {"metrics": {monitor: {"enabled": True, "interval": interval, "scrapeTimeout": timeout}}},
            [f"metrics.{monitor}.scrapeTimeout is {timeout}", f"metrics.{monitor}.interval is {interval}"],
        )
        for monitor, timeout, interval in (
            ("podMonitor", "16s", "15s"),
            ("serviceMonitor", "1001ms", "1s"),
            ("podMonitor", "1m", "59s"),
        )
    },
    "two monitors": (
        {"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
        ["metrics.podMonitor.enabled and metrics.serviceMonitor.enabled are true", "Set one to false"],
    ),
    "a monitor of Services and annotations": (
        {"metrics": {"serviceMonitor": {"enabled": True}, "scrapeAnnotations": True}},
        ["metrics.serviceMonitor.enabled and metrics.scrapeAnnotations are true"],
    ),
    "too little time for requests": (
        {"config": {"DRAIN_SECONDS": 20}},
        ["api.terminationGracePeriodSeconds is 40 and has to be 45", "20 (preStop) + 20 (uvicorn", "+ 5 (slack) = 45"],
    ),
    "too little time for jobs": (
        {"worker": {"config": {"JOBS_SHUTDOWN_GRACE": 60}}},
        ["worker.terminationGracePeriodSeconds is 40 and has to be 65", "60 + 5 (slack) = 65"],
    ),
    "too many connections": (
        merged(PRODUCTION, {"api": {"replicas": 6}}),
        [
            "12 API pods x 11 + 2 worker pods x 14 + 1 for the migration + 5 for operators = 166",
            "externalDatabase.maxConnections is 100",
            "Lower config.DB_POOL_SIZE",
        ],
    ),
    "too many connections at full scale": (
        {"api": {"autoscaling": {"enabled": True, "maxReplicas": 10}}, "postgresql": {"maxConnections": 150}},
        ["20 API pods x 11", "postgresql.maxConnections is 150"],
    ),
    **{
        f"a {key} of {database}": (
            merged(values, {"externalDatabase": {key: "URL"}}),
            [f'externalDatabase.{key} is "URL", and externalDatabase.existingSecret is empty', f"leave {key} empty"],
        )
        for key in ("replicaKey", "directKey")
        for database, values in (("the chart's own database", {}), ("a Cluster", CLUSTER))
    },
    "standbys without a Cluster": (
        {"cloudnativepg": {"readReplicas": True}},
        ["cloudnativepg.readReplicas is true, and cloudnativepg.enabled is false", "externalDatabase.replicaKey"],
    ),
    "a key for KEDA that the chart's own Secret has not": (
        {"workers": {"exports": {"keda": {"enabled": True, "connectionKey": "URL"}}}},
        ['workers.exports.keda.connectionKey is "URL", and postgresql.enabled is true', "Leave it empty"],
    ),
    "a replica that hides from the chart": (
        {"api": {"extraEnv": [{"name": "DATABASE_REPLICA_URL", "value": "postgresql://standby/app"}]}},
        ["extraEnv sets DATABASE_REPLICA_URL", "externalDatabase"],
    ),
    **{
        f"Upstash beside {name}": (
            merged(PRODUCTION | {"environment": "local"}, values),
            ["Two Redis servers: UPSTASH_REDIS_URL is set", said, "leave UPSTASH_REDIS_URL out"],
        )
        for name, said, values in (
            (
                "the chart's own Redis",
                "redis.enabled is true",
                {
                    "redis": {"enabled": True},
                    "externalRedis": {"existingSecret": ""},
                    "config": {"UPSTASH_REDIS_URL": "https://a.upstash.io"},
                },
            ),
            (
                "another one",
                "externalRedis.existingSecret is set",
                {"extraEnv": [{"name": "UPSTASH_REDIS_URL", "value": "https://a.upstash.io"}]},
            ),
        )
    },
    **{
        f"one account of {one} and {other}": (
            {part: {"serviceAccount": {"name": "shared"}} for part in (one, other)},
            [
                f"{one}.serviceAccount and {other}.serviceAccount both make the account shared",
                f"Set {other}.serviceAccount.create=false",
            ],
        )
        for one, other in (("api", "worker"), ("api", "migrate"), ("migrate", "worker"))
    },
    "one account of two groups that say something else of it": (
        {
            "worker": {"serviceAccount": {"name": "shared"}},
            "workers": {"exports": {"serviceAccount": {"annotations": {"example.com/role": "exports"}}}},
        },
        ["worker.serviceAccount and workers.exports.serviceAccount make the account shared", "differ in"],
    ),
    **{
        f"a group of workers called {name}": (
            {"workers": {name: {}}},
            [f"workers has a group {name}", "15 characters at most", "small letters, digits and hyphens"],
        )
        for name in ("Exports", "bulk_mail", "mail-", "9to5", "a" * 16)
    },
    "too many connections of many workers": (
        {"worker": {"keda": {"enabled": True, "maxReplicas": 20}, "config": {"DB_MAX_OVERFLOW": 3}}},
        ["40 worker pods x 17", "postgresql.maxConnections is 200"],
    ),
    "a hook before its database": (
        {"migrate": {"mode": "hook"}},
        ["migrate.mode is hook", "migrate.mode=job"],
    ),
    **{
        f"a migration through a pooler, said by {text!r}": (
            merged(PRODUCTION, {"config": {"DB_TRANSACTION_POOLER": text}}),
            ["config.DB_TRANSACTION_POOLER is true", "--set externalDatabase.directKey=DIRECT_URL"],
        )
        for text in (True, "true", "Yes", "1")
    },
    "two autoscalers": (
        {"worker": {"keda": {"enabled": True}, "autoscaling": {"enabled": True}}},
        ["worker.autoscaling.enabled and worker.keda.enabled", "Set one to false"],
    ),
    "the least above the most": (
        {"api": {"autoscaling": {"enabled": True, "minReplicas": 5}}},
        ["api.autoscaling.minReplicas is 5 and api.autoscaling.maxReplicas is 4"],
    ),
    "nothing to measure": (
        {"api": {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}}},
        ["api.resources.requests.cpu is not set", "Set api.resources.requests.cpu=100m"],
    ),
    "pods that are scraped twice": (
        {"metrics": {"podMonitor": {"enabled": True}, "scrapeAnnotations": True}},
        ["metrics.podMonitor.enabled and metrics.scrapeAnnotations", "Set one to false"],
    ),
    "a variable of traces that the chart makes too": (
        {
            "tracing": {"endpoint": "http://collector:4318"},
            "worker": {"extraEnv": [{"name": "OTEL_TRACES_SAMPLER_ARG", "value": "1"}]},
        },
        ["extraEnv sets OTEL_TRACES_SAMPLER_ARG", "Use tracing.endpoint, tracing.ratio"],
    ),
    "routes that are no regular expression": (
        {"metrics": {"rules": {"objectives": {"latency": {"exceptRoutes": ".*/(events|content"}}}}},
        ["metrics.rules.objectives.latency.exceptRoutes", "refuse all rules", "Take one such as .*/(events|content)"],
    ),
    **{
        f"{part} with a request of {request} above its limit of {limit}": (
            merged(CLUSTER if part == "cloudnativepg" else {}, _resources(part, request, limit)),
            [f"{part}.resources.requests.memory is {request}", f"{part}.resources.limits.memory is {limit}"],
        )
        for part, request, limit in (
            ("api", "1Gi", "384Mi"),
            ("workers.exports", "1Gi", "384Mi"),
            ("migrate", "1.5G", "1.2Gi"),
            ("tests", "1e9", "900M"),
            ("postgresql", 2097152, "2000k"),
            ("redis", "1Ei", "1023Pi"),
            ("cloudnativepg", "2Gi", "1Gi"),
        )
    },
    "a request of CPU above its limit": (
        {"worker": {"resources": {"requests": {"cpu": 2}, "limits": {"cpu": "1900m"}}}},
        ["worker.resources.requests.cpu is 2, and worker.resources.limits.cpu is 1900m", "Raise worker.resources"],
    ),
    **{
        f"{where} of a template that makes nothing": (
            {section: {key: [empty] if key.startswith("host") else empty}},
            [f"{where} is {empty}, of which there is nothing left"],
        )
        for empty in ("{{ .Values.global.none }}",)
        for where in (
            "externalDatabase.existingSecret",
            "externalRedis.existingSecret",
            "secretKey.existingSecret",
            "tests.tokenSecret",
            "ingress.hosts",
            "httpRoute.hostnames",
        )
        for section, key in (where.split("."),)
    },
    "an account that Kubernetes has made": (
        {"api": {"serviceAccount": {"name": "default"}}},
        ["api.serviceAccount.create is true, and its name is default", "Set api.serviceAccount.create=false"],
    ),
    **{
        f"a registry in {part}'s repository and one before it": (
            merged(CLUSTER if part == "cloudnativepg" else {}, {part: {"image": image}, "global": shared}),
            [f"{part}.image.repository is r.example:5000/a", "Put the registry into"],
        )
        for part, image, shared in (
            ("redis", {"repository": "r.example:5000/a", "registry": "mirror.example"}, {}),
            ("postgresql", {"repository": "r.example:5000/a"}, {"imageRegistry": "mirror.example"}),
            ("cloudnativepg", {"repository": "r.example:5000/a"}, {}),
        )
    },
    "KEDA through a pooler": (
        merged(
            PRODUCTION,
            {
                "config": {"DB_TRANSACTION_POOLER": True},
                "migrate": {"mode": "disabled"},
                "worker": {"keda": {"enabled": True, "connectionKey": "KEDA_URL"}},
                "workers": {"exports": {"keda": {"connectionKey": "", "maxReplicas": 1}}},
                "externalDatabase": {"maxConnections": 500},
            },
        ),
        ["workers.exports.keda.enabled is true, and externalDatabase.directKey is empty", "KEDA cannot use"],
    ),
    "two families in a single stack": (
        {"redis": {"service": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}}},
        ["redis.service.ipFamilyPolicy is SingleStack", "set redis.service.ipFamilyPolicy="],
    ),
    "source ranges of no load balancer": (
        {"api": {"service": {"loadBalancerSourceRanges": ["192.0.2.0/24"]}}},
        ["api.service.loadBalancerSourceRanges is set, and api.service.type is ClusterIP", "networkPolicy.apiFrom"],
    ),
    "an ingress without hosts": (
        {"ingress": {"enabled": True}, "networkPolicy": {"apiFrom": [{"podSelector": {}}]}},
        ["ingress.hosts is empty", "--set 'ingress.hosts={api.example.com}'"],
    ),
    "a route that leads to the API and elsewhere": (
        {
            "httpRoute": {
                "enabled": True,
                "parentRefs": [{"name": "gateway"}],
                "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}],
            },
            "networkPolicy": {"apiFrom": [{"podSelector": {}}]},
        },
        ["httpRoute.filters has a RequestRedirect", "a route of its own, in extraObjects"],
    ),
    **{
        f"a strategy of {path} of two types": (
            values,
            [f"{path}.strategy has the type Recreate and a rollingUpdate", f"Set {path}.strategy.rollingUpdate=null"],
        )
        for path, values in (
            ("api", {"api": {"strategy": _RECREATE}}),
            ("workers.exports", {"workers": {"exports": {"strategy": _RECREATE}}}),
        )
    },
    **{
        f"a roll-out of nothing, said by {none!r}": (
            {"worker": {"strategy": {"rollingUpdate": {"maxSurge": none, "maxUnavailable": none}}}},
            ["worker.strategy has maxSurge 0 and maxUnavailable 0"],
        )
        for none in (0, "0%")
    },
    "a route without a gateway": (
        {"httpRoute": {"enabled": True}, "networkPolicy": {"apiFrom": [{"podSelector": {}}]}},
        ["httpRoute.parentRefs is empty", "--set 'httpRoute.parentRefs[0].name=my-gateway'"],
    ),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_refused_with_what_to_do(case: str) -> None:
    values, parts = _REFUSED[case]
    with pytest.raises(RenderError) as refused:
        template(values)
    message = str(refused.value)
    assert "validations.yaml" in message
    assert KEY not in message
    assert [part for part in parts if part not in message] == [], message


_WITH = {"monitoring.coreos.com/v1/ServiceMonitor": CASES["pooler"], "postgresql.cnpg.io/v1/Cluster": CLUSTER}
"""Values that ask for a custom resource, where those for everything do not."""


@pytest.mark.parametrize("api", CUSTOM_RESOURCES)
def test_a_missing_custom_resource_is_said_and_not_passed_over(api: str) -> None:
    said = " ".join(api.rsplit("/", 1))
    with pytest.raises(RenderError, match=f"this cluster has no {said}. Install .* first, or set .*enabled=false"):
        template(_WITH.get(api, FULL), apis=tuple(set(CUSTOM_RESOURCES) - {api}))


def test_a_missing_keda_is_said_of_the_group_that_asks_for_it() -> None:
    groups = {"exports": {"queues": ["exports"], "keda": {"enabled": True}}}
    with pytest.raises(RenderError, match=r"workers\.exports\.keda\.enabled is true, and this cluster has no keda"):
        template({"workers": groups, "postgresql": {"maxConnections": 500}}, apis=())


def test_without_custom_resources_the_defaults_render() -> None:
    assert template({}, apis=()) == template({})


def test_values_of_a_release_from_before_the_key_are_understood() -> None:
    """`helm upgrade --reuse-values` brings the keys that the chart had then, and no new ones."""
    template({"secretKey": {"existingSecret": "keys", "value": None}})
    with pytest.raises(RenderError, match="No key"):
        template({"secretKey": {"existingSecret": "", "value": None}})


def test_sidecar_on_a_port_of_its_own_is_accepted() -> None:
    ports = [{"name": "http-proxy", "containerPort": 15001}, {"containerPort": 15021}]
    template({"api": {"sidecars": [{"name": "proxy", "image": "proxy:1", "ports": ports}]}})
    ports = [{"name": "http", "containerPort": 8000}]
    template({"worker": {"sidecars": [{"name": "proxy", "image": "proxy:1", "ports": ports}]}})


def test_just_enough_is_accepted() -> None:
    template({"config": {"DRAIN_SECONDS": 15}, "worker": {"config": {"JOBS_SHUTDOWN_GRACE": 35}}})
    template(merged(PRODUCTION, {"externalDatabase": {"maxConnections": 78}}))
    with pytest.raises(RenderError, match=r"= 78, and externalDatabase\.maxConnections is 77"):
        template(merged(PRODUCTION, {"externalDatabase": {"maxConnections": 77}}))


def test_the_arithmetic_uses_the_numbers_of_the_application() -> None:
    text = (CHART / "templates" / "validations.yaml").read_text()
    assert f"$uvicorn := {GRACE_SECONDS}.0" in text
    defaults = Settings.isolated()
    with pytest.raises(RenderError) as refused:
        template({"api": {"terminationGracePeriodSeconds": 1}})
    assert f"config.DRAIN_SECONDS {defaults.DRAIN_SECONDS:.0f} (preStop)" in str(refused.value)


def test_a_shared_account_is_made_by_one_of_them() -> None:
    shared = {
        part: {"serviceAccount": {"name": "shared", "create": part == "api"}} for part in ("api", "worker", "migrate")
    }
    items = objects_of(template(shared))
    assert [item["metadata"]["name"] for item in items if item["kind"] == "ServiceAccount"] == ["shared"]
    accounts = {
        item["spec"]["template"]["spec"]["serviceAccountName"] for item in items if item["kind"] == "Deployment"
    }
    assert accounts == {"shared"}


def test_the_authority_of_a_cluster_may_be_mounted_elsewhere_too() -> None:
    mount = {"name": "database-ca", "mountPath": "/etc/ssl/database", "readOnly": True}
    template(merged(CLUSTER, {"api": {"extraVolumeMounts": [mount]}}))


def test_request_up_to_its_limit_is_accepted() -> None:
    for request, limit in ("1Gi", "1073741824"), ("1000m", 1), ("1", "1000m"), (0.5, "500m"), ("5Gi", None), ("0", "0"):
        template({"api": {"resources": {"requests": {"memory": request}, "limits": {"memory": limit}}}})
    template({"redis": {"enabled": False, "resources": {"requests": {"memory": "1Gi"}}}})
