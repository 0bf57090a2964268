"""`docs/metrics.md` lists what there is, and nothing else."""

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

import plinth.identity.jwks  # noqa: F401

# Whatever they import has been registered then; the keys' module is imported only where keys are fetched.
from plinth.database.pool import _Counts
from plinth.telemetry import metrics
from plinth.telemetry.http_metrics import HTTP
from plinth.telemetry.metrics import db_operation

PAGE = Path("docs/metrics.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\|", re.MULTILINE)


def told() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name, type and labels of each row. What stands after a colon are values."""
    rows = {}
    for name, kind, labels in ROW.findall(PAGE):
        names = [re.findall(r"`(\w+)`", part.partition(":")[0]) for part in labels.split(";")]
        rows[name] = kind, tuple(label for part in names for label in part)
    return rows


def registered() -> dict[str, tuple[str, tuple[str, ...]]]:
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    collectors: list[Any] = list(REGISTRY._collector_to_names)
    for collector in collectors:
        if (name := getattr(collector, "_name", None)) is None:
            continue  # the client library's own
        kind = getattr(collector, "_type", "gauge")
        labels = tuple(collector._labelnames if hasattr(collector, "_labelnames") else collector._labels)
        found[f"{name}_total" if kind == "counter" else name] = kind, labels
    # What is written down by ourselves shows its labels once it has counted something.
    db_operation("postgresql", "SELECT 1").observe(0.001)
    _Counts("main").wait_time.observe(0)
    HTTP.end(HTTP.begin("GET"), "/", 200, 0.001, 0, 0, None)
    for family in text_string_to_metric_families("".join(render(False) for render in metrics._renderers)):
        labels = tuple(label for label in family.samples[0].labels if label != "le")
        found[f"{family.name}_total" if family.type == "counter" else family.name] = family.type, labels
    return found


def test_the_page_lists_every_metric_with_its_type_and_labels() -> None:
    assert told() == registered()


def test_no_metric_stands_there_twice() -> None:
    names = [row[0] for row in ROW.findall(PAGE)]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", sorted(told()))
def test_names_are_of_a_known_family_and_in_base_units(name: str) -> None:
    assert name.startswith(("plinth_", "http_server_", "db_client_"))
    assert not re.search(r"_(ms|milliseconds|minutes|kb|mb)(_|$)", name)
