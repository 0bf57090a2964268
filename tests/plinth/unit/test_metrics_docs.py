"""`docs/metrics.md` lists exactly the metrics of the platform."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from plinth.database.pool import _Counts
from plinth.jobs.metrics import of_kind
from plinth.telemetry import metrics
from plinth.telemetry.http_metrics import HTTP
from plinth.telemetry.metrics import db_operation

PAGE = Path("docs/metrics.md").read_text()
# Prefixes of the platform's metrics. Those of a service have other names and no row on the page.
FAMILIES = ("plinth_", "http_server_", "db_client_")
DEFINED = re.compile(r"\b(?:Counter|Gauge|Summary|Histogram|Observed|Family)\(\s*\"(\w+)\"")
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\|", re.MULTILINE)


SOURCES = {path: path.read_text() for path in Path("plinth").rglob("*.py")}

# A metric is registered by the import of the module that defines it.
for _path, _code in SOURCES.items():
    if DEFINED.search(_code):
        import_module(".".join(_path.with_suffix("").parts))


def told() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name, type and labels of each row. Text after a colon lists values."""
    rows = {}
    for name, kind, labels in ROW.findall(PAGE):
        names = [re.findall(r"`(\w+)`", part.partition(":")[0]) for part in labels.split(";")]
        rows[name] = kind, tuple(label for part in names for label in part)
    return rows


def registered() -> dict[str, tuple[str, tuple[str, ...]]]:
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    collectors: list[Any] = list(REGISTRY._collector_to_names)
    for collector in collectors:
        if (name := getattr(collector, "_name", None) or getattr(collector, "name", None)) is None:
            continue  # the client library's own
        if not name.startswith(FAMILIES):
            continue
        kind = getattr(collector, "_type", "gauge")
        labels = tuple(collector._labelnames if hasattr(collector, "_labelnames") else collector.labels)
        found[f"{name}_total" if kind == "counter" else name] = kind, labels
    # Metrics that the platform renders itself have labels once they have counted something.
    db_operation("postgresql", "SELECT 1").observe(0.001)
    _Counts("main").wait_time.observe(0)
    of_kind("any")
    HTTP.end(HTTP.begin("GET"), "/", 200, 0.001, 0, 0, None)
    HTTP.expect(["/"])
    of_kind("example")
    for family in text_string_to_metric_families("".join(render(False) for render in metrics._renderers)):
        labels = tuple(label for label in family.samples[0].labels if label != "le")
        found[f"{family.name}_total" if family.type == "counter" else family.name] = family.type, labels
    return found


def test_metrics_page_lists_every_metric_with_its_type_and_labels() -> None:
    assert told() == registered()


def test_metrics_page_lists_no_metric_twice() -> None:
    names = [row[0] for row in ROW.findall(PAGE)]
    assert sorted(names) == sorted(set(names))


def test_metric_names_have_a_known_prefix() -> None:
    defined = {name for code in SOURCES.values() for name in DEFINED.findall(code)}
    assert len(defined) > 30
    assert [name for name in sorted(defined) if not name.startswith(FAMILIES)] == []


@pytest.mark.parametrize("name", sorted(told()))
def test_metric_names_are_in_base_units(name: str) -> None:
    assert not re.search(r"_(ms|milliseconds|minutes|kb|mb)(_|$)", name)
