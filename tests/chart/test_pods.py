"""What Kubernetes makes of the pods: where they run, and in which order their containers start."""

import re

import pytest

from tests.chart.tools import Object, objects_of, template

HELMS = pytest.mark.parametrize("helm", ["HELM", "HELM4"])


def pods(values: Object, helm: str = "HELM") -> dict[str, Object]:
    """The spec of each pod, by its component."""
    specs = {}
    for item in objects_of(template(values, helm=helm)):
        template_of_pods = item if item["kind"] == "Pod" else item.get("spec", {}).get("template")
        if template_of_pods:
            specs[item["metadata"]["labels"]["app.kubernetes.io/component"]] = template_of_pods["spec"]
    return specs


class TestSpread:
    @HELMS
    def test_no_node_goes_without_points_for_a_label_that_it_lacks(self, helm: str) -> None:
        """The scheduler scores no node that lacks the key of any constraint, and all have a host name."""
        for component in ("api", "worker"):
            constraints = pods({}, helm)[component]["topologySpreadConstraints"]
            assert [constraint["topologyKey"] for constraint in constraints] == ["kubernetes.io/hostname"]

    @HELMS
    def test_zones_are_preferred_beside_an_affinity_to_nodes(self, helm: str) -> None:
        node_affinity: Object = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
        affinity = pods({"api": {"affinity": node_affinity}}, helm)["api"]["affinity"]
        assert affinity.keys() == {"nodeAffinity", "podAntiAffinity"}
        (preference,) = affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        assert preference["podAffinityTerm"]["topologyKey"] == "topology.kubernetes.io/zone"

    @HELMS
    def test_an_anti_affinity_of_the_values_takes_its_place(self, helm: str) -> None:
        own: Object = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
        assert pods({"api": {"affinity": own}}, helm)["api"]["affinity"] == own


class TestInitContainers:
    def names(self, values: Object, component: str, helm: str) -> list[str]:
        return [container["name"] for container in pods(values, helm)[component].get("initContainers", [])]

    @HELMS
    @pytest.mark.parametrize("component", ["api", "worker", "migrate"])
    @pytest.mark.parametrize(
        ("own", "expected"),
        [
            ("prepare", "wait prepare"),
            ("proxy*", "proxy* wait"),
            ("proxy* prepare", "proxy* wait prepare"),
            # A sidecar may need what stands before it.
            ("prepare proxy*", "prepare proxy* wait"),
            ("proxy* fetch mesh* prepare", "proxy* fetch mesh* wait prepare"),
        ],
    )
    def test_native_sidecars_start_before_the_wait(self, own: str, expected: str, component: str, helm: str) -> None:
        containers = [
            {"name": name.strip("*"), "image": "example.com/image:1"}
            | ({"restartPolicy": "Always"} if name.endswith("*") else {})
            for name in own.split()
        ]
        wanted = [name.strip("*") for name in expected.split() if name != "wait" or component != "migrate"]
        assert self.names({component: {"initContainers": containers}}, component, helm) == wanted


class TestAddresses:
    @HELMS
    def test_pods_listen_on_ipv4_and_ipv6(self, helm: str) -> None:
        for component in ("api", "worker"):
            args = pods({}, helm)[component]["containers"][0]["args"]
            assert args[1:3] == ["--host", "::"]

    @HELMS
    def test_no_address_of_one_family_is_written_into_the_objects(self, helm: str) -> None:
        """But the loopback address, at which PostgreSQL is asked within its pod."""
        manifest = template({}, helm=helm).replace("--host, 127.0.0.1", "")
        assert not re.search(r"\d+\.\d+\.\d+\.\d+", manifest)

    @HELMS
    def test_a_load_balancer_admits_the_networks_of_the_values(self, helm: str) -> None:
        values: Object = {
            "api": {"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8::/32"]}},
            "networkPolicy": {"apiFrom": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]},
        }
        (service,) = [
            item["spec"]
            for item in objects_of(template(values, helm=helm))
            if item["kind"] == "Service" and item["metadata"]["name"] == "plinth-api"
        ]
        assert service["loadBalancerSourceRanges"] == ["192.0.2.0/24", "2001:db8::/32"]


class TestSecurityContexts:
    COMPONENTS = ("api", "worker", "migrate", "postgresql", "redis", "tests")

    @HELMS
    def test_openshift_gives_users_and_groups_and_finds_none(self, helm: str) -> None:
        """Its SCC restricted-v2 refuses any of other ranges, and wants all else of the restricted standard."""
        specs = pods({"securityPreset": "openshift"}, helm)
        assert specs.keys() == {*self.COMPONENTS}
        for spec in specs.values():
            contexts = [spec["securityContext"]]
            contexts += [item["securityContext"] for item in spec.get("initContainers", []) + spec["containers"]]
            for context in contexts:
                assert not context.keys() & {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"}
            assert contexts[0]["runAsNonRoot"] is True
            assert contexts[0]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert all(context["allowPrivilegeEscalation"] is False for context in contexts[1:])

    @HELMS
    @pytest.mark.parametrize("component", COMPONENTS)
    def test_values_go_over_the_preset(self, component: str, helm: str) -> None:
        values: Object = {
            "podSecurityContext": {"runAsUser": 0, "runAsNonRoot": False, "fsGroup": None},
            "securityContext": {"readOnlyRootFilesystem": False, "capabilities": {"drop": []}},
        }
        spec = pods({component: values}, helm)[component]
        assert spec["securityContext"] == {
            "runAsNonRoot": False,
            "runAsUser": 0,
            "runAsGroup": 999 if component in ("postgresql", "redis") else 10001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        for container in spec.get("initContainers", []) + spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": False,
                "capabilities": {"drop": []},
            }

    @HELMS
    def test_null_takes_out_a_key_at_any_depth(self, helm: str) -> None:
        values: Object = {"securityContext": {"capabilities": {"drop": None, "add": ["NET_BIND_SERVICE"]}}}
        (container,) = pods({"api": values}, helm)["api"]["containers"]
        assert container["securityContext"]["capabilities"] == {"add": ["NET_BIND_SERVICE"]}


class TestPassedThrough:
    @HELMS
    def test_containers_of_the_values_keep_their_lifecycle(self, helm: str) -> None:
        lifecycle = {"preStop": {"sleep": {"seconds": 10}}}
        sidecar = {"name": "proxy", "image": "example.com/proxy:1", "lifecycle": lifecycle}
        spec = pods({"api": {"sidecars": [sidecar], "initContainers": [sidecar | {"name": "init"}]}}, helm)["api"]
        assert spec["containers"][1]["lifecycle"] == spec["initContainers"][1]["lifecycle"] == lifecycle

    @HELMS
    def test_another_strategy_takes_the_place_of_ours(self, helm: str) -> None:
        items = objects_of(template({"worker": {"strategy": {"type": "Recreate"}}}, helm=helm))
        strategies = {
            item["metadata"]["name"]: item["spec"]["strategy"]["type"] for item in items if item["kind"] == "Deployment"
        }
        assert strategies == {"plinth-api": "RollingUpdate", "plinth-worker": "Recreate"}

    @HELMS
    @pytest.mark.parametrize("least", [0, 1, "50%"])
    def test_a_budget_says_what_has_to_stay(self, least: int | str, helm: str) -> None:
        budgets = {
            item["metadata"]["name"]: item["spec"]
            for item in objects_of(template({"api": {"pdb": {"minAvailable": least}}}, helm=helm))
            if item["kind"] == "PodDisruptionBudget"
        }
        assert budgets["plinth-api"]["minAvailable"] == least
        assert "maxUnavailable" not in budgets["plinth-api"]
        assert budgets["plinth-worker"]["maxUnavailable"] == 1

    @HELMS
    def test_pods_get_a_token_of_their_account_where_they_shall(self, helm: str) -> None:
        accounts = {name: {"serviceAccount": {"automount": True}} for name in ("worker", "migrate")}
        items = objects_of(template(accounts, helm=helm))
        mounted = {
            item["metadata"]["name"]: item["automountServiceAccountToken"]
            for item in items
            if item["kind"] == "ServiceAccount"
        }
        assert mounted == {"plinth-api": False, "plinth-worker": True, "plinth-migrate": True}
        specs = pods(accounts, helm)
        assert {name for name, spec in specs.items() if spec["automountServiceAccountToken"]} == {"worker", "migrate"}
