"""Metrics of requests: count, duration and sizes by route, and the number of active requests."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from threading import Lock
from time import time
from typing import NamedTuple

from plinth.telemetry.histogram import Family, Histogram, render
from plinth.telemetry.metrics import expose
from plinth.telemetry.tracing import METHODS, OTHER_METHOD

__all__ = ["HTTP", "HttpMetrics"]

COUNTED_AT_ONCE = 100

_BODY_BOUNDS = (1024, 16_384, 262_144, 4_194_304)
_FAMILIES = (
    Family(
        "http_server_request_duration_seconds",
        "From the first byte of a request that is seen to the last of its response.",
        (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    ),
    Family("http_server_request_body_size_bytes", "The body of a request, as far as it was read.", _BODY_BOUNDS),
    Family("http_server_response_body_size_bytes", "The body of a response, as far as it was sent.", _BODY_BOUNDS),
)
_ACTIVE = "http_server_active_requests"
_ACTIVE_HELP = "Requests that are being answered."
# The objectives' counter. Prometheus sees no increase in a series that begins at 1, as each series by route and status
# does: both outcomes of this one are there from the start.
_ANSWERED = "plinth_http_requests"
_ANSWERED_HELP = "Requests that were answered: a failure by a 5xx, or by a response that an error has cut short."
_FAILED = "plinth_http_failures"
_FAILED_HELP = "Requests that failed, by route. Every route is there from the start."


class _Ended(NamedTuple):
    method: str
    route: str
    status: int
    seconds: float
    received: int
    sent: int
    trace: tuple[str, float] | None
    failed: bool


class HttpMetrics:
    """The request metrics of a process. Requests begin and end on one event loop; any thread may render."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, int], tuple[Histogram, ...]] = {}
        # Counted a hundred in a row: in the CPU's caches that takes a quarter of the time.
        self._ended: deque[_Ended] = deque()
        self._counting = Lock()
        self._answered = {"success": 0, "failure": 0}
        self._failed: dict[str, int] = {}
        self.active: dict[str, int] = {}

    def expect(self, routes: Iterable[str]) -> None:
        """Show the failures of these routes from here on, at 0."""
        for route in routes:
            self._failed.setdefault(route, 0)

    def begin(self, method: str) -> str:
        """Count an active request. Returns the method's label, which `end` takes."""
        if method not in METHODS:
            method = OTHER_METHOD
        self.active[method] = self.active.get(method, 0) + 1
        return method

    def end(
        self,
        method: str,
        route: str,
        status: int,
        seconds: float,
        received: int,
        sent: int,
        trace_id: str | None,
        broken: bool = False,
    ) -> None:
        """Count a request that has ended. Sizes are in bytes; `trace_id` is that of a recorded trace.

        A `broken` response has failed, whatever its status.
        """
        self.active[method] -= 1
        trace = None if trace_id is None else (trace_id, time())
        self._ended.append(_Ended(method, route, status, seconds, received, sent, trace, broken or status >= 500))
        if len(self._ended) >= COUNTED_AT_ONCE:
            self._count()

    def _count(self) -> None:
        with self._counting:
            while self._ended:
                ended = self._ended.popleft()
                duration, request_body, response_body = self.histograms(ended.method, ended.route, ended.status)
                duration.observe(ended.seconds, ended.trace)
                request_body.observe(ended.received)
                response_body.observe(ended.sent)
                self._answered["failure" if ended.failed else "success"] += 1
                if ended.failed:
                    self._failed[ended.route] = self._failed.get(ended.route, 0) + 1

    def histograms(self, method: str, route: str, status: int) -> tuple[Histogram, ...]:
        """The histograms of these labels: duration, request body and response body."""
        key = method, route, status
        found = self._series.get(key)
        if found is None:
            labels = (
                f'http_request_method="{method}",http_route="{_escaped(route)}",http_response_status_code="{status}"'
            )
            found = self._series[key] = tuple(Histogram(family, labels) for family in _FAMILIES)
        return found

    def render(self, openmetrics: bool) -> str:
        """Render all request metrics, in Prometheus's text format or in OpenMetrics'."""
        self._count()
        lines = [f"# HELP {_ACTIVE} {_ACTIVE_HELP}\n# TYPE {_ACTIVE} gauge\n"]
        for method, count in self.active.copy().items():
            lines.append(f'{_ACTIVE}{{http_request_method="{method}"}} {count}\n')
        lines += _counter(_ANSWERED, _ANSWERED_HELP, "outcome", self._answered, openmetrics)
        lines += _counter(_FAILED, _FAILED_HELP, "http_route", self._failed.copy(), openmetrics)
        series = list(self._series.values())
        for number, family in enumerate(_FAMILIES):
            lines.append(render(family, (histograms[number] for histograms in series), openmetrics))
        return "".join(lines)


def _counter(name: str, about: str, label: str, counts: Mapping[str, int], openmetrics: bool) -> Iterator[str]:
    counted = f"{name}_total"
    family = name if openmetrics else counted
    yield f"# HELP {family} {about}\n# TYPE {family} counter\n"
    for value, count in counts.items():
        yield f'{counted}{{{label}="{_escaped(value)}"}} {count}\n'


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


HTTP = HttpMetrics()
expose(HTTP.render)
