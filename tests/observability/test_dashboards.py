"""The dashboards: in order for Grafana, and for a reader of their JSON."""

import json
import os
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.chart.tools import CHART, Object
from tests.observability.queries import dashboards, panels, read

DASHBOARDS = dashboards()
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_UNITS = {"s", "bytes", "Bps", "reqps", "ops", "percentunit", "none"}
_TYPES = {"timeseries", "stat", "table"}
# What a query is about, and the units that go with it.
_UNIT_OF = {"_seconds": {"s", "percentunit", "reqps", "ops", "none"}, "_bytes": {"bytes", "Bps"}}


_SCHEMA = jsonschema_rs.Draft202012Validator(
    json.loads((Path(__file__).parent / "dashboard.schema.json").read_text(encoding="utf-8"))
)


def problems(dashboard: Object) -> list[str]:
    """What Grafana's published schema does not have so."""
    return [f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in _SCHEMA.iter_errors(dashboard)]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_what_grafana_s_schema_says(name: str) -> None:
    assert problems(DASHBOARDS[name]) == []


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("grahpTooltip",), 1),
        (("graphTooltip",), 3),
        (("panels", 1, "gridPos", "w"), 25),
        (("panels", 1, "fieldConfig", "defaults", "units"), "s"),
        (("panels", 1, "targets", 0, "exprr"), "up"),
        (("panels", 0, "panels"), None),
        (("templating", "list", 0, "type"), "data source"),
        (("links", 0, "url"), None),
    ],
)
def test_the_schema_sees_a_slip(path: tuple[Any, ...], wrong: Any) -> None:
    dashboard = json.loads(json.dumps(DASHBOARDS["service"]))
    part = dashboard
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = wrong
    assert len(problems(dashboard)) == 1


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_passes_the_rules_of_grafana_s_linter(name: str) -> None:
    """Of github.com/grafana/dashboard-linter; instead of its `job` and `instance` there are `namespace`, `release` and
    `pod`."""
    dashboard = DASHBOARDS[name]
    (datasource,) = [variable for variable in dashboard["templating"]["list"] if variable["type"] == "datasource"]
    assert (datasource["name"], datasource["label"]) == ("datasource", "Data source")
    # Reloaded when the time changes, and used.
    text = json.dumps(dashboard["panels"])
    for variable in dashboard["templating"]["list"]:
        assert variable["type"] == "datasource" or variable["refresh"] == 2
        assert re.search(rf"\$\{{?{variable['name']}\b", text)
    assert dashboard["editable"] is False  # a change would be lost with the next start of Grafana
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
        assert all(target.get("datasource", _DATASOURCE) == _DATASOURCE for target in panel["targets"])
        for target in panel["targets"]:
            for counter in re.finditer(r"(?<![:\w])\w+_total(?![:\w])(?:\{[^}]*\})?(\[)?", target["expr"]):
                before = target["expr"][: counter.start()]
                assert counter[1], f"{panel['title']}: a counter without a range"
                assert re.search(r"\b(rate|irate|increase)\($", before), panel["title"]
    # No data source but the variable, anywhere.
    assert set(re.findall(r'"uid": "([^"]*)"', text)) == {"${datasource}"}


def test_they_are_the_three() -> None:
    assert DASHBOARDS.keys() == {"jobs", "resources", "service"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_has_a_name_and_variables(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == f"plinth-{name}"
    assert dashboard["title"] == f"Plinth / {name.capitalize()}"
    assert dashboard["description"]
    assert dashboard["tags"] == ["plinth"]
    datasource, namespace, release, pod = dashboard["templating"]["list"]
    assert (datasource["name"], datasource["type"], datasource["query"]) == ("datasource", "datasource", "prometheus")
    assert (namespace["name"], namespace["query"]) == ("namespace", "label_values(plinth_build_info, namespace)")
    # Of the pods' names: dashboards do without the rules, whose series have a label for it.
    assert release["name"] == "release"
    assert release["query"] == 'label_values(plinth_build_info{namespace="$namespace"}, pod)'
    for name_of_release in ("plinth", "my-api-2"):
        for component in ("api", "worker"):
            match = re.search(release["regex"].strip("/"), f"{name_of_release}-{component}-7d9f5c6b8-x2x4z")
            assert match
            assert match[1] == name_of_release
    of_release = 'namespace="$namespace",pod=~"$release-(api|worker)-.+"'
    assert pod["query"] == f"label_values(plinth_build_info{{{of_release}}}, pod)"
    assert (pod["name"], pod["multi"], pod["includeAll"], pod["allValue"]) == ("pod", True, True, ".+")
    assert namespace["datasource"] == release["datasource"] == pod["datasource"] == _DATASOURCE
    # Nothing of the Grafana it was drawn in.
    assert not dashboard.keys() & {"id", "version", "iteration", "gnetId", "__inputs", "__requires"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_are_in_order(name: str) -> None:
    found = DASHBOARDS[name]["panels"]
    assert [panel["id"] for panel in found] == list(range(1, len(found) + 1))
    titles = [panel["title"] for panel in panels(DASHBOARDS[name])]
    assert len(set(titles)) == len(titles), "a runbook names a panel by its title"
    positions = [(panel["gridPos"]["y"], panel["gridPos"]["x"]) for panel in found]
    assert positions == sorted(positions)
    for one, other in combinations([panel["gridPos"] for panel in found], 2):
        assert not _overlap(one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in found)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_say_what_they_show_and_in_which_unit(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        assert panel["type"] in _TYPES
        assert panel["description"].endswith(".")
        assert panel["datasource"] == _DATASOURCE
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in _UNITS, panel["title"]
        assert [target["refId"] for target in panel["targets"]] == list("ABCDEFG")[: len(panel["targets"])]
        for target in panel["targets"]:
            assert target["expr"] == target["expr"].strip()
            assert ("legendFormat" in target) == (panel["type"] != "table")
            if panel["type"] == "timeseries":
                assert target["legendFormat"], panel["title"]
                assert not target.get("instant")
            else:
                assert target["instant"], panel["title"]
            for ending, units in _UNIT_OF.items():
                if all(ending in selector.metric for selector in read(target["expr"]).selectors):
                    assert defaults["unit"] in units, panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_legends_name_labels_that_are_left(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        for target in panel["targets"]:
            named = {part.partition("}}")[0] for part in target.get("legendFormat", "").split("{{")[1:]}
            recorded = {"slo"} if "plinth:" in target["expr"] else set()
            assert named <= read(target["expr"]).grouping | recorded, panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_rates_fit_any_scrape_interval(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        for target in panel["targets"]:
            if "rate(" in target["expr"]:
                assert "[$__rate_interval]" in target["expr"], panel["title"]


def test_traces_can_be_reached_from_latencies() -> None:
    exemplars = {
        selector.metric
        for dashboard in DASHBOARDS.values()
        for panel in panels(dashboard)
        for target in panel["targets"]
        if target.get("exemplar")
        for selector in read(target["expr"]).selectors
    }
    assert exemplars == {"http_server_request_duration_seconds_bucket", "plinth_job_run_seconds_bucket"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_json_is_for_people_too(name: str) -> None:
    """Laid out in one way, or what Grafana exports would be a change of every line."""
    file = CHART / "dashboards" / f"{name}.json"
    wanted = f"{_laid_out(DASHBOARDS[name])}\n"
    if os.environ.get("UPDATE"):
        file.write_text(wanted)
    assert file.read_text() == wanted, "UPDATE=1 make chart-test lays it out; review it"
    assert len(wanted) < 25_000


def _laid_out(part: Any, indent: int = 0) -> str:
    """What fits on a line is on one line."""
    line = json.dumps(part, ensure_ascii=False)
    if not isinstance(part, dict | list) or not part or (indent >= 2 and indent + len(line) <= 116):
        return line
    pad = " " * (indent + 2)
    if isinstance(part, dict):
        items = [f"{json.dumps(key)}: {_laid_out(value, indent + 2)}" for key, value in part.items()]
    else:
        items = [_laid_out(value, indent + 2) for value in part]
    first, last = "{}" if isinstance(part, dict) else "[]"
    return f"{first}\n" + ",\n".join(pad + item for item in items) + f"\n{' ' * indent}{last}"


def _overlap(one: Object, other: Object) -> bool:
    return bool(
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )
