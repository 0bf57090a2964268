"""Which requests, jobs and calls are recorded, and what their spans say of where they come from.

Imported only when tracing is enabled, like `plinth.telemetry.lazy_span`, `plinth.telemetry.span_exporter` and
OpenTelemetry's SDK.
"""

import re
from collections.abc import Mapping, Sequence
from time import time_ns
from urllib.parse import unquote

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.util.types import Attributes

from plinth.settings import PlatformSettings
from plinth.telemetry.lazy_span import SCOPE, PlainSpan, Processors, Recorder
from plinth.telemetry.span_exporter import SpanExport
from plinth.telemetry.tracing import RequestTrace

__all__ = ["Spans"]

DRAWN_AT_ONCE = 64

_UNRECORDED = TraceFlags(TraceFlags.RANDOM_TRACE_ID)
_RECORDED = TraceFlags(TraceFlags.RANDOM_TRACE_ID | TraceFlags.SAMPLED)


class Spans:
    """Records spans and sends them to `endpoint`, from a thread of its own."""

    def __init__(self, settings: PlatformSettings, endpoint: str, component: str) -> None:
        headers = settings.OTEL_EXPORTER_OTLP_TRACES_HEADERS or settings.OTEL_EXPORTER_OTLP_HEADERS
        pairs = _pairs(headers.get_secret_value()) if headers is not None else None
        self._export = SpanExport(settings, endpoint, pairs)
        processors, limits, resource = Processors(self._export), SpanLimits(), _resource(settings, component)
        self._recorder = Recorder(resource, limits, processors)
        self._bound = _bound(settings)
        self._parent_based = settings.OTEL_TRACES_SAMPLER.startswith("parentbased_")
        self._new_id = RandomIdGenerator()
        self._drawn: list[RequestTrace] = []
        self.provider = TracerProvider(
            sampler=_sampler(settings),
            resource=resource,
            active_span_processor=processors,
            id_generator=self._new_id,
            span_limits=limits,
            shutdown_on_exit=False,
        )
        self.tracer = self.provider.get_tracer(SCOPE)

    def new_trace(self) -> RequestTrace:
        """Begin a trace with a request; the flags of its span say whether it is to be recorded.

        Most are not, and need nothing of what the SDK does to find that out. They are drawn many at a time: in a row
        each costs a fraction of what it costs between the parts of a request. On the event loop alone.
        """
        if not self._drawn:
            self._drawn = [self._draw() for _ in range(DRAWN_AT_ONCE)]
        return self._drawn.pop()

    def _draw(self) -> RequestTrace:
        trace_id = self._new_id.generate_trace_id()
        flags = _RECORDED if self._is_chosen(trace_id) else _UNRECORDED
        return RequestTrace.of(SpanContext(trace_id, self._new_id.generate_span_id(), False, flags), flags=flags)

    def continued(self, caller: SpanContext) -> RequestTrace:
        """Where a request belongs that `caller` has sent; flags as in a new one."""
        flags = caller.trace_flags
        if not self._parent_based:
            chosen = TraceFlags.SAMPLED if self._is_chosen(caller.trace_id) else 0
            flags = TraceFlags(flags & ~TraceFlags.SAMPLED | chosen)
        context = SpanContext(caller.trace_id, self._new_id.generate_span_id(), False, flags, caller.trace_state)
        return RequestTrace.of(context, flags=flags)

    def _is_chosen(self, trace_id: int) -> bool:
        return trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound

    def begin_request(
        self, name: str, context: SpanContext, parent: SpanContext | None, attributes: Mapping[str, str | int]
    ) -> PlainSpan:
        """The span of a request that is to be recorded."""
        return PlainSpan(self._recorder, name, context, parent, attributes, SpanKind.SERVER, time_ns())

    def note_call(
        self, name: str, attributes: Mapping[str, str | int], parent: SpanContext, *, seconds: float, failed: bool
    ) -> None:
        """Record a call that took until now, made by `parent`, which is recorded too."""
        end = time_ns()
        context = SpanContext(
            parent.trace_id, self._new_id.generate_span_id(), False, parent.trace_flags, parent.trace_state
        )
        start = end - int(seconds * 1e9)
        span = PlainSpan(self._recorder, name, context, parent, attributes, SpanKind.CLIENT, start)
        span.finish({}, failed=failed, end=end)

    @property
    def waiting(self) -> int:
        """Spans that are not delivered yet."""
        return self._export.waiting

    def close(self) -> None:
        """Send what there is, and end. May take as long as the collector likes."""
        self._export.close()
        self.provider.shutdown()


class _Resource(Resource):
    """What says it all, hashed once: the exporter asks for that with each span, and is given JSON to hash."""

    def __init__(self, resource: Resource) -> None:
        super().__init__({**resource.attributes}, resource.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


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


def _bound(settings: PlatformSettings) -> int:
    """Traces that begin here are recorded if the lower half of their id is below it."""
    name = settings.OTEL_TRACES_SAMPLER
    ratio = settings.OTEL_TRACES_SAMPLER_ARG if name.endswith("traceidratio") else float(name.endswith("always_on"))
    return TraceIdRatioBased.get_bound_for_rate(ratio)


def _sampler(settings: PlatformSettings) -> Sampler:
    name = settings.OTEL_TRACES_SAMPLER
    if name.endswith("traceidratio"):
        sampler: Sampler = TraceIdRatioBased(settings.OTEL_TRACES_SAMPLER_ARG)
    else:
        sampler = ALWAYS_ON if name.endswith("always_on") else ALWAYS_OFF
    return ParentBased(_FollowLink(sampler)) if name.startswith("parentbased_") else sampler


def _resource(settings: PlatformSettings, component: str) -> Resource:
    project = re.sub(r"[^a-z0-9]+", "-", settings.PROJECT_NAME.lower()).strip("-") or "service"
    attributes = {"service.name": f"{project}-{component}", "service.version": settings.service.version}
    attributes |= _pairs(settings.OTEL_RESOURCE_ATTRIBUTES or "")
    if settings.OTEL_SERVICE_NAME is not None:
        attributes["service.name"] = settings.OTEL_SERVICE_NAME
    return _Resource(Resource.create(attributes))


def _pairs(text: str) -> dict[str, str]:
    """What `a=1,b=2` says; values are percent-encoded."""
    pairs = (pair.partition("=") for pair in text.split(",") if pair.strip())
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}
