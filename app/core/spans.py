"""What becomes of spans: which are recorded, and how they reach the collector without costing anybody anything.

A collector that is away or hangs costs what there is room for in the queue, and a line in the log each minute. Spans
for which there is no room, and those that could not be delivered, are counted.

The only module that imports OpenTelemetry's SDK, which it does for who has traces switched on.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from threading import Lock
from time import monotonic, time_ns
from typing import Any
from urllib.parse import unquote

import requests
import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import Attributes

from app import __version__
from app.core.config import Settings
from app.core.tracing import SPANS_DROPPED

__all__ = ["Spans"]

log = structlog.get_logger("app.tracing")

COMPLAINT_SECONDS = 60.0
MAX_ANSWER = 65_536  # bytes of it that are read; nobody looks at them
MAX_REASON = 500  # characters, of what a collector may have said

_UNRECORDED = TraceFlags(TraceFlags.RANDOM_TRACE_ID)
_UNSET, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_SCOPE = InstrumentationScope("app", "")  # as the tracer makes it of its name

# Who sends complains here about each batch, several times and in many words. What it says is the reason that we give.
_EXPORTER_LOGGER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


class Spans:
    """Records spans and sends them to `endpoint`, from a thread of its own."""

    def __init__(self, settings: Settings, endpoint: str, component: str) -> None:
        headers = settings.OTEL_EXPORTER_OTLP_TRACES_HEADERS or settings.OTEL_EXPORTER_OTLP_HEADERS
        exporter = OTLPSpanExporter(
            endpoint=endpoint,
            headers=_pairs(headers.get_secret_value()) if headers is not None else None,
            session=_Session(),
        )
        self._queue = _Queue(settings.OTEL_BSP_MAX_QUEUE_SIZE, endpoint)
        processor = _Processor(
            _Exporter(exporter, self._queue),
            max_queue_size=settings.OTEL_BSP_MAX_QUEUE_SIZE,
            schedule_delay_millis=settings.OTEL_BSP_SCHEDULE_DELAY,
            max_export_batch_size=settings.OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
        )
        processor.queue = self._queue
        self._ids = _Ids()
        self._bound = _bound(settings)
        self.provider = TracerProvider(
            sampler=_sampler(settings),
            resource=_resource(settings, component),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self.provider.add_span_processor(processor)
        self.tracer = self.provider.get_tracer(_SCOPE.name)

    def unrecorded_root(self) -> SpanContext | None:
        """Begin a trace that is not recorded. None: the next one that is begun will be, and its id has been drawn.

        Nine in ten are not, and they need nothing of what the SDK does to find that out.
        """
        trace_id = self._ids.generate_trace_id()
        if trace_id & TraceIdRatioBased.TRACE_ID_LIMIT >= self._bound:
            return SpanContext(trace_id, self._ids.generate_span_id(), False, _UNRECORDED)
        self._ids.drawn = trace_id
        return None

    def note_call(
        self, name: str, attributes: Mapping[str, str | int], parent: SpanContext, *, seconds: float, failed: bool
    ) -> None:
        """Record a call that took until now, made by `parent`, which is recorded too.

        The SDK takes six times as long to begin a span and to end it. Its limits on attributes do not reach here, and
        processors that others have added see no beginning.
        """
        end = time_ns()
        context = SpanContext(
            parent.trace_id, self._ids.generate_span_id(), False, parent.trace_flags, parent.trace_state
        )
        span = ReadableSpan(
            name,
            context,
            parent,
            self.provider.resource,
            attributes,
            kind=SpanKind.CLIENT,
            status=_FAILED if failed else _UNSET,
            start_time=end - int(seconds * 1e9),
            end_time=end,
            instrumentation_scope=_SCOPE,
        )
        self.provider._active_span_processor.on_end(span)

    @property
    def waiting(self) -> int:
        """Spans that are not delivered yet."""
        return self._queue.length

    def close(self) -> None:
        """Send what there is, and end. May take as long as the collector likes."""
        self._queue.closed = True
        self.provider.shutdown()


class _Ids(RandomIdGenerator):
    """Ids of traces, of which one may have been drawn already."""

    drawn = 0

    def generate_trace_id(self) -> int:
        drawn, self.drawn = self.drawn, 0
        return drawn or super().generate_trace_id()


class _Resource(Resource):
    """What says it all, hashed once: the exporter asks for that with each span, and is given JSON to hash."""

    def __init__(self, resource: Resource) -> None:
        super().__init__({**resource.attributes}, resource.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


class _Session(requests.Session):
    """The exporter's connections, whose kind it brings. It would take a redirection for a success, and all of an answer
    into memory."""

    def request(self, *args: Any, **options: Any) -> requests.Response:
        response = super().request(*args, **{**options, "stream": True})
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) <= MAX_ANSWER:
            response.raw.drain_conn()  # so that the connection is free for the next one
        else:
            response.close()
        if 300 <= response.status_code < 400:
            raise requests.TooManyRedirects(f"it redirects, with status {response.status_code}")
        return response


class _Queue:
    """How many spans are in memory, those that are being sent included; and what is said of those that are lost."""

    def __init__(self, limit: int, endpoint: str) -> None:
        self._limit = limit
        self._endpoint = endpoint
        self._lock = Lock()
        self._lost = 0
        self._speak_from = 0.0
        self.length = 0
        self.closed = False

    def enter(self) -> bool:
        """Whether there is room for one more, which is taken."""
        with self._lock:
            room = self.length < self._limit and not self.closed
            if room:
                self.length += 1
            else:
                self._lost += 1
        if not room:
            SPANS_DROPPED.inc()
        return room

    def leave(self, count: int, *, problem: str | None) -> None:
        """So many are not in memory any more. `problem`: why they were not delivered."""
        with self._lock:
            self.length -= count
            if problem is not None:
                self._lost += count
            now = monotonic()
            speak = problem is not None and now >= self._speak_from
            if speak:
                self._speak_from = now + COMPLAINT_SECONDS
                lost, self._lost = self._lost, 0
        if problem is not None:
            SPANS_DROPPED.inc(count)
        if speak:
            log.warning("traces cannot be delivered", endpoint=self._endpoint, reason=problem, spans_dropped=lost)


class _Processor(BatchSpanProcessor):
    # The SDK's own would write a line about each span that it has no room for, and drop the ones that have waited.
    queue: _Queue

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled and self.queue.enter():
            super().on_end(span)


class _Exporter(SpanExporter):
    def __init__(self, exporter: SpanExporter, queue: _Queue) -> None:
        self._exporter = exporter
        self._queue = queue
        self._said = ""
        logger = logging.getLogger(_EXPORTER_LOGGER)
        for other in logger.filters[:]:
            logger.removeFilter(other)
        logger.addFilter(self._take)

    def _take(self, record: logging.LogRecord) -> bool:
        self._said = self._said or record.getMessage()[:MAX_REASON]  # the first says why, the last that it gives up
        return False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._said = ""
        problem: str | None = None
        try:
            result = self._exporter.export(spans)
            if result is not SpanExportResult.SUCCESS:
                problem = self._said or "unknown"
        except Exception as error:  # noqa: BLE001 - the thread has to go on
            result, problem = SpanExportResult.FAILURE, repr(error)[:MAX_REASON]
        self._queue.leave(len(spans), problem=problem)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _FollowLink(Sampler):
    """For roots: what is linked to something is recorded if that was; of the rest `sampler` decides."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        sampler = self._sampler
        if links and kind is SpanKind.CONSUMER:
            sampler = ALWAYS_ON if links[0].context.trace_flags.sampled else ALWAYS_OFF
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"FollowLink{{{self._sampler.get_description()}}}"


def _bound(settings: Settings) -> int:
    """Traces that begin here are recorded if the lower half of their id is below it."""
    name = settings.OTEL_TRACES_SAMPLER
    ratio = settings.OTEL_TRACES_SAMPLER_ARG if name.endswith("traceidratio") else float(name.endswith("always_on"))
    return TraceIdRatioBased.get_bound_for_rate(ratio)


def _sampler(settings: Settings) -> Sampler:
    name = settings.OTEL_TRACES_SAMPLER
    if name.endswith("traceidratio"):
        sampler: Sampler = TraceIdRatioBased(settings.OTEL_TRACES_SAMPLER_ARG)
    else:
        sampler = ALWAYS_ON if name.endswith("always_on") else ALWAYS_OFF
    return ParentBased(_FollowLink(sampler)) if name.startswith("parentbased_") else sampler


def _resource(settings: Settings, component: str) -> Resource:
    project = re.sub(r"[^a-z0-9]+", "-", settings.PROJECT_NAME.lower()).strip("-") or "service"
    attributes = {"service.name": f"{project}-{component}", "service.version": __version__}
    attributes |= _pairs(settings.OTEL_RESOURCE_ATTRIBUTES or "")
    if settings.OTEL_SERVICE_NAME is not None:
        attributes["service.name"] = settings.OTEL_SERVICE_NAME
    return _Resource(Resource.create(attributes))


def _pairs(text: str) -> dict[str, str]:
    """What `a=1,b=2` says; values are percent-encoded."""
    pairs = (pair.partition("=") for pair in text.split(",") if pair.strip())
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}
