"""What a set of NetworkPolicies lets through, as the Kubernetes documentation has it."""

from dataclasses import dataclass, field

from tests.chart.tools import Object


@dataclass(frozen=True)
class Peer:
    """A pod, or whatever else has an address. `labels` is None for what is no pod."""

    namespace: str
    labels: dict[str, str] | None = field(hash=False)


OUTSIDE = Peer("", None)
# On a kind cluster, whose pods have these addresses.
ALL_BUT_PODS = {"cidr": "0.0.0.0/0", "except": ["10.244.0.0/16"]}


def allowed(policies: list[Object], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection gets through: out of the one and into the other."""
    return _side(policies, "Egress", source, target, port, protocol) and _side(
        policies, "Ingress", target, source, port, protocol
    )


def _side(policies: list[Object], direction: str, pod: Peer, other: Peer, port: int, protocol: str) -> bool:
    isolating = [
        policy
        for policy in policies
        if pod.labels is not None
        and policy["metadata"]["namespace"] == pod.namespace
        and direction in policy["spec"]["policyTypes"]
        and _selected(policy["spec"]["podSelector"], pod.labels)
    ]
    if not isolating:
        return True
    peers_key, rules_key = ("to", "egress") if direction == "Egress" else ("from", "ingress")
    return any(
        _port_matches(rule.get("ports"), port, protocol)
        and (peers_key not in rule or any(_peer_matches(peer, policy, other) for peer in rule[peers_key]))
        for policy in isolating
        for rule in policy["spec"].get(rules_key, [])
    )


def _port_matches(ports: list[Object] | None, port: int, protocol: str) -> bool:
    return ports is None or any(
        entry.get("port", port) == port and entry.get("protocol", "TCP") == protocol for entry in ports
    )


def _peer_matches(peer: Object, policy: Object, other: Peer) -> bool:
    if "ipBlock" in peer:
        assert peer["ipBlock"] == ALL_BUT_PODS, "this reader knows no other block"
        return other.labels is None
    assert peer.keys() <= {"podSelector", "namespaceSelector"}, "this reader knows no other peers"
    assert peer, "a peer that says nothing is refused by Kubernetes"
    if other.labels is None:
        return False
    if "namespaceSelector" in peer:
        if not _selected(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace}):
            return False
    elif other.namespace != policy["metadata"]["namespace"]:
        return False
    return _selected(peer.get("podSelector", {}), other.labels)


def _selected(selector: Object, labels: dict[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", "this reader knows no other operator"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True
