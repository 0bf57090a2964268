"""Queries of dashboards and rules: that they can be parsed, and ask for what there is."""

import re
from pathlib import Path

import pytest
import yaml

from tests.chart.tools import run, tool
from tests.observability.contract import KNOWN, OWN
from tests.observability.queries import Query, all_queries, groups, panel_queries, read, rule_queries

QUERIES = list(all_queries())
_RECORDED = {"namespace", "release", "slo"}


def test_all_can_be_parsed(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query.expr} for number, query in enumerate(QUERIES)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = run(tool("PROMTOOL"), "check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(QUERIES)} rules found" in done.stdout


def test_a_broken_query_would_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": [{"record": "a", "expr": "sum(up"}]}]}))
    assert run(tool("PROMTOOL"), "check", "rules", str(file)).returncode != 0


def _known() -> dict[str, set[str]]:
    recorded = {rule["record"]: _RECORDED for group in groups() for rule in group["rules"] if "record" in rule}
    return KNOWN | recorded


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_asks_for_what_there_is(query: Query) -> None:
    known, parts = _KNOWN, read(query.expr)
    available: set[str] = set()
    for selector in parts.selectors:
        assert selector.metric in known, f"no metric {selector.metric}"
        assert set(selector.labels) <= known[selector.metric], selector.text
        available |= known[selector.metric]
    assert parts.grouping <= available
    assert parts.selectors or query.expr.startswith("vector(")


_KNOWN = _known()


def test_every_query_is_of_one_namespace() -> None:
    """A Prometheus may hold several releases, and a rule of one must not judge another."""
    for query in QUERIES:
        for selector in read(query.expr).selectors:
            assert {"namespace", "exported_namespace"} & set(selector.labels), f"{query.where}: {selector.text}"


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_every_query_is_of_one_release(query: Query) -> None:
    """A namespace may hold several."""
    for selector in read(query.expr).selectors:
        if selector.metric.startswith("plinth:"):
            assert 'release="plinth"' in selector.text
        elif not selector.metric.startswith("certmanager_"):
            assert re.search(r'pod=~"plinth-(api|\(api\|worker\))-\.\+"', selector.text), selector.text


def test_nothing_is_recorded_in_vain() -> None:
    used = {selector.metric for query in QUERIES for selector in read(query.expr).selectors}
    assert {rule["record"] for group in groups() for rule in group["rules"] if "record" in rule} <= used


def test_the_table_of_metrics_is_read_with_its_labels() -> None:
    assert len(OWN) > 40
    assert OWN["plinth_queue_jobs"] == {"queue", "state"}
    assert OWN["db_client_operation_duration_seconds_bucket"] == {"db_system_name", "db_operation_name", "le"}
    assert OWN["plinth_workers_alive"] == set()


def test_metrics_that_nobody_looks_at_are_few() -> None:
    used = {selector.metric for query in QUERIES for selector in read(query.expr).selectors}
    names = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in used}
    unused = {
        name for name in KNOWN if name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") not in names
    }
    assert unused == {"plinth_jwks_last_success_timestamp_seconds"}


def test_variables_are_filled_in() -> None:
    for query in QUERIES:
        assert "$" not in query.expr, query.where


def test_what_is_read_of_a_query() -> None:
    parts = read('sum by (le, a) (rate(x_bucket{a="{b}",c=~"d|e"}[5m])) / on (a) group_left () (y > bool 1.5e3) or z')
    assert [(item.metric, item.labels) for item in parts.selectors] == [("x_bucket", ["a", "c"]), ("y", []), ("z", [])]
    assert parts.selectors[0].text == 'x_bucket{a="{b}",c=~"d|e"}'
    assert parts.grouping == {"le", "a"}


def test_there_are_many() -> None:
    assert len(panel_queries()) > 40
    assert len(rule_queries()) > 30
