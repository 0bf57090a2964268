"""The API's Service, Ingress and HTTPRoute."""

from tests.chart.cases import Release
from tests.chart.tools import Object, merged


def the_service_is_as_the_values_say(release: Release) -> None:
    service = release.get("Service", "api")
    values = release.values["api"]["service"]
    assert service["spec"]["type"] == values["type"]
    assert service["spec"].get("loadBalancerSourceRanges", []) == values["loadBalancerSourceRanges"]
    assert service["metadata"].get("annotations", {}) == values["annotations"]
    (port,) = service["spec"]["ports"]
    node_port = {"nodePort": values["nodePort"]} if values["nodePort"] else {}
    assert port == node_port | {
        "name": "http",
        "port": values["port"],
        "targetPort": "http",
        "appProtocol": "http",
    }


def the_ingress_leads_to_the_service(release: Release) -> None:
    values = release.values["ingress"]
    service = release.get("Service", "api")
    backend = {
        "service": {
            "name": service["metadata"]["name"],
            "port": {"name": service["spec"]["ports"][0]["name"]},
        }
    }
    for item in release.all("Ingress"):
        assert item["metadata"].get("annotations", {}) == values["annotations"]
        path = {"path": values["path"], "pathType": values["pathType"], "backend": backend}
        assert item["spec"] == {
            "ingressClassName": values["className"],
            "tls": values["tls"],
            "rules": [{"host": host, "http": {"paths": [*values["extraPaths"], path]}} for host in values["hosts"]],
        }


def _with_defaults(given: Object) -> Object:
    """A filter of a route with what the server fills in."""
    if "requestMirror" not in given:
        return given
    return merged(given, {"requestMirror": {"backendRef": {"group": "", "kind": "Service"}}})


def the_route_leads_to_the_service(release: Release) -> None:
    values = release.values["httpRoute"]
    service = release.get("Service", "api")
    for item in release.all("HTTPRoute"):
        assert item["metadata"].get("annotations", {}) == values["annotations"]
        optional = {"filters": [_with_defaults(given) for given in values["filters"]], "timeouts": values["timeouts"]}
        assert item["spec"] == {
            # With what the server fills in: a GitOps tool compares lists as a whole.
            "parentRefs": [
                {"group": "gateway.networking.k8s.io", "kind": "Gateway"} | reference
                for reference in values["parentRefs"]
            ],
            "hostnames": values["hostnames"],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": values["path"]}}],
                    **{key: value for key, value in optional.items() if value},
                    "backendRefs": [
                        {
                            "group": "",
                            "kind": "Service",
                            "name": service["metadata"]["name"],
                            "port": service["spec"]["ports"][0]["port"],
                            "weight": 1,
                        }
                    ],
                }
            ],
        }
