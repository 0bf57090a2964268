"""The headers that carry traces and baggage from service to service, as OTEL_PROPAGATORS names them.

Jobs keep their trace in W3C's form, whatever the setting says.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = [
    "Propagation",
    "active",
    "headers_of",
    "outgoing_headers",
    "parse_w3c",
    "use",
    "with_baggage",
]

MAX_TRACESTATE = 512  # characters: the specification asks to pass on at least as many
# The least that the specification asks to pass on. What is above it is not passed on: every call and job has a copy.
MAX_BAGGAGE, MAX_BAGGAGE_MEMBERS = 8192, 64

_KNOWN_FLAGS = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID
_W3C = TraceContextTextMapPropagator()
_BAGGAGE = W3CBaggagePropagator()

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_B3 = re.compile(r"([0-9a-f]{16}|[0-9a-f]{32})-([0-9a-f]{16})(?:-([01d])(?:-[0-9a-f]{16})?)?")
_B3_ID = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")
_XRAY_ROOT = re.compile(r"1-([0-9a-f]{8})-([0-9a-f]{24})")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
_GCP = re.compile(r"([0-9a-fA-F]{32})/([0-9]{1,20})(?:;o=([0-9]{1,3}))?")

Headers = Mapping[bytes, str]


# --- formats ---


def parse_w3c(traceparent: str, tracestate: str | None) -> SpanContext | None:
    """Parse the W3C headers. None if `traceparent` is not valid to the letter."""
    # OpenTelemetry's propagator takes spaces and line breaks around it, and passes unknown flags on.
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # Version 00 ends after the flags; a later one may go on, and ff is none.
    if version == "ff" or (version == "00" and more is not None):
        return None
    state = None
    if tracestate and len(tracestate) <= MAX_TRACESTATE:
        state = TraceState.from_header([tracestate])
    return _context(int(trace_id, 16), int(span_id, 16), int(flags, 16) & _KNOWN_FLAGS, state)


def _context(trace_id: int, span_id: int, flags: int, state: TraceState | None = None) -> SpanContext | None:
    if span_id >= 2**64:
        return None
    context = SpanContext(trace_id, span_id, True, TraceFlags(flags), state)
    return context if context.is_valid else None  # zeros are none


def _from_w3c(given: Headers) -> SpanContext | None:
    found = given.get(b"traceparent")
    return None if found is None else parse_w3c(found, given.get(b"tracestate"))


def _from_b3(given: Headers) -> SpanContext | None:
    """Of the single header, or else of several, as the specification asks for either name."""
    if match := _B3.fullmatch(given.get(b"b3", "")):
        return _context(int(match[1], 16), int(match[2], 16), int(match[3] in ("1", "d")))
    trace_id, span_id = given.get(b"x-b3-traceid", ""), given.get(b"x-b3-spanid", "")
    if not (_B3_ID.fullmatch(trace_id) and _SPAN_ID.fullmatch(span_id)):
        return None
    sampled = given.get(b"x-b3-sampled") in ("1", "true") or given.get(b"x-b3-flags") == "1"
    return _context(int(trace_id, 16), int(span_id, 16), int(sampled))


def _from_xray(given: Headers) -> SpanContext | None:
    pairs = (field.strip().partition("=") for field in given.get(b"x-amzn-trace-id", "").split(";")[:20])
    fields = {name.lower(): value for name, _, value in pairs}
    root, parent = _XRAY_ROOT.fullmatch(fields.get("root", "")), fields.get("parent", "")
    if root is None or not _SPAN_ID.fullmatch(parent):
        return None
    return _context(int(root[1] + root[2], 16), int(parent, 16), int(fields.get("sampled") == "1"))


def _from_gcp(given: Headers) -> SpanContext | None:
    match = _GCP.fullmatch(given.get(b"x-cloud-trace-context", ""))
    return None if match is None else _context(int(match[1], 16), int(match[2]), int(match[3] or "0") & 1)


def _to_b3(span: SpanContext) -> dict[str, str]:
    return {"b3": f"{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags & 1}"}


def _to_b3_multi(span: SpanContext) -> dict[str, str]:
    return {
        "X-B3-TraceId": f"{span.trace_id:032x}",
        "X-B3-SpanId": f"{span.span_id:016x}",
        "X-B3-Sampled": str(span.trace_flags & 1),
    }


def _to_xray(span: SpanContext) -> dict[str, str]:
    root = f"{span.trace_id:032x}"
    return {
        "X-Amzn-Trace-Id": f"Root=1-{root[:8]}-{root[8:]};Parent={span.span_id:016x};Sampled={span.trace_flags & 1}"
    }


def _to_gcp(span: SpanContext) -> dict[str, str]:
    return {"X-Cloud-Trace-Context": f"{span.trace_id:032x}/{span.span_id};o={span.trace_flags & 1}"}


class _Format(NamedTuple):
    read: frozenset[bytes]
    parse: Callable[[Headers], SpanContext | None]
    write: Callable[[SpanContext], dict[str, str]]


_B3_HEADERS = frozenset({b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-sampled", b"x-b3-flags"})
_FORMATS = {
    "b3": _Format(_B3_HEADERS, _from_b3, _to_b3),
    "b3multi": _Format(_B3_HEADERS, _from_b3, _to_b3_multi),
    "xray": _Format(frozenset({b"x-amzn-trace-id"}), _from_xray, _to_xray),
    "gcp": _Format(frozenset({b"x-cloud-trace-context"}), _from_gcp, _to_gcp),
}


# --- the setting ---


class Propagation:
    """What OTEL_PROPAGATORS says: which headers are read, and which are sent."""

    def __init__(self, names: Sequence[str]) -> None:
        names = () if "none" in names else tuple(dict.fromkeys(names))
        formats = [_FORMATS[name] for name in names if name in _FORMATS]
        self.w3c = "tracecontext" in names
        self.baggage = "baggage" in names
        self.read = frozenset(
            {
                *((b"traceparent", b"tracestate") if self.w3c else ()),
                *((b"baggage",) if self.baggage else ()),
                *(name for found in formats for name in found.read),
            }
        )
        """The headers that are read, in small letters."""
        parsers = {"tracecontext": _from_w3c} | {name: found.parse for name, found in _FORMATS.items()}
        self._parsers = tuple(parsers[name] for name in names if name in parsers)
        self._write = tuple(found.write for found in formats)

    def caller(self, given: Headers) -> SpanContext | None:
        """The caller's span, by the first of the formats that names one."""
        for parse in self._parsers:
            if (found := parse(given)) is not None:
                return found
        return None

    def outgoing(self, within: Context | None) -> dict[str, str]:
        """The headers with which another service continues the trace of a context."""
        headers: dict[str, str] = {}
        if self.w3c:
            _W3C.inject(headers, within)
        if self._write and (span := trace.get_current_span(within).get_span_context()).is_valid:
            for write in self._write:
                headers |= write(span)
        if self.baggage:
            _BAGGAGE.inject(headers, within)
        return headers


_active = Propagation(("tracecontext",))


def active() -> Propagation:
    """What this process reads and sends."""
    return _active


def use(names: Sequence[str]) -> None:
    """Read and send the headers of these propagators from now on."""
    global _active  # noqa: PLW0603 - one for a process
    _active = Propagation(names)


def outgoing_headers(within: Context | None = None) -> dict[str, str]:
    """The headers with which another service continues the current trace; none where there is no trace.

    `within`: a context other than the current one.
    """
    return _active.outgoing(within)


def headers_of(within: Context | None = None) -> dict[str, str]:
    """The same in W3C's form, in which it is stored with jobs."""
    headers: dict[str, str] = {}
    _W3C.inject(headers, within)
    if _active.baggage:
        _BAGGAGE.inject(headers, within)
    return headers


def with_baggage(header: str | None, context: Context | None = None) -> Context | None:
    """A context with the baggage of a header, as far as the setting and the bounds allow."""
    if not header or not _active.baggage or len(header) > MAX_BAGGAGE:
        return context
    return _BAGGAGE.extract({"baggage": ",".join(header.split(",")[:MAX_BAGGAGE_MEMBERS])}, context)
