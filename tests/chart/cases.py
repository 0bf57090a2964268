"""The values with which the chart is rendered for the tests, and the releases that come of them."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.chart.tools import Object, default_values, merged, objects_of, template, with_key

PRODUCTION: Object = {
    "externalDatabase": {"existingSecret": "plinth-database"},
    "externalRedis": {"existingSecret": "plinth-redis", "port": 6380},
    "postgresql": {"enabled": False},
    "redis": {"enabled": False},
    "secretKey": {"existingSecret": "plinth-secret-key"},
    "config": {
        "AUTH_PROVIDER": "custom",
        "OIDC_ISSUER": "https://id.example.com/",
        "OIDC_AUDIENCE": "https://api.example.com",
    },
}


_SCRAPE: Object = {
    "scrapeTimeout": "4500ms",
    "relabelings": [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}],
    "metricRelabelings": [{"sourceLabels": ["__name__"], "regex": "python_gc_.*", "action": "drop"}],
    "sampleLimit": 20000,
}


def _pod(name: str) -> Object:
    """Every value that goes through to a pod, of a kind that no other component has."""
    return {
        "podAnnotations": {"example.com/pod": name},
        "podLabels": {"team": f"{name}-team"},
        "extraEnv": [{"name": "OWN", "value": name}],
        "extraEnvFrom": [{"secretRef": {"name": f"{name}-settings"}}],
        "nodeSelector": {"pool": name},
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "tolerations": [{"key": name, "operator": "Exists"}],
        "priorityClassName": f"{name}-first",
        "runtimeClassName": f"{name}-sandbox",
        "hostAliases": [{"ip": "192.0.2.1", "hostnames": [f"{name}.example.com"]}],
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
        "podSecurityContext": {"supplementalGroups": [len(name)]},
        "securityContext": {"runAsUser": 20000 + len(name)},
    }


def _component(name: str) -> Object:
    return _pod(name) | {
        "config": {"LOG_LEVEL": "DEBUG"},
        "annotations": {"example.com/owner": f"{name}-team"},
        "extraVolumes": [{"name": "certificates", "secret": {"secretName": f"{name}-certificates"}}],
        "extraVolumeMounts": [{"name": "certificates", "mountPath": "/certificates", "readOnly": True}],
        "initContainers": [
            {"name": "sidecar", "image": "example.com/sidecar:1", "restartPolicy": "Always", "resources": _SMALL},
            {"name": "prepare", "image": "example.com/prepare:1", "resources": _SMALL},
        ],
        "serviceAccount": {"annotations": {"example.com/role": name}},
    }


_SMALL = {
    "requests": {"cpu": "10m", "memory": "16Mi", "ephemeral-storage": "1Mi"},
    "limits": {"cpu": "20m", "memory": "32Mi", "ephemeral-storage": "2Mi"},
}
_SIDECAR = {
    "name": "proxy",
    "image": "example.com/proxy:1",
    "resources": _SMALL,
    "livenessProbe": {"tcpSocket": {"port": 15021}},
    "readinessProbe": {"httpGet": {"path": "/ready", "port": 15021}},
}

_BACKEND = {"service": {"name": "shop-api", "port": {"name": "http"}}}

# Everything that can be on at once, in a try-out.
FULL: Object = {
    "global": {"imageRegistry": "mirror.example.com", "imagePullSecrets": [{"name": "pull"}]},
    "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": [{"name": "pull-plinth"}]},
    "environment": "test",
    "listenHost": "0.0.0.0",
    "fullnameOverride": "shop",
    "config": {"MAX_BODY_BYTES": 2097152, "DB_POOL_TIMEOUT": 0.5, "JOBS_QUEUES": ["default", "mail"], "DEBUG": True},
    "extraEnv": [{"name": "EVERYWHERE", "value": "yes"}],
    "extraEnvFrom": [{"configMapRef": {"name": "settings"}}],
    "secretKey": {"existingSecret": "keys", "key": "PLINTH"},
    "api": _component("api") | {
        "sidecars": [_SIDECAR],
        "replicas": 3,
        "service": {
            "type": "NodePort",
            "nodePort": 30080,
            "annotations": {"example.com/service": "api"},
            "ipFamilyPolicy": "RequireDualStack",
            "ipFamilies": ["IPv6", "IPv4"],
        },
        "autoscaling": {"enabled": True, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}},
    },
    "worker": _component("worker") | {
        "config": {"LOG_LEVEL": "DEBUG", "JOBS_SESSION_TIMEOUT": 30},
        "sidecars": [_SIDECAR],
        "keda": {
            "enabled": True,
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
        },
    },
    "workers": {
        "default": {"podAnnotations": {"example.com/group": "default"}},
        "exports": {
            "queues": ["exports", "reports"],
            "config": {"JOBS_CONCURRENCY": 2},
            "replicas": 2,
            "podLabels": {"team": "exports-team"},
            "serviceAccount": {"annotations": {"example.com/role": "exports"}},
            "keda": {"enabled": False},
            "autoscaling": {"enabled": True},
        },
    },
    "migrate": _component("migrate"),
    "postgresql": {
        "maxConnections": 300,
        "storage": {"size": "2Gi", "className": "fast"},
        "service": {"ipFamilyPolicy": "SingleStack"},
        **{key: value for key, value in _pod("postgresql").items() if not key.startswith("extra")},
    },
    "redis": {
        "service": {"ipFamilies": ["IPv4"]},
        **{key: value for key, value in _pod("redis").items() if not key.startswith("extra")},
    },
    "tests": _pod("tests") | {"tokenSecret": "test-token"},
    "metrics": {
        "podMonitor": {"enabled": True, "interval": "5s", "labels": {"prometheus": "monitors"}} | _SCRAPE,
        "rules": {
            "enabled": True,
            "labels": {"prometheus": "rules"},
            "severities": {"critical": 'P1 "page" \\now', "warning": "ticket: #2"},
            "additionalLabels": {"team": "shop", "severity": "none", "release": "other"},
            "runbookUrl": "https://runbooks.example.com/plinth",
            "lateSeconds": 90,
            "certManager": True,
            "objectives": {
                "availability": {"percent": 99.95, "minimum": 2000000},
                "latency": {"percent": 97.5, "seconds": 1, "minimum": 200, "exceptRoutes": ".*/slow"},
                "timeliness": {"percent": 98, "seconds": 2.5, "minimum": 30},
            },
        },
        "dashboards": {
            "enabled": True,
            "labels": {"grafana_dashboard": "yes"},
            "annotations": {"grafana_folder": "Shop"},
        },
    },
    "tracing": {
        "endpoint": "http://collector.monitoring:4318",
        "ratio": 0.25,
        "resourceAttributes": {"service.namespace": "shop", "service.version": "9"},
    },
    "networkPolicy": {
        "collectorNamespace": "monitoring",
        "apiFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
        "extraEgress": [{"ports": [{"port": 8443}]}],
        "testsExtraEgress": [{"ports": [{"port": 15012}]}],
        "dns": {
            "ports": [53, 5353],
            "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
        },
    },
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "annotations": {"example.com/ingress": "yes"},
        "hosts": ["api.example.com", "*.example.net"],
        "pathType": "Exact",
        "extraPaths": [{"path": "/docs", "pathType": "Prefix", "backend": _BACKEND}],
        "tls": [{"hosts": ["api.example.com"], "secretName": "api-tls"}],
    },
    "httpRoute": {
        "enabled": True,
        "annotations": {"example.com/route": "yes"},
        "parentRefs": [{"name": "gateway", "namespace": "gateways"}],
        "hostnames": ["api.example.com"],
        "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x-debug"]}},
            {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "shadow", "port": 80}}},
        ],
        "timeouts": {"request": "30s"},
    },
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-map"}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-text",
    ],
}  # fmt: skip

CASES: dict[str, Object] = {
    "default": {},
    "production": merged(
        PRODUCTION,
        {
            "metrics": {"scrapeAnnotations": True},
            "api": {"podAnnotations": {"prometheus.io/scrape": "slow"}},
            "tracing": {"endpoint": "https://traces.example.com:4443/otlp"},
        },
    ),
    "full": FULL,
    "hook": merged(PRODUCTION, {"migrate": {"mode": "hook"}, "externalRedis": {"existingSecret": ""}}),
    "upstash": merged(
        PRODUCTION,
        {
            "externalRedis": {"existingSecret": "", "port": 6380},
            "config": {"UPSTASH_REDIS_REST_URL": "https://example-12345.upstash.io"},
            "extraEnv": [{"name": "UPSTASH_REDIS_REST_TOKEN", "value": "0b1c7d2e9f"}],
            "tracing": {"endpoint": "http://collector.monitoring:80"},
            "networkPolicy": {"collectorPort": 4318, "identityProviderPort": 8443},
        },
    ),
    "pooler": merged(
        PRODUCTION,
        {
            "externalDatabase": {
                "port": 6432,
                "directKey": "DIRECT_URL",
                "replicaKey": "REPLICA_URL",
                "replicaPort": 6433,
            },
            "config": {"DB_TRANSACTION_POOLER": True},
            "metrics": {"serviceMonitor": {"enabled": True, "interval": "30s"} | _SCRAPE},
            "worker": {"keda": {"enabled": True, "maxReplicas": 1}},
        },
    ),
    "cloudnativepg": merged(
        PRODUCTION,
        {
            "externalDatabase": {"existingSecret": ""},
            "cloudnativepg": {
                "enabled": True,
                "maxConnections": 300,
                "parameters": {"shared_buffers": "256MB"},
                "storage": {"size": "20Gi", "className": "fast"},
                "readReplicas": True,
                "spec": {"backup": {"volumeSnapshot": {"className": "snapshots"}}},
            },
            "global": {"imageRegistry": "mirror.example.com", "imagePullSecrets": [{"name": "pull"}]},
            "worker": {"keda": {"enabled": True, "connectionKey": "fqdn-uri"}},
        },
    ),
    "bare": {
        "securityPreset": "openshift",
        "redis": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "migrate": {"mode": "disabled"},
        "api": {"pdb": {"enabled": False}, "serviceAccount": {"create": False, "name": "shared"}},
        "worker": {
            "pdb": {"enabled": False},
            "serviceAccount": {"create": False},
            "topologySpreadConstraints": [],
            "affinity": {"podAntiAffinity": {}},
            "autoscaling": {"enabled": True},
        },
    },
}

CASES["pooled"] = merged(
    CASES["cloudnativepg"],
    {
        "cloudnativepg": {
            "readReplicas": False,
            "pooler": {"enabled": True, "instances": 3, "poolSize": 30, "maxClients": 500, "spec": {"type": "rw"}},
        },
    },
)


def main_container(component: str) -> str:
    """The name of a component's main container, which is the same for each group of workers."""
    return "worker" if component.startswith("worker-") else component


@dataclass(frozen=True)
class Release:
    """What Kubernetes would get, and the values it was made of."""

    case: str
    values: Object
    objects: list[Object]

    @property
    def name(self) -> str:
        """What the objects' names begin with."""
        return str(self.values["fullnameOverride"] or "plinth")

    def all(self, kind: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] == kind]

    def find(self, kind: str, name: str) -> Object | None:
        """The object whose name is the release's and `name`."""
        return next((item for item in self.all(kind) if item["metadata"]["name"] == f"{self.name}-{name}"), None)

    def get(self, kind: str, name: str) -> Object:
        found = self.find(kind, name)
        assert found is not None, f"no {kind} {self.name}-{name}"
        return found

    def pods(self) -> dict[str, Object]:
        """The pod, with metadata and spec, of each component that has one."""
        pods = {}
        for item in self.objects:
            template = item if item["kind"] == "Pod" else item.get("spec", {}).get("template")
            if template is not None:
                pods[item["metadata"]["labels"]["app.kubernetes.io/component"]] = template
        return pods

    def containers(self) -> list[tuple[str, Object]]:
        """Every container with its component, init containers included."""
        return [
            (component, container)
            for component, pod in self.pods().items()
            for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
        ]

    def ours(self) -> dict[str, Object]:
        """The pods of our own image."""
        return {name: pod for name, pod in self.pods().items() if name in (*self.watched, "migrate", "tests")}

    @property
    def cluster(self) -> str:
        """The name of the Cluster of CloudNativePG, where there is one."""
        return f"{self.name}-database" if self.values["cloudnativepg"]["enabled"] else ""

    @property
    def own_database(self) -> bool:
        """Whether the database is another one than that of a try-out."""
        return bool(self.cluster or self.values["externalDatabase"]["existingSecret"])

    @property
    def database_secret(self) -> tuple[str, str]:
        """The Secret with the database's URL, and its key."""
        if self.cluster:
            return f"{self.cluster}-app", "uri"
        return self.values["externalDatabase"]["existingSecret"] or f"{self.name}-postgresql", "DATABASE_URL"

    @property
    def workers(self) -> list[str]:
        """The component of each group of workers."""
        return [name for name in self.values if name == "worker" or name.startswith("worker-")]

    @property
    def watched(self) -> list[str]:
        """The components that have metrics: the API and the workers."""
        return ["api", *self.workers]

    def selector(self, component: str) -> Object:
        """What selects the pods of a component."""
        own = {"name": self.values["nameOverride"] or "plinth", "instance": "plinth", "component": component}
        return {"matchLabels": {f"app.kubernetes.io/{key}": value for key, value in own.items()}}

    def config(self, component: str) -> dict[str, Any]:
        """The settings of a component."""
        direct = {"DB_TRANSACTION_POOLER": False} if component == "migrate" and self.direct else {}
        pooled = {"DB_TRANSACTION_POOLER": True} if component != "migrate" and self.pooled else {}
        return {**self.values["config"], **self.values[component]["config"], **direct, **pooled}

    @property
    def pooled(self) -> bool:
        """Whether the pods go through a Pooler."""
        return bool(self.values["cloudnativepg"]["pooler"]["enabled"])

    @property
    def direct(self) -> str:
        """The key of the database's own URL, where the other leads through a pooler."""
        return str(self.values["externalDatabase"]["directKey"])


def _with_groups(values: Object) -> Object:
    """The values with those of each group of workers under its component: the common ones and its own over them."""
    groups = {}
    for group, own in ({"default": {}} | values["workers"]).items():
        component = "worker" if group == "default" else f"worker-{group}"
        groups[component] = merged(values["worker"], own)
        if queues := groups[component]["queues"]:
            groups[component]["config"] = groups[component]["config"] | {"JOBS_QUEUES": queues}
    return values | groups


@cache
def release(case: str) -> Release:
    values = with_key(CASES[case])
    return Release(case, _with_groups(merged(default_values(), values)), objects_of(template(values)))
