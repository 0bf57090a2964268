"""Metrics that several parts share, and their exposition in Prometheus's formats, on the second port.

Each metric is defined where it is counted, with the names of OpenTelemetry's conventions where they have one. Labels
are bounded by the code: never a path, a caller, an id or the text of an error. `docs/metrics.md` lists all metrics.
"""

import platform
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from time import time

from opentelemetry.trace import format_trace_id, get_current_span
from prometheus_client import REGISTRY, Counter, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from plinth.settings import PlatformSettings
from plinth.telemetry.histogram import Family, Histogram, render

__all__ = [
    "DEPENDENCY_UP",
    "Labels",
    "Observed",
    "db_error",
    "db_operation",
    "exemplar",
    "expose",
    "exposition",
]

# The `_created` series of each counter and histogram.
disable_created_metrics()  # type: ignore[no-untyped-call]

Labels = tuple[str, ...]
Source = Callable[[], Iterable[tuple[Labels, float]]]


@dataclass(eq=False)
class Observed:
    """A gauge that calls its sources when it is scraped.

    A source is a function without arguments that returns pairs of label values and a value. A thread calls it, and it
    must not block. Where several sources return the same labels, as in a process with two applications, `merge`
    combines their values; the default is the largest.
    """

    name: str
    documentation: str
    labels: Labels = ()
    merge: Callable[[float, float], float] = max

    def __post_init__(self) -> None:
        self._sources: list[Source] = []
        REGISTRY.register(self)

    @contextmanager
    def by(self, source: Source) -> Iterator[None]:
        """Add `source` while the block runs."""
        self.add(source)
        try:
            yield
        finally:
            self.remove(source)

    def add(self, source: Source) -> None:
        """Call `source` at each scrape from now on."""
        self._sources.append(source)

    def remove(self, source: Source) -> None:
        """Remove `source`, if it is there."""
        if source in self._sources:
            self._sources.remove(source)

    def describe(self) -> list[GaugeMetricFamily]:
        """For the registry: the names, without calling the sources."""
        return [GaugeMetricFamily(self.name, self.documentation, labels=self.labels)]

    def collect(self) -> list[GaugeMetricFamily]:
        """For the registry: the values."""
        found: dict[Labels, float] = {}
        for source in self._sources.copy():
            for labels, value in source():
                found[labels] = self.merge(found[labels], value) if labels in found else value
        (family,) = self.describe()
        for labels, value in found.items():
            family.add_metric(labels, value)
        return [family]


def exemplar() -> tuple[str, float] | None:
    """The exemplar of an observation: id and time of the current trace, if it is recorded."""
    span = get_current_span()
    return (format_trace_id(span.get_span_context().trace_id), time()) if span.is_recording() else None


# --- the process ---

_build: dict[Labels, float] = {}
Observed("plinth_build_info", "Which build this is; always 1.", ("version", "revision", "python_version")).add(
    lambda: _build.copy().items()
)


def tell_build(settings: PlatformSettings) -> None:
    """Set `plinth_build_info` to this service's version and revision."""
    _build.clear()
    _build[settings.service.version, settings.BUILD_REVISION, platform.python_version()] = 1


# --- databases: PostgreSQL and Redis ---

DEPENDENCY_UP = Observed(
    "plinth_dependency_up", "Whether what this process needs was there when it was last asked.", ("dependency",), min
)

_DURATION = Family(
    "db_client_operation_duration_seconds",
    "From the sending of a statement or command to its answer, failures included. BEGIN, COMMIT and ROLLBACK too.",
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
_OPERATIONS = {
    "postgresql": frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "BEGIN", "COMMIT", "ROLLBACK"}),
    "redis": frozenset({"EVALSHA", "EVAL", "SCRIPT", "PUBLISH", "PING", "GET", "SET", "DEL", "EXPIRE", "TTL"}),
}
_operations: dict[tuple[str, str], Histogram] = {}
_ERRORS = Counter(
    "plinth_db_errors",
    "Statements, commands and connections that failed: the server was away, it took too long, or it refused. What a "
    "constraint refuses does not count.",
    ["db_system_name", "kind"],
)
# From the start, at 0: Prometheus sees no increase in a series that begins at 1.
for _system in _OPERATIONS:
    for _kind in ("unavailable", "timeout", "other"):
        _ERRORS.labels(_system, _kind)


@lru_cache(maxsize=1024)
def db_operation(system: str, statement: str) -> Histogram:
    """The histogram of a statement's or command's duration, by its first word. For one event loop.

    Cached, because most statements come again.
    """
    words = statement.split(maxsplit=1)
    name = words[0].upper().rstrip(";") if words else ""
    if name not in _OPERATIONS[system]:
        name = "OTHER"
    found = _operations.get((system, name))
    if found is None:
        found = Histogram(_DURATION, f'db_system_name="{system}",db_operation_name="{name}"')
        _operations[system, name] = found
    return found


def db_error(system: str, kind: str) -> None:
    """Count a failure; `kind` is `unavailable`, `timeout` or `other`."""
    _ERRORS.labels(system, kind).inc()


# --- exposition ---

MAX_ACCEPTED = 20  # entries of an `Accept` that are read; Prometheus sends five
_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")

# For metrics of our own histograms, which the client library would render five times as slowly.
_renderers: list[Callable[[bool], str]] = []


def expose(renderer: Callable[[bool], str]) -> None:
    """Add a renderer's text to the exposition. Its argument says whether the format is OpenMetrics. Any thread may
    call it."""
    _renderers.append(renderer)


expose(lambda openmetrics: render(_DURATION, _operations.copy().values(), openmetrics))


def exposition(accept: str) -> tuple[str, bytes]:
    """All metrics of this process, and their content type: OpenMetrics, with exemplars, where `accept` prefers it."""
    try:
        encode, content_type = choose_encoder(_preferred(accept))
    except (TypeError, ValueError):  # a malformed version
        encode, content_type = choose_encoder("")
    content = encode(REGISTRY)
    openmetrics = content_type.startswith("application/openmetrics-text")
    own = "".join(renderer(openmetrics) for renderer in _renderers).encode()
    if openmetrics:
        end = b"# EOF\n"
        return content_type, content.removesuffix(end) + own + end
    return content_type, content + own


def _preferred(accept: str) -> str:
    """The entry of an `Accept` with the largest weight, of those that name a format of ours; OpenMetrics of two.

    The client library takes the first one, whatever its weight.
    """
    best, chosen = (0.0, False), ""
    for entry in accept.split(",")[:MAX_ACCEPTED]:
        kind, *parameters = (part.strip() for part in entry.split(";"))
        openmetrics = kind.lower() == "application/openmetrics-text"
        if not openmetrics and kind.lower() not in ("text/plain", "text/*", "*/*"):
            continue
        pairs = (parameter.partition("=") for parameter in parameters)
        given = {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}
        if openmetrics and given.get("version", "1.0.0") != "1.0.0":  # the client library would call ours that
            continue
        weight = given.pop("q", "1")
        rank = (float(weight) if _WEIGHT.fullmatch(weight) else 0.0), openmetrics
        if rank[0] > 0 and rank > best:
            best = rank
            chosen = ";".join([kind.lower(), *(f"{name}={value}" for name, value in given.items())])
    return chosen
