"""Spans that cost little as long as nobody but their makers says anything of them."""

from collections.abc import Mapping
from threading import Lock
from time import time_ns
from types import TracebackType
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, SynchronousMultiSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    set_span_in_context,
)
from opentelemetry.util.types import Attributes, AttributeValue

__all__ = ["SCOPE", "PlainSpan", "Processors", "Recorder"]

SCOPE = "app"
MAX_ATTRIBUTES = 16
"""None of our spans has more, so that a limit from here on changes nothing."""

_NOBODY = Context()
_SCOPE = InstrumentationScope(SCOPE, "")  # as a tracer makes it of its name
_UNSET, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


class Processors(SynchronousMultiSpanProcessor):
    """One that is ours, and those that are added to it."""

    def __init__(self, ours: SpanProcessor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        super().add_span_processor(ours)
        self.others = 0

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        super().add_span_processor(span_processor)
        self.others += 1


class Recorder:
    """Where spans end up, and what they have in common."""

    def __init__(self, resource: Resource, limits: SpanLimits, processors: Processors) -> None:
        self.resource = resource
        self.limits = limits
        self.processors = processors
        self._attributes_are_limited = limits.max_span_attribute_length is not None or (
            limits.max_span_attributes is not None and limits.max_span_attributes < MAX_ATTRIBUTES
        )

    @property
    def looks_closely(self) -> bool:
        """Whether it makes a difference who makes a span: it has limits to keep, or others who see it begin."""
        return self._attributes_are_limited or self.processors.others > 0


# One for all: each span's own would cost more than the rest of it.
_making = Lock()


class _SdkSpan(sdk.Span):
    """The SDK's class, of which it lets nobody but its tracers make an instance."""


class PlainSpan(Span):
    """A span that is recorded, begun `start` nanoseconds after the epoch.

    What its maker says of it goes into two calls, this and `finish`, and to the collector as it is: a seventh of what
    it takes the SDK. The SDK's own span is made once somebody else says something, or at once if the recorder looks
    closely.
    """

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: Mapping[str, str | int],
        kind: SpanKind,
        start: int,
    ) -> None:
        self._recorder = recorder
        self._name = name
        self._context = context
        self._parent = parent
        self._attributes = attributes
        self._kind = kind
        self._start = start
        self._ended = False
        self._full: sdk.Span | None = None
        self._told: ReadableSpan | None = None
        if recorder.looks_closely:
            self._full = self._build()
            self._begin(self._full)

    @property
    def current(self) -> Span:
        """What others are to find as the current span: the SDK's, if it is there already."""
        return self._full or self

    def get_span_context(self) -> SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return not self._ended if self._full is None else self._full.is_recording()

    def finish(
        self, attributes: Mapping[str, str | int], *, name: str | None = None, failed: bool, end: int | None = None
    ) -> None:
        """Say the rest, a better `name` among it if there is one, and end."""
        with _making:
            is_plain = self._full is None and not self._ended
            self._ended = True
        if is_plain:
            recorder = self._recorder
            self._told = span = ReadableSpan(
                name or self._name,
                self._context,
                self._parent,
                recorder.resource,
                {**self._attributes, **attributes},
                kind=self._kind,
                status=_FAILED if failed else _UNSET,
                start_time=self._start,
                end_time=end or time_ns(),
                instrumentation_scope=_SCOPE,
            )
            recorder.processors.on_end(span)
            return
        full = self._made()
        if name is not None:
            full.update_name(name)
        full.set_attributes(attributes)
        if failed:
            full.set_status(_FAILED)
        self.end(end)

    # What others may do to it, from whatever thread.

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self._made().set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self._made().set_attributes(attributes)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        self._made().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        self._made().add_link(context, attributes)

    def update_name(self, name: str) -> None:
        self._made().update_name(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._made().set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        self._made().record_exception(exception, attributes, timestamp, escaped)

    def end(self, end_time: int | None = None) -> None:
        span = self._made()
        self._ended = True
        span.end(end_time)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        span = self._made()
        self._ended = True
        span.__exit__(kind, error, traceback)

    def __getattr__(self, name: str) -> Any:
        """What the SDK's span has besides: `attributes`, `name`, `parent` and so on."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._told or self._made(), name)

    def _made(self) -> Span:
        """The SDK's span. One that takes nothing in, if this has ended without it."""
        with _making:
            if self._full is not None:
                return self._full
            if self._ended:
                return INVALID_SPAN
            self._full = full = self._build()
        # Not under the lock: a processor may do whatever it likes, with this span too.
        self._begin(full)
        return full

    def _build(self) -> sdk.Span:
        return _SdkSpan(
            self._name,
            self._context,
            self._parent,
            resource=self._recorder.resource,
            attributes=self._attributes,
            kind=self._kind,
            span_processor=self._recorder.processors,
            limits=self._recorder.limits,
            instrumentation_scope=_SCOPE,
        )

    def _begin(self, full: sdk.Span) -> None:
        # Processors look at the current context unless they are given another.
        within = None
        if self._parent is not None and self._parent.is_remote:
            within = set_span_in_context(NonRecordingSpan(self._parent), _NOBODY)
        full.start(self._start, within)
