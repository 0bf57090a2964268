"""Traces: where a request or a job belongs, and the spans that tell what it did.

A `traceparent` that comes in (W3C Trace Context) gives log lines and problem documents their trace id and goes on with
the jobs that are enqueued, whether tracing is on or off. Spans are made while it is on: `plinth.telemetry.trace_setup`.

Spans are made here, in `plinth.database.observed_connection` (SQL) and in `plinth.telemetry.instrument_clients` (Redis,
HTTP).
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, Self, cast

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState
from prometheus_client import Counter
from starlette.types import Scope

from plinth.telemetry.log_records import read_trace_from
from plinth.telemetry.route_template import UNMATCHED

__all__ = [
    "MAX_PATH",
    "SPANS_DROPPED",
    "RequestTrace",
    "begin_job",
    "begin_request",
    "client_span",
    "current_trace_id",
    "end_job",
    "end_request",
    "enqueuing",
    "is_on",
    "is_recorded",
    "note_call",
    "record_with",
    "trace_headers",
]

SPANS_DROPPED = Counter("plinth_trace_spans_dropped", "Spans that never reached the collector.")

MAX_TRACESTATE = 512  # characters: as many as the specification asks to pass on
MAX_USER_AGENT = 256
# Of a path, in spans and log lines: of what waits for the collector no caller decides how large it is.
MAX_PATH = 1024

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KNOWN_FLAGS = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID

_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
_NOBODY = Context()


class RecordedSpan(Protocol):
    """The span of a request that is recorded, as `Spans.begin_request` makes it."""

    current: Span
    """What user code finds as the current span."""

    def finish(self, attributes: Mapping[str, str | int], *, name: str | None, failed: bool) -> None:
        """End the span."""


class Spans(Protocol):
    """Makes spans while tracing is on. `plinth.telemetry.span_recorder` implements it."""

    tracer: trace.Tracer

    def new_trace(self) -> "RequestTrace": ...

    def continued(self, caller: SpanContext) -> "RequestTrace": ...

    def begin_request(
        self, name: str, context: SpanContext, parent: SpanContext | None, attributes: Mapping[str, str | int]
    ) -> Any: ...

    def note_call(
        self, name: str, attributes: Mapping[str, str | int], parent: SpanContext, *, seconds: float, failed: bool
    ) -> None: ...


_spans: Spans | None = None


def is_on() -> bool:
    """Whether spans are made in this process."""
    return _spans is not None


def is_recorded() -> bool:
    """Whether what is done now belongs to a trace that is recorded here."""
    return _spans is not None and bool(trace.get_current_span().get_span_context().trace_flags & TraceFlags.SAMPLED)


def current_trace_id() -> str | None:
    """The trace that what is done now belongs to: 32 hexadecimal digits."""
    trace_id = trace.get_current_span().get_span_context().trace_id
    return format(trace_id, "032x") if trace_id else None


def record_with(spans: Spans | None) -> None:
    """Make spans with `spans` from now on; with None, make no more. One for a process."""
    global _spans  # noqa: PLW0603 - one for a process
    _spans = spans


# --- requests ---


class RequestTrace(NamedTuple):
    """Where a request belongs."""

    span: Span
    within: Context
    """The context in which that is the current span. Nothing else of OpenTelemetry's is in it."""
    response: bytes
    """What the header `traceresponse` tells the caller: trace, span, and whether it was recorded here."""
    ids: tuple[int, int]
    """Of trace and span."""

    @classmethod
    def of(cls, context: SpanContext, *, flags: int) -> Self:
        """One that is not recorded. `flags` are those to be told."""
        span = NonRecordingSpan(context)
        response = b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, flags)
        return cls(span, trace.set_span_in_context(span, _NOBODY), response, (context.trace_id, context.span_id))


def begin_request(scope: Scope, traceparent: str | None, tracestate: str | None) -> RequestTrace | None:
    """Continue the caller's trace if there is a valid one, or begin one. None: the request belongs to no trace.

    While tracing is off the span stands for the caller's and records nothing.
    """
    caller = None if traceparent is None else _read(traceparent, tracestate)
    if _spans is None:
        return None if caller is None else RequestTrace.of(caller, flags=0)
    begun = _spans.new_trace() if caller is None else _spans.continued(caller)
    context = begun.span.get_span_context()
    if not context.trace_flags & TraceFlags.SAMPLED:
        return begun
    method = scope["method"]
    known = method in _METHODS
    attributes = {
        "http.request.method": method if known else "_OTHER",
        "url.path": scope["path"][:MAX_PATH],
        "url.scheme": scope.get("scheme", "http"),
    }
    span = _spans.begin_request(method if known else "HTTP", context, caller, attributes)
    return RequestTrace(span, trace.set_span_in_context(span.current, _NOBODY), begun.response, begun.ids)


def end_request(span: Span, scope: Scope, *, route: str, status: int, error: BaseException | None) -> None:
    """End a recorded request's span. `status` is 0 and `error` what ended it where there was no response."""
    name = None
    attributes: dict[str, str | int] = {}
    if route != UNMATCHED:
        name = f"{scope['method'] if scope['method'] in _METHODS else 'HTTP'} {route}"
        attributes["http.route"] = route
    if client := scope.get("client"):
        attributes["client.address"] = client[0]
    for header, value in scope["headers"]:
        if header == b"user-agent":
            attributes["user_agent.original"] = value[:MAX_USER_AGENT].decode("latin-1")
    if status:
        attributes["http.response.status_code"] = status
    failed = error is not None or not 0 < status < 500
    if failed:
        attributes["error.type"] = str(status) if error is None and status else _type_of(error)
    cast(RecordedSpan, span).finish(attributes, name=name, failed=failed)


# --- jobs ---


@contextmanager
def enqueuing(kind: str, queue: str, count: int, within: Context | None = None) -> Iterator[str | None]:
    """Around the statement that enqueues jobs: what to store with them, as JSON. None: they belong to no trace.

    `within`: the context that they are enqueued in, if not the current one.
    """
    context = trace.get_current_span(within).get_span_context()
    if not context.is_valid:
        yield None
    elif _spans is None or not context.trace_flags.sampled:
        yield json.dumps(_headers(context))
    else:
        attributes: dict[str, str | int] = {
            "messaging.system": "plinth",
            "messaging.operation.name": "enqueue",
            "messaging.operation.type": "send",
            "messaging.destination.name": queue,
            "messaging.batch.message_count": count,
            "plinth.job.kind": kind,
        }
        with client_span(f"enqueue {kind}", attributes, kind=SpanKind.PRODUCER, within=within) as span:
            yield json.dumps(_headers(span.get_span_context()))


def begin_job(
    kind: str, carrier: Mapping[str, str] | None, *, first: bool, attributes: Mapping[str, str | int]
) -> Span | None:
    """The span of a run, current from here to the end of this task. None: it belongs to no trace.

    `carrier` was stored when the job was enqueued. The `first` attempt is a part of what enqueued it; later ones,
    which may come days after it, are traces of their own with a link to it.
    """
    parent = None
    if carrier is not None and "traceparent" in carrier:
        parent = _read(carrier["traceparent"], carrier.get("tracestate"))
    span: Span | None
    if _spans is None:
        span = None if parent is None else NonRecordingSpan(parent)
    else:
        context, links = _NOBODY, ()
        if parent is not None and first:
            context = trace.set_span_in_context(NonRecordingSpan(parent), _NOBODY)
        elif parent is not None:
            links = (Link(parent),)  # type: ignore[assignment]
        described = {
            "messaging.system": "plinth",
            "messaging.operation.name": "run",
            "messaging.operation.type": "process",
            "plinth.job.kind": kind,
            **attributes,
        }
        span = _spans.tracer.start_span(f"job {kind}", context, SpanKind.CONSUMER, described, links)
    if span is not None:
        otel.attach(trace.set_span_in_context(span))
    return span


def end_job(span: Span | None, *, outcome: str, error: str | None) -> None:
    """End a run's span. `error`: what kind of error it ended with."""
    if span is None or not span.is_recording():
        return
    span.set_attribute("plinth.job.outcome", outcome)
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR)
    span.end()


# --- what both do ---


@contextmanager
def client_span(
    name: str,
    attributes: Mapping[str, str | int],
    *,
    kind: SpanKind = SpanKind.CLIENT,
    within: Context | None = None,
) -> Iterator[Span]:
    """A span around a call to somebody else, for what `is_recorded`; current while the block runs."""
    spans = _spans
    if spans is None:  # tracing has just ended
        yield trace.INVALID_SPAN
        return
    span = spans.tracer.start_span(name, within, kind, attributes)
    token = otel.attach(trace.set_span_in_context(span))
    try:
        yield span
    except BaseException as error:
        # The type alone: messages quote values.
        span.set_attribute("error.type", _type_of(error))
        span.set_status(StatusCode.ERROR)
        raise
    finally:
        otel.detach(token)
        span.end()


def note_call(
    name: str, attributes: Mapping[str, str | int], *, seconds: float, error: BaseException | None = None
) -> None:
    """A span of a call to somebody else that took until now, for what `is_recorded`: cheaper than one around it."""
    spans = _spans
    if spans is None or isinstance(error, GeneratorExit):  # nobody waits any longer, and the current span is anyone's
        return
    if error is not None:
        attributes = {**attributes, "error.type": _type_of(error)}
    parent = trace.get_current_span().get_span_context()
    spans.note_call(name, attributes, parent, seconds=seconds, failed=error is not None)


def trace_headers() -> dict[str, str]:
    """The W3C headers that tell another service which trace it continues; none where there is no trace."""
    context = trace.get_current_span().get_span_context()
    return _headers(context) if context.is_valid else {}


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _read(traceparent: str, tracestate: str | None) -> SpanContext | None:
    """The W3C headers as a context, or None if `traceparent` is not valid to the letter."""
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
    context = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16) & _KNOWN_FLAGS), state)
    return context if context.is_valid else None  # zeros are none


def _headers(context: SpanContext) -> dict[str, str]:
    headers = {"traceparent": _traceparent(context)}
    if context.trace_state:
        headers["tracestate"] = context.trace_state.to_header()
    return headers


def _type_of(error: BaseException | None) -> str:
    return "no_response" if error is None else type(error).__qualname__


def _ids() -> tuple[int, int] | None:
    context = trace.get_current_span().get_span_context()
    return (context.trace_id, context.span_id) if context.trace_id else None


read_trace_from(_ids)
