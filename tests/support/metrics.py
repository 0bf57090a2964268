"""What a process shows of its metrics, read as Prometheus reads it."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as plain_families
from prometheus_client.samples import Sample

from plinth.telemetry.metrics import exposition

__all__ = ["OPENMETRICS", "metric", "samples", "series"]

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def samples(accept: str = "") -> list[Sample]:
    """Every sample that this process shows."""
    content = exposition(accept)[1].decode()
    families = openmetrics_families(content) if accept else plain_families(content)  # type: ignore[no-untyped-call]
    return [sample for family in families for sample in family.samples]


def series() -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """The names and labels of all that is shown."""
    return {(sample.name, frozenset(sample.labels.items())) for sample in samples()}


def metric(name: str, /, **labels: str) -> float:
    """The sum of the samples of this name that have these labels, among others; 0 where there is none."""
    # Tests ask in loops, and a long run shows thousands of lines: only those of this name are parsed.
    lines = [line for line in exposition("")[1].decode().splitlines() if line.startswith(name)]
    families = plain_families("\n".join(lines))
    found = [sample for family in families for sample in family.samples if sample.name == name]
    return float(sum(sample.value for sample in found if labels.items() <= sample.labels.items()))
