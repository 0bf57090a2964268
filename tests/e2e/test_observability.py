"""What an operator sees of requests and jobs, in a real Prometheus and a real Jaeger. The tests share one release."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.business.exports import BUILD
from tests.e2e import watchers
from tests.e2e.cluster import Cluster
from tests.e2e.release import Release, caller, namespace, until
from tests.e2e.traffic import traffic
from tests.e2e.watchers import FOLDER, Prometheus, trace
from tests.observability.queries import panel_queries, read

VALUES = (
    "--values", str(FOLDER / "values-operator.yaml"),
    # Below DRAIN_SECONDS: no request is counted after its pod's last scrape.
    "--set", "metrics.podMonitor.interval=2s",
    "--set", "metrics.rules.lateSeconds=10",
    "--set", "tracing.ratio=1",
    "--set", f"tracing.endpoint=http://{watchers.COLLECTOR}.{watchers.NAMESPACE}:4318",
)  # fmt: skip
# What needs trouble that is not made here, an identity provider, or a replica.
RARE = ("plinth_jobs_reaped_total", "plinth_db_errors_total", "plinth_jwks_", "plinth_replica_", 'dependency="replica"')
REQUESTS = "http_server_request_duration_seconds_count"
DESERTED = "deserted"
"""A queue without workers."""
ROUTE = ("http_request_method", "http_route", "http_response_status_code")


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster) -> Prometheus:
    watchers.install(cluster)
    return Prometheus(cluster)


@pytest.fixture(scope="module")
def release(cluster: Cluster, prometheus: Prometheus) -> Iterator[Release]:
    with namespace(cluster, "plinth-observability") as release:
        release.install("1", *VALUES)
        # An alert takes minutes to come and to go, in which the other tests run.
        release.sql(f"SELECT plinth_enqueue('exports.expire', '{{}}', queue => '{DESERTED}')")
        yield release


class TestMetrics:
    def test_every_pod_is_found_and_every_request_and_job_counted(
        self, release: Release, prometheus: Prometheus
    ) -> None:
        pods = {(pod.metadata.name,) for component in ("api", "worker") for pod in release.pods(component)}
        up = f'up{{namespace="{release.namespace}"}}'
        until(lambda: prometheus.by(up, "pod").keys() == pods, "all three pods are scraped", within=90)

        (token,) = release.tokens("counted")
        ledger: Counter[tuple[str, ...]] = Counter()
        exports = []
        with caller(token) as http:
            for _ in range(20):
                ledger["GET", "/api/v1/items", "200"] += 1
                http.get("items").raise_for_status()
            for _ in range(3):
                ledger["POST", "/api/v1/exports", "202"] += 1
                exports.append(http.post("exports", json={"format": "csv"}).raise_for_status().json()["id"])
            for path, route in (("items/none", "/api/v1/items/{item_id}"), ("nowhere", "unmatched")):
                status = http.get(path).status_code
                ledger["GET", route, str(status)] += 1
        counted = f'sum by ({", ".join(ROUTE)}) ({REQUESTS}{{namespace="{release.namespace}"}})'
        until(lambda: prometheus.by(counted, *ROUTE) == ledger, "Prometheus has counted what was sent", within=30)
        done = f'sum(plinth_jobs_finished_total{{namespace="{release.namespace}",kind="{BUILD}",outcome="succeeded"}})'
        until(lambda: prometheus.number(done) == len(exports), "and every job", within=30)

    def test_a_roll_out_loses_no_count(self, release: Release, prometheus: Prometheus, tmp_path: Path) -> None:
        """The callers' ledger and the counters of all pods, of those that have gone too, say the same."""
        counted = f'sum(max_over_time({REQUESTS}{{namespace="{release.namespace}"}}[30m]))'
        before = prometheus.number(counted)
        with traffic(release, tmp_path) as seen:
            release.upgrade("2", *VALUES)
            release.settle("2")
        seen.nothing_failed()
        until(lambda: prometheus.number(counted) == before + seen.requests, f"{seen.requests} are counted", within=30)


class TestTraces:
    def test_one_trace_leads_from_a_request_to_the_job_and_to_the_log_lines(self, release: Release) -> None:
        (token,) = release.tokens("traced")
        with caller(token) as http:
            answer = http.post("exports", json={"format": "csv"}).raise_for_status()
        trace_id = answer.headers["traceresponse"].split("-")[1]

        def spans() -> dict[str, Any]:
            return {span["operationName"]: span for span in trace(release.cluster, trace_id)}

        # API and worker send theirs by themselves.
        names = (f"job {BUILD}", f"enqueue {BUILD}", "POST /api/v1/exports")
        until(lambda: spans().keys() >= set(names), "all the trace is there", within=30)
        found = spans()
        run, enqueued, request = (found[name] for name in names)
        assert (run["service"], enqueued["service"], request["service"]) == (
            "plinth-worker",
            "plinth-api",
            "plinth-api",
        )
        assert parent(run) == enqueued["spanID"]
        assert any(tag["key"].startswith("db.") for span in found.values() for tag in span["tags"])
        for component in ("api", "worker"):
            assert any(line.get("trace_id") == trace_id for line in log_lines(release, component)), component

    def test_an_error_says_under_which_trace_to_look(self, release: Release) -> None:
        (token,) = release.tokens("broken")
        release.sql("ALTER TABLE item RENAME TO item_away")
        try:
            with caller(token) as http:
                answer = http.get("items")
        finally:
            release.sql("ALTER TABLE item_away RENAME TO item")
        assert answer.status_code == 500
        trace_id = answer.json()["trace_id"]
        assert trace_id == answer.headers["traceresponse"].split("-")[1]
        lines = [line for line in log_lines(release, "api") if line.get("trace_id") == trace_id]
        assert any(line["level"] == "error" and "item" in line.get("exception", "") for line in lines)


def test_jobs_that_nobody_runs_are_an_alert(release: Release, prometheus: Prometheus) -> None:
    """One has been waiting since the release was installed. Now the workers get it: the last test sees it resolved."""
    until(lambda: states(release, prometheus) == {("firing",)}, "the alert fires", within=150)
    assert release.sql(f"UPDATE job SET queue = 'default' WHERE queue = '{DESERTED}'") == "UPDATE 1"


class TestDashboards:
    """After the tests before, which have made some of everything that panels and rules look at."""

    def test_every_panel_finds_what_it_asks_for(self, release: Release, prometheus: Prometheus) -> None:
        queries = panel_queries(release.namespace, "plinth", rate_interval="1m")
        for query in queries:
            prometheus.query(query.expr)  # says what is wrong with it
        selectors = {selector.text for query in queries for selector in read(query.expr).selectors}
        self.all_have_data(prometheus, selectors)

    def test_every_rule_is_evaluated_and_finds_what_it_asks_for(self, release: Release, prometheus: Prometheus) -> None:
        def unhealthy() -> dict[str, str]:
            rules = prometheus.rules(release.namespace)
            assert rules
            return {rule["name"]: rule.get("lastError", "not yet") for rule in rules if rule["health"] != "ok"}

        until(lambda: not unhealthy(), "every rule has been evaluated", within=90)
        rules = prometheus.rules(release.namespace)
        self.all_have_data(prometheus, {selector.text for rule in rules for selector in read(rule["query"]).selectors})

    def all_have_data(self, prometheus: Prometheus, selectors: set[str]) -> None:
        """What is recorded by a rule is there after the rule's first turn."""

        def empty() -> set[str]:
            return {
                selector
                for selector in selectors
                if not any(part in selector for part in RARE)
                and not prometheus.number(f"count(last_over_time({selector}[15m]))")
            }

        deadline = time.monotonic() + 90
        while missing := empty():
            assert time.monotonic() < deadline, missing
            time.sleep(5)


def test_the_alert_is_resolved_once_somebody_runs_them(release: Release, prometheus: Prometheus) -> None:
    until(lambda: not states(release, prometheus), "the alert is resolved", within=240)


def states(release: Release, prometheus: Prometheus) -> set[tuple[str, ...]]:
    """Of the alert on late jobs: pending, firing, or none."""
    return set(prometheus.by(f'ALERTS{{alertname="PlinthJobsLate",namespace="{release.namespace}"}}', "alertstate"))


def parent(span: dict[str, Any]) -> str:
    (reference,) = (reference for reference in span["references"] if reference["refType"] == "CHILD_OF")
    return str(reference["spanID"])


def log_lines(release: Release, component: str) -> list[dict[str, Any]]:
    """What the pods of a component have logged, line by line."""
    lines = []
    for pod in release.pods(component):
        log = release.core.read_namespaced_pod_log(pod.metadata.name, release.namespace, _preload_content=False)
        lines += [json.loads(line) for line in log.data.splitlines()]
    return lines
