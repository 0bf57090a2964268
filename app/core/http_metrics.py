"""Requests: how many, how long, how large, by route; and how many there are just now.

Counted by the event loop in plain lists, without a lock, and written down by ourselves: two hundred routes make ten
thousand lines, for which the client library takes a hundred milliseconds under the GIL, and this five.
"""

from bisect import bisect_left
from time import time
from typing import NamedTuple

from prometheus_client.utils import floatToGoString

from app.core.metrics import expose

__all__ = ["HTTP", "HttpMetrics"]

OTHER_METHOD = "_OTHER"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "CONNECT", "TRACE"})


class _Family(NamedTuple):
    name: str
    help: str
    bounds: tuple[float, ...]


_BODY_BOUNDS = (1024, 16_384, 262_144, 4_194_304)
_FAMILIES = (
    _Family(
        "http_server_request_duration_seconds",
        "From the first byte of a request that is seen to the last of its response.",
        (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    ),
    _Family("http_server_request_body_size_bytes", "The body of a request, as far as it was read.", _BODY_BOUNDS),
    _Family("http_server_response_body_size_bytes", "The body of a response, as far as it was sent.", _BODY_BOUNDS),
)
_ACTIVE = "http_server_active_requests"
_ACTIVE_HELP = "Requests that are being answered."


class _Histogram:
    """One series of a family. Written by one thread, read by others."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_heads", "_sum", "_tail")

    def __init__(self, family: _Family, labels: str) -> None:
        self._bounds = family.bounds
        self._counts = [0] * (len(family.bounds) + 1)
        self._sum = 0.0
        self._exemplars: list[str] = [""] * len(self._counts)
        bounds = [*map(floatToGoString, family.bounds), "+Inf"]
        self._heads = [f'{family.name}_bucket{{{labels},le="{bound}"}} ' for bound in bounds]
        self._tail = f"{family.name}_count{{{labels}}} ", f"{family.name}_sum{{{labels}}} "

    def observe(self, value: float, trace_id: str | None = None) -> None:
        bucket = bisect_left(self._bounds, value)
        self._counts[bucket] += 1
        self._sum += value
        if trace_id is not None:
            self._exemplars[bucket] = f' # {{trace_id="{trace_id}"}} {value} {time():.3f}'

    def lines(self, openmetrics: bool) -> list[str]:
        found, total = [], 0
        for head, count, trace in zip(self._heads, self._counts, self._exemplars, strict=True):
            total += count
            found.append(f"{head}{total}{trace}\n" if openmetrics else f"{head}{total}\n")
        count_head, sum_head = self._tail
        found.append(f"{count_head}{total}\n{sum_head}{self._sum}\n")
        return found


class HttpMetrics:
    """The counts of a process. To be written by one event loop."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, int], tuple[_Histogram, ...]] = {}
        self.active: dict[str, int] = {}

    def begin(self, method: str) -> str:
        """A request is being answered now. Returns the name that its method is counted under, which `end` wants."""
        if method not in _METHODS:
            method = OTHER_METHOD
        self.active[method] = self.active.get(method, 0) + 1
        return method

    def end(
        self, method: str, route: str, status: int, seconds: float, received: int, sent: int, trace_id: str | None
    ) -> None:
        """It has been answered. Sizes are in bytes; `trace_id` is that of a trace that is recorded."""
        self.active[method] -= 1
        duration, request_body, response_body = self.of(method, route, status)
        duration.observe(seconds, trace_id)
        request_body.observe(received)
        response_body.observe(sent)

    def of(self, method: str, route: str, status: int) -> tuple[_Histogram, ...]:
        """Duration, request body and response body of these labels."""
        key = method, route, status
        found = self._series.get(key)
        if found is None:
            template = route.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
            labels = f'http_request_method="{method}",http_response_status_code="{status}",http_route="{template}"'
            found = self._series[key] = tuple(_Histogram(family, labels) for family in _FAMILIES)
        return found

    def render(self, openmetrics: bool) -> str:
        """All of them, in Prometheus's text format or in OpenMetrics'."""
        lines = [f"# HELP {_ACTIVE} {_ACTIVE_HELP}\n# TYPE {_ACTIVE} gauge\n"]
        for method, count in self.active.copy().items():
            lines.append(f'{_ACTIVE}{{http_request_method="{method}"}} {count}\n')
        series = list(self._series.values())
        for number, family in enumerate(_FAMILIES):
            lines.append(f"# HELP {family.name} {family.help}\n# TYPE {family.name} histogram\n")
            for histograms in series:
                lines += histograms[number].lines(openmetrics)
        return "".join(lines)


HTTP = HttpMetrics()
expose(HTTP.render)
