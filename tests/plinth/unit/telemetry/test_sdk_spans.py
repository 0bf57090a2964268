"""Span processors of a service, attribute limits, attributes of handlers."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanContext
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from plinth.http.request_context import RequestContextMiddleware
from plinth.telemetry import trace_setup, tracer_provider, tracing
from plinth.telemetry.tracer_provider import build_tracer_provider
from tests.plinth.unit.telemetry.test_tracing import SAMPLED, ask, service, traced
from tests.support.collector import Collector, Recorded
from tests.support.logs import Configure

pytestmark = pytest.mark.usefixtures("fresh_tracing")


class Seen(SpanProcessor):
    """A span processor that records the spans it gets."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, SpanContext]] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: sdk.Span, parent_context: Context | None = None) -> None:
        self.begun.append((span.name, trace.get_current_span(parent_context).get_span_context()))

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


@pytest.fixture
def add_processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[SpanProcessor], None]:
    """Adds a processor to the last provider built; the global one is the first."""
    built: list[sdk.TracerProvider] = []

    def build(*args: Any) -> Any:
        provider, processor = build_tracer_provider(*args)
        built.append(provider)
        return provider, processor

    monkeypatch.setattr(tracer_provider, "build_tracer_provider", build)

    def add(processor: SpanProcessor) -> None:
        built[-1].add_span_processor(processor)

    return add


async def working(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that records a failed query, sets an attribute and responds."""
    tracing.record_call("SELECT", {"db.query.text": "SELECT 1"}, seconds=0.25, error=ArithmeticError())
    trace.get_current_span().set_attribute("shop.basket", scope["path"])
    await Response("hello")(scope, receive, send)


async def exercise() -> None:
    app = service()
    await ask(app, headers={"traceparent": SAMPLED})
    await ask(app, "/api/things/broken", headers={"User-Agent": "x"})
    await ask(app, "/nowhere", "BREW")
    await ask(RequestContextMiddleware(working), "/working")


async def test_added_span_processor_does_not_change_the_exported_spans(
    collector: Collector, add_processor: Callable[[SpanProcessor], None], configure: Configure
) -> None:
    configure(LOG_FORMAT="json")  # plain tracebacks: structlog's default takes seconds for one

    async def sent(*added: SpanProcessor) -> list[Recorded]:
        async with trace_setup.running(traced(collector.url), "api"):
            for processor in added:
                add_processor(processor)
            await exercise()
        spans = [replace(span, trace_id="", span_id="", scope=0, seconds=0) for span in collector.spans]
        spans = [replace(span, parent_id=span.parent_id and "some") for span in spans]
        collector.spans.clear()
        return spans

    watching = Seen()
    assert await sent() == await sent(watching)
    assert [name for name, _ in watching.begun] == ["GET", "GET", "HTTP", "GET", "SELECT"]
    assert len(watching.ended) == 5


async def test_added_span_processor_may_set_attributes_and_record_calls(
    collector: Collector, add_processor: Callable[[SpanProcessor], None]
) -> None:
    class Busy(SpanProcessor):
        """Sets the name of each new span on its parent, and records a call itself."""

        tenants: list[object] = []  # noqa: RUF012

        def on_start(self, span: sdk.Span, parent_context: Context | None = None) -> None:
            self.tenants.append(baggage.get_baggage("tenant", parent_context))
            trace.get_current_span(parent_context).set_attribute("begun", span.name)
            if span.name == "SELECT":
                tracing.record_call("GET", {}, seconds=0.1)

    async def in_its_own_thread(scope: Scope, receive: Receive, send: Send) -> None:
        context = baggage.set_baggage("tenant", "acme")
        token = otel.attach(context)
        await asyncio.to_thread(tracing.record_call, "SELECT", {}, seconds=0.25)
        otel.detach(token)
        await Response("hello")(scope, receive, send)

    async with trace_setup.running(traced(collector.url), "api"):
        add_processor(Busy())
        async with asyncio.timeout(20):
            await ask(RequestContextMiddleware(in_its_own_thread), "/working")
    assert Busy.tenants == [None, "acme", "acme"]
    assert len(collector.spans) == 3
    (request,) = [span for span in collector.spans if span.kind == "SERVER"]
    assert request.attributes["begun"] == "GET"


async def test_attribute_that_a_handler_sets_on_its_span_is_exported(collector: Collector) -> None:
    async with trace_setup.running(traced(collector.url), "api"):
        await ask(RequestContextMiddleware(working), "/working")
    span = collector.one("GET")
    assert span.attributes["shop.basket"] == "/working"
    assert collector.one("SELECT").parent_id == span.span_id


async def test_attribute_limits_apply(collector: Collector) -> None:
    async with trace_setup.running(traced(collector.url, OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT=4), "api"):
        await ask(RequestContextMiddleware(working), "/working")
    assert collector.one("SELECT").attributes == {"db.query.text": "SELE", "error.type": "Arit"}
    assert collector.one("GET").attributes["url.path"] == "/wor"
