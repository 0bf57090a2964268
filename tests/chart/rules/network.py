"""Which pods reach which, asked of all policies together."""

from itertools import product
from urllib.parse import urlsplit

from tests.chart.cases import Release
from tests.chart.policies import OUTSIDE, Peer, allowed
from tests.chart.tools import Object

_PORTS = (8000, 9090, 9187, 9127, 5432, 6432, 6433, 6379, 6380, 443, 8443, 22, 4318, 4443, 15012)


def _peers(release: Release) -> dict[str, Peer]:
    def of_release(component: str) -> Peer:
        pod = release.pods().get(component)
        own = {"app.kubernetes.io/name": "plinth", "app.kubernetes.io/instance": "plinth"}
        labels = pod["metadata"]["labels"] if pod else own | {"app.kubernetes.io/component": component}
        return Peer("shop", labels)

    components = (*release.watched, "migrate", "tests", "postgresql", "redis", "operator")
    other_release = {
        "app.kubernetes.io/name": "plinth",
        "app.kubernetes.io/instance": "other",
        "app.kubernetes.io/component": "api",
    }
    other_chart = other_release | {"app.kubernetes.io/name": "other", "app.kubernetes.io/instance": "plinth"}
    return {component: of_release(component) for component in components} | {
        "cluster": Peer("shop", {"cnpg.io/cluster": release.cluster or "plinth-database"}),
        "other cluster": Peer("shop", {"cnpg.io/cluster": "other-database"}),
        "neighbour": Peer("shop", {"app": "neighbour"}),
        "other release": Peer("shop", other_release),
        "other chart": Peer("shop", other_chart),
        "same labels elsewhere": Peer("elsewhere", dict(of_release("api").labels or {})),
        "monitoring": Peer("monitoring", {"app": "prometheus"}),
        "keda": Peer("keda", {"app": "keda-operator"}),
        "ingress": Peer("ingress", {"app": "controller"}),
        "outside": OUTSIDE,
    }


def _wanted(release: Release) -> set[tuple[str, str, int]]:
    """The connections that may be, as (from, to, port)."""
    values = release.values
    everybody = set(_peers(release))
    isolated = {*release.watched, "migrate", "tests", "postgresql", "redis", "operator"}
    isolated |= {"cluster"} if release.cluster else set()
    free = everybody - isolated
    clients = (*release.watched, "migrate", "operator")

    # What is no pod of the release is none of our policies' business.
    wanted = set(product(free, free, _PORTS))
    wanted |= {("tests", "api", 8000)}
    deployed = values["environment"] in ("staging", "production") or release.own_database
    namespace = {"neighbour", "other release", "other chart", "cluster", "other cluster"}
    callers = {"ingress"} if values["networkPolicy"]["apiFrom"] else free | {"cluster"} if deployed else namespace
    wanted |= {(caller, "api", 8000) for caller in callers}
    wanted |= {("monitoring", component, 9090) for component in release.watched}
    if values["postgresql"]["enabled"]:
        wanted |= {(client, "postgresql", 5432) for client in clients}
        if any(values[worker]["keda"]["enabled"] for worker in release.workers):
            wanted |= {("keda", "postgresql", 5432)}
    elif release.cluster:
        wanted |= {(client, "cluster", 5432) for client in clients}
        wanted |= set(product(["keda"], ["cluster"], [5432] if release.all("ScaledObject") else []))
        open_ports = [8000, 9187, 9127] if release.pooled else [8000, 9187]
        # Its own pods may go anywhere, and the operator and Prometheus may be anywhere.
        wanted |= set(product(["cluster"], free, _PORTS)) | set(product(free, ["cluster"], open_ports))
    else:
        wanted |= set(product(clients, free, [values["externalDatabase"]["port"]]))
        if release.direct:
            wanted |= set(product(clients, free, [values["externalDatabase"]["directPort"]]))
        if values["externalDatabase"]["replicaKey"]:
            wanted |= set(product(clients, free, [values["externalDatabase"]["replicaPort"]]))
    if values["redis"]["enabled"]:
        wanted |= {(client, "redis", 6379) for client in release.watched}
    elif values["externalRedis"]["existingSecret"] or "UPSTASH_REDIS_REST_URL" in values["config"]:
        wanted |= set(product(clients, free, [values["externalRedis"]["port"]]))
    if values["config"]["AUTH_PROVIDER"] != "local":
        wanted |= set(product(clients, free, [values["networkPolicy"]["identityProviderPort"] or 443]))
    if values["tracing"]["endpoint"]:
        port = values["networkPolicy"]["collectorPort"] or urlsplit(values["tracing"]["endpoint"]).port
        collectors = {"monitoring"} if values["networkPolicy"]["collectorNamespace"] else free
        wanted |= {(client, collector, port) for client in clients for collector in collectors if port}
    if values["networkPolicy"]["extraEgress"]:
        wanted |= set(product(clients, free, [8443]))
    if values["networkPolicy"]["testsExtraEgress"]:
        wanted |= set(product(["tests"], free, [15012]))
    return wanted


def what_is_needed_gets_through_and_nothing_else(release: Release) -> None:
    policies = release.all("NetworkPolicy")
    if not release.values["networkPolicy"]["enabled"]:
        assert not policies
        return
    peers = _peers(release)
    through = {
        (source, target, port)
        for source, target, port in product(peers, peers, _PORTS)
        if source != target and allowed(policies, peers[source], peers[target], port)
    }
    wanted = {(source, target, port) for source, target, port in _wanted(release) if source != target}
    assert through == wanted


def names_can_be_looked_up(release: Release) -> None:
    policies = release.all("NetworkPolicy")
    peers = _peers(release)
    dns = Peer("kube-system", {"k8s-app": "kube-dns"})
    values = release.values["networkPolicy"]["dns"]
    for client, protocol in product((*release.watched, "migrate", "tests", "operator"), ("UDP", "TCP")):
        assert all(allowed(policies, peers[client], dns, port, protocol) for port in values["ports"])
        if policies:
            assert not allowed(policies, peers[client], dns, 54, protocol)
            assert allowed(policies, peers[client], peers["neighbour"], 53, protocol) == (not values["to"])
    if policies:
        for server in ("postgresql", "redis"):
            assert not allowed(policies, peers[server], dns, values["ports"][0], "UDP")


def policies_name_what_they_mean(release: Release) -> None:
    directions = {"default-deny": ["Ingress", "Egress"], "clients": ["Egress"], "tests": ["Egress"]}
    for policy in release.all("NetworkPolicy"):
        spec = policy["spec"]
        name = policy["metadata"]["name"].removeprefix(f"{release.name}-")
        assert spec["policyTypes"] == directions.get(name, ["Ingress"])
        for rule in spec.get("ingress", []) + spec.get("egress", []):
            assert all(
                entry["protocol"] in ("TCP", "UDP") and isinstance(entry["port"], int) for entry in rule["ports"]
            )


def _is_the_namespace_of_a_try_out(policy: Object, peer: Object) -> bool:
    return peer == {"podSelector": {}} and policy["metadata"]["name"].endswith("-api")


def policies_select_pods_of_this_release_alone(release: Release) -> None:
    cluster = {"matchLabels": {"cnpg.io/cluster": release.cluster}}
    own = {"app.kubernetes.io/name": "plinth", "app.kubernetes.io/instance": "plinth"}
    for policy in release.all("NetworkPolicy"):
        spec = policy["spec"]
        selectors = [
            peer["podSelector"]
            for rule in spec.get("ingress", []) + spec.get("egress", [])
            for peer in rule.get("from", []) + rule.get("to", [])
            if "podSelector" in peer and not _is_the_namespace_of_a_try_out(policy, peer)
        ]
        if not policy["metadata"]["name"].endswith("default-deny"):
            selectors.append(spec["podSelector"])
        for selector in selectors:
            if release.cluster and selector == cluster:
                continue
            assert selector["matchLabels"] == own
            assert [entry["key"] for entry in selector["matchExpressions"]] == ["app.kubernetes.io/component"]
