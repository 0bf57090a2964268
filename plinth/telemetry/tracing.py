"""Traces: which trace a request or a job belongs to, and the spans that record it.

The `traceparent` (W3C Trace Context) of a trusted caller gives log lines and problem documents their trace id and is
stored with enqueued jobs, whether tracing is on or off. Spans are made while it is on: `plinth.telemetry.trace_setup`.

This module needs OpenTelemetry's API alone, not its SDK. Spans of SQL statements are recorded by
`plinth.database.observed_connection`, of Redis commands by `plinth.redis.client`, of HTTP requests by
`plinth.telemetry.http_client`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import time_ns
from typing import NamedTuple
from uuid import UUID

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
)
from prometheus_client import Counter
from starlette.types import Scope

from plinth.telemetry.propagation import active, headers_of, parse_w3c, with_baggage
from plinth.telemetry.redaction import redact_text

__all__ = [
    "MAX_METHOD",
    "MAX_PATH",
    "METHODS",
    "OTHER_METHOD",
    "SPANS_DROPPED",
    "RequestTrace",
    "begin_job",
    "begin_request",
    "client_span",
    "current_trace_id",
    "end_job",
    "end_request",
    "enqueue_span",
    "is_on",
    "is_recorded",
    "record_call",
    "use_tracer",
]

SPANS_DROPPED = Counter("plinth_trace_spans_dropped", "Spans that never reached the collector.")

MAX_USER_AGENT = 256
MAX_METHOD = 32
# Of a path, in spans and log lines: spans wait for the collector in memory, and a caller must not decide their size.
MAX_PATH = 1024

METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
OTHER_METHOD = "_OTHER"
_EMPTY = Context()

_tracer: Tracer | None = None


def is_on() -> bool:
    """Whether this process makes spans."""
    return _tracer is not None


def is_recorded() -> bool:
    """Whether the current span is recorded in this process."""
    return _tracer is not None and bool(trace.get_current_span().get_span_context().trace_flags & TraceFlags.SAMPLED)


def current_trace_id() -> str | None:
    """The id of the current trace: 32 hexadecimal digits."""
    trace_id = trace.get_current_span().get_span_context().trace_id
    return trace.format_trace_id(trace_id) if trace_id else None


def use_tracer(tracer: Tracer | None) -> None:
    """Make this process's spans with `tracer` from now on; with None, make none."""
    global _tracer  # noqa: PLW0603 - one for a process
    _tracer = tracer


# --- requests ---


class RequestTrace(NamedTuple):
    """The trace that a request belongs to."""

    span: Span
    context: Context
    """Holds the span as the current one and the caller's baggage, and nothing else of OpenTelemetry's."""
    response: bytes
    """The value of the header `traceresponse`: trace, span, and whether it is recorded here. Empty without a trace."""


def begin_request(scope: Scope, given: Mapping[bytes, str], *, trusted: bool) -> RequestTrace | None:
    """Continue the trace of a trusted caller, or begin one. None: the request belongs to no trace.

    `given` are the request's headers, those at least that `active().read` names. A trace that begins here has a link to
    the span of a caller that is not trusted, whose flags decide nothing and whose baggage is dropped. While tracing is
    off the span stands for the trusted caller's and records nothing.
    """
    caller = active().caller(given) if trusted else None
    base = (with_baggage(given.get(b"baggage"), _EMPTY) if trusted else None) or _EMPTY
    if _tracer is None:
        if caller is None and not base:
            return None
        span: Span = trace.INVALID_SPAN if caller is None else NonRecordingSpan(caller)
        flags = 0
    else:
        method = scope["method"] if scope["method"] in METHODS else None
        parent = base if caller is None else trace.set_span_in_context(NonRecordingSpan(caller), base)
        span = _tracer.start_span(method or "HTTP", parent, SpanKind.SERVER)
        flags = span.get_span_context().trace_flags
        # Not in `start_span`, which takes 2 µs longer with attributes for each request that is not recorded.
        if span.is_recording():
            span.set_attributes(
                {
                    "http.request.method": method or OTHER_METHOD,
                    "url.path": redact_text(scope["path"][:MAX_PATH]),
                    "url.scheme": scope.get("scheme", "http"),
                }
            )
            if method is None:
                span.set_attribute("http.request.method_original", scope["method"][:MAX_METHOD])
            if not trusted and (stranger := active().caller(given)) is not None:
                span.add_link(stranger)
    context = span.get_span_context()
    response = b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, flags) if context.is_valid else b""
    return RequestTrace(span, trace.set_span_in_context(span, base), response)


def end_request(span: Span, scope: Scope, *, route: str | None, status: int, error: BaseException | None) -> None:
    """End a recorded request's span.

    `route` is the template, if a route took the request. `status` is 0 and `error` what ended it where there was no
    response.
    """
    attributes: dict[str, str | int] = {}
    if route is not None:
        span.update_name(f"{scope['method'] if scope['method'] in METHODS else 'HTTP'} {route}")
        attributes["http.route"] = route
    if client := scope.get("client"):
        attributes["client.address"] = client[0]
    for header, value in scope["headers"]:
        if header == b"user-agent":
            attributes["user_agent.original"] = value[:MAX_USER_AGENT].decode("latin-1")
    if status:
        attributes["http.response.status_code"] = status
    if error is not None or not 0 < status < 500:
        attributes["error.type"] = str(status) if error is None and status else _type_of(error)
        span.set_status(StatusCode.ERROR)
    span.set_attributes(attributes)
    span.end()


# --- jobs ---


@contextmanager
def enqueue_span(kind: str, queue: str, count: int, within: Context | None = None) -> Iterator[str | None]:
    """A span around the statement that enqueues jobs. Yields the trace context to store with them, as JSON.

    Yields None if they belong to no trace. `within`: the context that they are enqueued in, if not the current one.
    """
    context = trace.get_current_span(within).get_span_context()
    if not context.is_valid:
        yield None
    elif _tracer is None or not context.trace_flags.sampled:
        yield json.dumps(headers_of(within))
    else:
        attributes: dict[str, str | int] = {
            "messaging.system": "plinth",
            "messaging.operation.name": "enqueue",
            "messaging.operation.type": "send",
            "messaging.destination.name": queue,
            "messaging.batch.message_count": count,
            "plinth.job.kind": kind,
        }
        with client_span(f"enqueue {kind}", attributes, kind=SpanKind.PRODUCER, within=within):
            yield json.dumps(headers_of())


def begin_job(
    kind: str, carrier: Mapping[str, str] | None, *, queue: str, job_id: UUID, attempt: int, run: int
) -> Span | None:
    """Begin the span of a run and make it current until this task ends. None: the run belongs to no trace.

    `carrier` was stored when the job was enqueued. The first run continues that trace; later ones, which may come days
    after it and by the thousand, begin traces of their own with a link to it.
    """
    if carrier is None and _tracer is None:
        return None
    parent = None
    if carrier is not None and "traceparent" in carrier:
        parent = parse_w3c(carrier["traceparent"], carrier.get("tracestate"))
    span: Span | None
    if _tracer is None:
        span = None if parent is None else NonRecordingSpan(parent)
    else:
        context, links = _EMPTY, ()
        if parent is not None and run == 1:
            context = trace.set_span_in_context(NonRecordingSpan(parent), _EMPTY)
        elif parent is not None:
            links = (Link(parent),)  # type: ignore[assignment]
        described: dict[str, str | int] = {
            "messaging.system": "plinth",
            "messaging.operation.name": "run",
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
            "messaging.message.id": str(job_id),
            "plinth.job.kind": kind,
            "plinth.job.attempt": attempt,
            "plinth.job.run": run,
        }
        span = _tracer.start_span(f"job {kind}", context, SpanKind.CONSUMER, described, links)
    if span is not None:
        otel.attach(trace.set_span_in_context(span, with_baggage((carrier or {}).get("baggage"))))
    return span


def end_job(span: Span | None, *, outcome: str, error: str | None) -> None:
    """End a run's span. `error`: the kind of error that ended the run."""
    if span is None or not span.is_recording():
        return
    span.set_attribute("plinth.job.outcome", outcome)
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR)
    span.end()


# --- calls to other services ---


@contextmanager
def client_span(
    name: str,
    attributes: Mapping[str, str | int],
    *,
    kind: SpanKind = SpanKind.CLIENT,
    within: Context | None = None,
) -> Iterator[Span]:
    """A span around a call to another service, current while the block runs. Only where `is_recorded`."""
    if _tracer is None:  # tracing has just ended
        yield trace.INVALID_SPAN
        return
    span = _tracer.start_span(name, within, kind, attributes)
    token = otel.attach(trace.set_span_in_context(span))
    try:
        yield span
    except BaseException as error:
        _fail(span, error)
        raise
    finally:
        otel.detach(token)
        span.end()


def record_call(
    name: str, attributes: Mapping[str, str | int], *, seconds: float, error: BaseException | None = None
) -> None:
    """Record the span of a call to another service that has just ended. Only where `is_recorded`."""
    # A coroutine is closed where it is garbage-collected: the current span may be another request's.
    if _tracer is None or isinstance(error, GeneratorExit):
        return
    end = time_ns()
    span = _tracer.start_span(name, None, SpanKind.CLIENT, attributes, start_time=end - int(seconds * 1e9))
    if error is not None:
        _fail(span, error)
    span.end(end)


def _fail(span: Span, error: BaseException) -> None:
    # The type alone: messages quote values.
    span.set_attribute("error.type", _type_of(error))
    span.set_status(StatusCode.ERROR)


def _type_of(error: BaseException | None) -> str:
    return "no_response" if error is None else type(error).__qualname__
