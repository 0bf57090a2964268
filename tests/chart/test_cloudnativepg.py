"""The Cluster of CloudNativePG: what its `spec` says counts wherever the chart computes with it."""

import pytest

from tests.chart.cases import CASES
from tests.chart.tools import Object, RenderError, merged, objects_of, template

CLUSTER, POOLED = CASES["cloudnativepg"], CASES["pooled"]
POOLER_NAME = "plinth-pooler.shop"


def spec(values: Object, kind: str = "Cluster", base: Object = POOLED) -> Object:
    (item,) = [
        item
        for item in objects_of(template(merged(base, {"cloudnativepg": values})))
        if item["kind"] == kind and item["apiVersion"].startswith("postgresql")
    ]
    found: Object = item["spec"]
    return found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"serverAltDNSNames": ["db.example.com"]}, {"serverAltDNSNames": ["db.example.com", POOLER_NAME]}),
        ({"serverAltDNSNames": [POOLER_NAME]}, {"serverAltDNSNames": [POOLER_NAME]}),
        ({"clientCASecret": "clients"}, {"clientCASecret": "clients", "serverAltDNSNames": [POOLER_NAME]}),
        # The operator refuses names beside a certificate that is there.
        ({"serverTLSSecret": "tls", "serverCASecret": "ca"}, {"serverTLSSecret": "tls", "serverCASecret": "ca"}),
    ],
)
def test_the_pooler_is_a_name_of_the_servers_certificate(given: Object, expected: Object) -> None:
    assert spec({"spec": {"certificates": given}})["certificates"] == expected


@pytest.mark.parametrize(("values", "synchronous"), [({"instances": 1}, False), ({"instances": 2}, True)])
def test_one_instance_waits_for_no_standby(values: Object, synchronous: bool) -> None:
    """The operator refuses a Cluster that waits for more standbys than it has."""
    without = {"readReplicas": False}
    assert ("synchronous" in spec(without | {"spec": values}, base=CLUSTER)["postgresql"]) is synchronous
    assert ("synchronous" in spec(without | values, base=CLUSTER)["postgresql"]) is synchronous


def test_the_older_way_to_wait_for_standbys_stands_alone() -> None:
    """The operator refuses both: "Can't have both legacy synchronous replica configuration and new one"."""
    given = {"minSyncReplicas": 1, "maxSyncReplicas": 1}
    assert "synchronous" not in spec({"spec": given})["postgresql"]


def test_null_takes_out_what_the_chart_says() -> None:
    given = {"smartShutdownTimeout": None, "postgresql": {"synchronous": None}}
    assert "smartShutdownTimeout" not in spec({"spec": given})
    assert spec({"spec": given})["postgresql"] == {"parameters": spec({})["postgresql"]["parameters"]}
    assert "poolMode" not in spec({"pooler": {"spec": {"pgbouncer": {"poolMode": None}}}}, "Pooler")["pgbouncer"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"readReplicas": True, "pooler": {"enabled": False}, "spec": {"instances": 1}}, "readReplicas is true, and"),
        ({"pooler": {"spec": {"instances": 6}}}, "2 x 6 instances x 30 + 1 for the migration"),
        (
            {"pooler": {"spec": {"pgbouncer": {"parameters": {"default_pool_size": "90"}}}}},
            "2 x 3 instances x 90 + 1 for the migration",
        ),
        (
            {"pooler": {"spec": {"pgbouncer": {"parameters": {"max_client_conn": "50"}}}}},
            "cloudnativepg.pooler.maxClients is 50",
        ),
        ({"pooler": {"spec": {"type": "ro"}}}, "cloudnativepg.pooler.spec.type is ro, and the pods write through"),
    ],
)
def test_the_arithmetic_reads_what_the_spec_says(values: Object, said: str) -> None:
    with pytest.raises(RenderError) as refused:
        template(merged(POOLED, {"cloudnativepg": values}))
    assert said in str(refused.value)


def test_a_standby_has_connections_for_all_pods_that_read_past_the_pooler() -> None:
    values = {"cloudnativepg": {"readReplicas": True, "maxConnections": 230}, "api": {"replicas": 10}}
    template(merged(POOLED, values))
    with pytest.raises(RenderError, match=r"20 API pods x 11 \+ 10 for operators = 230, and .*maxConnections is 229"):
        template(merged(POOLED, merged(values, {"cloudnativepg": {"maxConnections": 229}})))


@pytest.mark.parametrize("how", ["initdb", "recovery", "pg_basebackup"])
def test_the_operator_makes_the_secret_that_the_pods_read(how: str) -> None:
    template(
        merged(CLUSTER, {"cloudnativepg": {"spec": {"bootstrap": {how: {"secret": {"name": "plinth-database-app"}}}}}})
    )
    template(merged(CLUSTER, {"cloudnativepg": {"spec": {"bootstrap": {how: {"database": "shop"}, "other": None}}}}))
    with pytest.raises(RenderError) as refused:
        template(merged(CLUSTER, {"cloudnativepg": {"spec": {"bootstrap": {how: {"secret": {"name": "mine"}}}}}}))
    assert f"spec.bootstrap.{how}.secret names the Secret mine" in str(refused.value)
    assert "call yours plinth-database-app" in str(refused.value)
