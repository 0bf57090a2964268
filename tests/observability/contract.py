"""The metrics that queries may ask for, each with its labels: those of `docs/metrics.md`, and those of others."""

import re
from collections.abc import Iterator

from tests.chart.tools import ROOT

# Of Python's client library, of Prometheus itself, of cert-manager.
FOREIGN: dict[str, set[str]] = {
    "process_cpu_seconds_total": set(),
    "process_max_fds": set(),
    "process_open_fds": set(),
    "process_resident_memory_bytes": set(),
    "process_start_time_seconds": set(),
    "python_gc_collections_total": {"generation"},
    "python_gc_objects_collected_total": {"generation"},
    "up": set(),
    "scrape_duration_seconds": set(),
    "certmanager_certificate_expiration_timestamp_seconds": {"name", "exported_namespace"},
}

# Given by the scraper.
TARGET = {"namespace", "pod"}

_LINE = re.compile(r"^\| `(?P<name>\w+)` \| (?P<type>counter|gauge|histogram) \| (?P<labels>.*?) ?\| ", re.MULTILINE)


def _own() -> Iterator[tuple[str, set[str]]]:
    """A line names the labels, and after a colon the values of the last one."""
    for line in _LINE.finditer((ROOT / "docs" / "metrics.md").read_text()):
        labels = {name for part in line["labels"].split(";") for name in re.findall(r"`(\w+)`", part.partition(":")[0])}
        if line["type"] == "histogram":
            yield f"{line['name']}_bucket", labels | {"le"}
            yield f"{line['name']}_count", labels
            yield f"{line['name']}_sum", labels
        else:
            yield line["name"], labels


OWN = dict(_own())
KNOWN: dict[str, set[str]] = {name: labels | TARGET for name, labels in (OWN | FOREIGN).items()}
