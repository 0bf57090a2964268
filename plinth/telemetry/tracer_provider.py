"""The SDK's tracer provider as the settings describe it: sampler and resource.

Imported only when tracing is enabled, like `plinth.telemetry.span_exporter` and OpenTelemetry's SDK.
"""

import logging
import re
from collections.abc import Sequence
from urllib.parse import unquote

from opentelemetry.context import Context
from opentelemetry.sdk import resources
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from plinth.settings import PlatformSettings
from plinth.telemetry.span_exporter import BoundedSpanProcessor

__all__ = ["build_tracer_provider"]

# Of an empty pair, such as behind a comma at the end: the settings have read the variable, and accept it.
logging.getLogger(resources.__name__).addFilter(lambda record: "Invalid key value" not in str(record.msg))


def build_tracer_provider(
    settings: PlatformSettings, endpoint: str, component: str
) -> tuple[TracerProvider, BoundedSpanProcessor]:
    """Build a provider that sends its spans to `endpoint`, and the processor that sends them."""
    headers = settings.OTEL_EXPORTER_OTLP_TRACES_HEADERS or settings.OTEL_EXPORTER_OTLP_HEADERS
    processor = BoundedSpanProcessor(
        settings, endpoint, _parse_pairs(headers.get_secret_value()) if headers is not None else None
    )
    provider = TracerProvider(
        sampler=_sampler(settings),
        resource=_resource(settings, component),
        span_limits=_limits(settings),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(processor)
    return provider, processor


class _FollowLink(Sampler):
    """Samples a linked run of a job as what it is linked to; all other roots as `sampler` decides."""

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


def _sampler(settings: PlatformSettings) -> Sampler:
    name = settings.OTEL_TRACES_SAMPLER
    if name.endswith("traceidratio"):
        sampler: Sampler = TraceIdRatioBased(settings.OTEL_TRACES_SAMPLER_ARG)
    else:
        sampler = ALWAYS_ON if name.endswith("always_on") else ALWAYS_OFF
    return ParentBased(_FollowLink(sampler)) if name.startswith("parentbased_") else sampler


def _limits(settings: PlatformSettings) -> SpanLimits:
    # Where one is None the SDK takes its general one, and reads the environment: an empty variable there would switch
    # the limit of a number off.
    return SpanLimits(
        max_attributes=settings.OTEL_ATTRIBUTE_COUNT_LIMIT,
        max_attribute_length=settings.OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT,
        max_span_attributes=_own(settings.OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT, settings),
        max_span_attribute_length=settings.OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT,
        max_events=settings.OTEL_SPAN_EVENT_COUNT_LIMIT,
        max_links=settings.OTEL_SPAN_LINK_COUNT_LIMIT,
        max_event_attributes=_own(settings.OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT, settings),
        max_link_attributes=_own(settings.OTEL_LINK_ATTRIBUTE_COUNT_LIMIT, settings),
    )


def _own(limit: int | None, settings: PlatformSettings) -> int:
    return settings.OTEL_ATTRIBUTE_COUNT_LIMIT if limit is None else limit


def _resource(settings: PlatformSettings, component: str) -> Resource:
    project = re.sub(r"[^a-z0-9]+", "-", settings.PROJECT_NAME.lower()).strip("-") or "service"
    attributes = {"service.name": f"{project}-{component}", "service.version": settings.service.version}
    given = settings.OTEL_RESOURCE_ATTRIBUTES or ""
    attributes |= _parse_pairs(given)
    if settings.OTEL_SERVICE_NAME is not None:
        attributes["service.name"] = settings.OTEL_SERVICE_NAME
    resource = Resource.create(attributes)
    # The SDK reads the variable too, and leaves percent signs in the names.
    raw = {pair.partition("=")[0].strip() for pair in given.split(",")} - attributes.keys()
    kept = {name: value for name, value in resource.attributes.items() if name not in raw}
    return Resource(kept, resource.schema_url)


def _parse_pairs(text: str) -> dict[str, str]:
    """Parse `a=1,b=2`, whose names and values are percent-encoded."""
    pairs = (pair.partition("=") for pair in text.split(",") if pair.strip())
    return {unquote(name.strip()): unquote(value.strip()) for name, _, value in pairs}
