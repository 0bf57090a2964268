"""Requests: how many, how long, how large, by route; and how many there are just now."""

from collections import deque
from threading import Lock
from time import time
from typing import NamedTuple

from plinth.telemetry.histogram import Family, Histogram, render
from plinth.telemetry.metrics import expose

__all__ = ["HTTP", "HttpMetrics"]

OTHER_METHOD = "_OTHER"
COUNTED_AT_ONCE = 100
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "CONNECT", "TRACE"})

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
# Prometheus sees no increase in a series that begins at 1, as each of those by route and status does. What objectives
# are judged by is there from the start.
_ANSWERED = "plinth_http_requests"
_ANSWERED_HELP = "Requests that were answered: a failure by a 5xx, or by a response that an error has cut short."


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
    """The counts of a process. Requests begin and end on one event loop; any thread may ask."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, int], tuple[Histogram, ...]] = {}
        # Not counted yet. To count many in a row is cheaper: all that it takes stays in the CPU's caches.
        self._ended: deque[_Ended] = deque()
        self._counting = Lock()
        self._answered = {"success": 0, "failure": 0}
        self.active: dict[str, int] = {}

    def begin(self, method: str) -> str:
        """A request is being answered now. Returns the name that its method is counted under, which `end` wants."""
        if method not in _METHODS:
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
        """It has been answered. Sizes are in bytes; `trace_id` is that of a trace that is recorded; a response that is
        `broken` has failed, whatever its status."""
        self.active[method] -= 1
        trace = None if trace_id is None else (trace_id, time())
        self._ended.append(_Ended(method, route, status, seconds, received, sent, trace, broken or status >= 500))
        if len(self._ended) >= COUNTED_AT_ONCE:
            self._count()

    def _count(self) -> None:
        with self._counting:
            while self._ended:
                ended = self._ended.popleft()
                duration, request_body, response_body = self.of(ended.method, ended.route, ended.status)
                duration.observe(ended.seconds, ended.trace)
                request_body.observe(ended.received)
                response_body.observe(ended.sent)
                self._answered["failure" if ended.failed else "success"] += 1

    def of(self, method: str, route: str, status: int) -> tuple[Histogram, ...]:
        """Duration, request body and response body of these labels."""
        key = method, route, status
        found = self._series.get(key)
        if found is None:
            template = route.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
            labels = f'http_request_method="{method}",http_route="{template}",http_response_status_code="{status}"'
            found = self._series[key] = tuple(Histogram(family, labels) for family in _FAMILIES)
        return found

    def render(self, openmetrics: bool) -> str:
        """All of them, in Prometheus's text format or in OpenMetrics'."""
        self._count()
        lines = [f"# HELP {_ACTIVE} {_ACTIVE_HELP}\n# TYPE {_ACTIVE} gauge\n"]
        for method, count in self.active.copy().items():
            lines.append(f'{_ACTIVE}{{http_request_method="{method}"}} {count}\n')
        counted = f"{_ANSWERED}_total"
        name = _ANSWERED if openmetrics else counted
        lines.append(f"# HELP {name} {_ANSWERED_HELP}\n# TYPE {name} counter\n")
        lines += [f'{counted}{{outcome="{outcome}"}} {count}\n' for outcome, count in self._answered.items()]
        series = list(self._series.values())
        for number, family in enumerate(_FAMILIES):
            lines.append(render(family, (histograms[number] for histograms in series), openmetrics))
        return "".join(lines)


HTTP = HttpMetrics()
expose(HTTP.render)
