"""A span that costs little is no other span than the SDK's."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from plinth.http.request_context import RequestContextMiddleware
from plinth.telemetry import lazy_span as plain_span
from plinth.telemetry import trace_setup, tracing
from plinth.telemetry.lazy_span import PlainSpan, Processors, Recorder
from plinth.telemetry.span_recorder import Spans
from tests.plinth.unit.telemetry.test_tracing import SAMPLED, ask, service, traced
from tests.support.collector import Collector, Recorded

CONTEXT = SpanContext(1, 2, False, TraceFlags(3))
PARENT = SpanContext(1, 3, True, TraceFlags(3), TraceState([("a", "b")]))
BEFORE: dict[str, str | int] = {"before": "finish", "both": 1}
AFTER: dict[str, str | int] = {"after": "that", "both": 2}


class Seen(SpanProcessor):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, SpanContext]] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: sdk.Span, parent_context: Context | None = None) -> None:
        self.begun.append((span.name, trace.get_current_span(parent_context).get_span_context()))

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


@pytest.fixture
def ours() -> Seen:
    return Seen()


@pytest.fixture
def make(ours: Seen) -> Callable[..., PlainSpan]:
    def make(*added: SpanProcessor, limits: SpanLimits | None = None, parent: SpanContext | None = None) -> PlainSpan:
        processors = Processors(ours)
        for processor in added:
            processors.add_span_processor(processor)
        recorder = Recorder(Resource({"service.name": "x"}), limits or SpanLimits(), processors)
        return PlainSpan(recorder, "before", CONTEXT, parent, BEFORE, SpanKind.SERVER, 1000)

    return make


@pytest.fixture
def sdk_spans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of those that the SDK has to make."""
    made, original = list[str](), plain_span._SdkSpan.start

    def start(self: sdk.Span, *args: Any) -> None:
        made.append(self.name)
        original(self, *args)

    monkeypatch.setattr(plain_span._SdkSpan, "start", start)
    return made


def told(span: ReadableSpan) -> dict[str, Any]:
    return {
        "name": span.name,
        "context": span.context,
        "parent": span.parent,
        "attributes": dict(span.attributes or {}),
        "events": [(event.name, dict(event.attributes or {})) for event in span.events],
        "links": [(link.context, dict(link.attributes or {})) for link in span.links],
        "kind": span.kind,
        "status": (span.status.status_code, span.status.description),
        "times": (span.start_time, span.end_time),
        "resource": span.resource.attributes,
        "scope": (span.instrumentation_scope.name, span.instrumentation_scope.version)
        if span.instrumentation_scope
        else None,
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
    }


class TestAlone:
    @pytest.mark.parametrize("parent", [None, PARENT])
    @pytest.mark.parametrize("failed", [False, True])
    @pytest.mark.parametrize("name", [None, "better"])
    def test_it_is_what_the_sdk_would_have_made_and_the_sdk_makes_none(
        self,
        make: Callable[..., PlainSpan],
        ours: Seen,
        sdk_spans: list[str],
        parent: SpanContext | None,
        failed: bool,
        name: str | None,
    ) -> None:
        make(parent=parent).finish(AFTER, name=name, failed=failed, end=2000)
        assert sdk_spans == []
        assert ours.begun == []

        make(Seen(), parent=parent).finish(AFTER, name=name, failed=failed, end=2000)
        assert sdk_spans == ["before"]

        plain, full = map(told, ours.ended)
        assert plain == full
        assert plain["attributes"] == {"before": "finish", "both": 2, "after": "that"}
        assert plain["name"] == (name or "before")

    def test_it_ends_now_and_once(self, make: Callable[..., PlainSpan], ours: Seen) -> None:
        span = make()
        assert span.is_recording()
        assert span.get_span_context() is CONTEXT
        span.finish({}, failed=False)
        assert not span.is_recording()
        span.finish({}, failed=True)
        span.end()
        assert len(ours.ended) == 1
        assert (ours.ended[0].end_time or 0) > 1_700_000_000 * 10**9

    def test_what_comes_too_late_is_nothing(
        self, make: Callable[..., PlainSpan], ours: Seen, sdk_spans: list[str]
    ) -> None:
        span = make()
        span.finish({}, failed=False)
        span.set_attribute("late", 1)
        span.add_event("late")
        span.record_exception(ArithmeticError())
        assert len(ours.ended) == 1
        assert sdk_spans == []


class TestOthers:
    """Whoever gets hold of the current span may do what the interface allows."""

    @pytest.mark.parametrize(
        ("act", "changes"),
        [
            (lambda span: span.set_attribute("mine", [1, 2]), {"attributes": {"mine": (1, 2)}}),
            (lambda span: span.set_attributes({"both": 9, "mine": "x"}), {"attributes": {"mine": "x"}}),
            (lambda span: span.add_event("seen", {"a": 1}), {"events": [("seen", {"a": 1})]}),
            (lambda span: span.add_link(PARENT, {"b": 2}), {"links": [(PARENT, {"b": 2})]}),
            (lambda span: span.update_name("theirs"), {"name": "theirs"}),
            (lambda span: span.set_status(StatusCode.ERROR, "why"), {"status": (StatusCode.ERROR, "why")}),
        ],
    )
    def test_has_the_sdk_make_it_with_all_that_was_said(
        self,
        make: Callable[..., PlainSpan],
        ours: Seen,
        sdk_spans: list[str],
        act: Callable[[Span], None],
        changes: dict[str, Any],
    ) -> None:
        make().finish(AFTER, failed=False, end=2000)
        span = make()
        act(span)
        act(span)
        assert sdk_spans == ["before"]
        span.finish(AFTER, failed=False, end=2000)

        plain, full = map(told, ours.ended)
        twice = {key: value * 2 if isinstance(value, list) else value for key, value in changes.items()}
        if "attributes" in twice:
            twice["attributes"] |= plain["attributes"]
        assert full == {**plain, **twice}

    def test_exceptions_too(self, make: Callable[..., PlainSpan], ours: Seen) -> None:
        span = make()
        span.record_exception(ArithmeticError("no"))
        span.finish({}, failed=True)
        (event,) = ours.ended[0].events
        assert dict(event.attributes or {})["exception.type"] == "ArithmeticError"

    def test_who_ends_it_has_ended_it(self, make: Callable[..., PlainSpan], ours: Seen) -> None:
        with make() as span:
            assert span.is_recording()
        assert not span.is_recording()
        assert [(span.name, dict(span.attributes or {})) for span in ours.ended] == [("before", BEFORE)]

    def test_from_many_threads_it_is_made_once(
        self, make: Callable[..., PlainSpan], ours: Seen, sdk_spans: list[str]
    ) -> None:
        span, together = make(), threading.Barrier(16)

        def say(number: int) -> None:
            together.wait()
            span.set_attribute(f"{number}", number)

        threads = [threading.Thread(target=say, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        span.finish({}, failed=False)
        assert dict(ours.ended[0].attributes or {}) == BEFORE | {f"{number}": number for number in range(16)}
        assert sdk_spans == ["before"]

    def test_it_can_be_read(self, make: Callable[..., PlainSpan]) -> None:
        span: Any = make(parent=PARENT)
        assert span.name == "before"
        assert dict(span.attributes) == BEFORE
        assert span.parent == PARENT
        assert span.resource.attributes["service.name"] == "x"
        with pytest.raises(AttributeError):
            _ = span.nothing

    def test_it_can_be_read_when_it_has_ended(self, make: Callable[..., PlainSpan], sdk_spans: list[str]) -> None:
        span: Any = make()
        span.finish(AFTER, name="better", failed=False)
        assert (span.name, span.attributes["after"]) == ("better", "that")
        assert sdk_spans == []

    def test_what_fails_in_it_is_told_as_the_sdk_tells_it(self, make: Callable[..., PlainSpan], ours: Seen) -> None:
        with pytest.raises(ArithmeticError), make():
            raise ArithmeticError("no")
        (span,) = ours.ended
        assert span.status.status_code is StatusCode.ERROR
        assert [event.name for event in span.events] == ["exception"]


class TestLooksClosely:
    def test_it_is_the_sdk_s_own_that_is_the_current_one(self, make: Callable[..., PlainSpan]) -> None:
        assert isinstance(make(Seen()).current, sdk.Span)
        span = make()
        assert span.current is span

    def test_a_processor_that_was_added_sees_beginning_and_end(self, make: Callable[..., PlainSpan]) -> None:
        added = Seen()
        span = make(added, parent=PARENT)
        assert added.begun == [("before", PARENT)]
        span.finish({}, failed=False)
        assert [span.name for span in added.ended] == ["before"]

    @pytest.mark.parametrize("length", [3, 5])
    def test_limits_hold(self, make: Callable[..., PlainSpan], ours: Seen, length: int) -> None:
        make(limits=SpanLimits(max_span_attribute_length=length)).finish(AFTER, failed=False)
        assert ours.ended[0].attributes == {"before": "finish"[:length], "both": 2, "after": "that"[:length]}

    def test_a_limit_to_their_number_too(self, make: Callable[..., PlainSpan], ours: Seen) -> None:
        make(limits=SpanLimits(max_span_attributes=2)).finish(AFTER, failed=False)
        assert len(ours.ended[0].attributes or {}) == 2
        assert ours.ended[0].dropped_attributes == 1


async def working(scope: Scope, receive: Receive, send: Send) -> None:
    """What asks a database, which fails, says something of itself and answers."""
    tracing.note_call("SELECT", {"db.query.text": "SELECT 1"}, seconds=0.25, error=ArithmeticError())
    trace.get_current_span().set_attribute("shop.basket", scope["path"])
    await Response("hello")(scope, receive, send)


@pytest.mark.usefixtures("fresh_tracing")
class TestInTheService:
    @staticmethod
    async def exercise() -> None:
        app = service()
        await ask(app, headers={"traceparent": SAMPLED})
        await ask(app, "/api/things/broken", headers={"User-Agent": "x"})
        await ask(app, "/nowhere", "BREW")
        await ask(RequestContextMiddleware(working), "/working")

    async def test_a_processor_that_a_team_adds_changes_nothing_of_what_is_sent(self, collector: Collector) -> None:
        async def sent(*added: SpanProcessor) -> list[Recorded]:
            async with trace_setup.running(traced(collector.url), "api"):
                for processor in added:
                    # OpenTelemetry's global one is the first of the process.
                    cast(Spans, tracing._spans).provider.add_span_processor(processor)
                await self.exercise()
            spans = [replace(span, trace_id="", span_id="", scope=0, seconds=0) for span in collector.spans]
            spans = [replace(span, parent_id=span.parent_id and "some") for span in spans]
            collector.spans.clear()
            return spans

        watching = Seen()
        assert await sent() == await sent(watching)
        assert [name for name, _ in watching.begun] == ["GET", "GET", "HTTP", "GET", "SELECT"]
        assert len(watching.ended) == 5

    async def test_a_processor_may_do_what_it_likes(self, collector: Collector) -> None:
        class Busy(SpanProcessor):
            """Counts the beginnings of others in the request's span, and asks a database itself."""

            tenants: list[object] = []  # noqa: RUF012

            def on_start(self, span: sdk.Span, parent_context: Context | None = None) -> None:
                self.tenants.append(baggage.get_baggage("tenant", parent_context))
                trace.get_current_span(parent_context).set_attribute("begun", span.name)
                if span.name == "SELECT":
                    tracing.note_call("GET", {}, seconds=0.1)

        async def in_its_own_thread(scope: Scope, receive: Receive, send: Send) -> None:
            context = baggage.set_baggage("tenant", "acme")
            token = otel.attach(context)
            await asyncio.to_thread(tracing.note_call, "SELECT", {}, seconds=0.25)
            otel.detach(token)
            await Response("hello")(scope, receive, send)

        async with trace_setup.running(traced(collector.url), "api"):
            cast(Spans, tracing._spans).provider.add_span_processor(Busy())
            async with asyncio.timeout(10):
                await ask(RequestContextMiddleware(in_its_own_thread), "/working")
        assert Busy.tenants == [None, "acme", "acme"]
        assert len(collector.spans) == 3
        (request,) = [span for span in collector.spans if span.kind == "SERVER"]
        assert request.attributes["begun"] == "GET"

    async def test_what_is_said_of_a_request_arrives(self, collector: Collector) -> None:
        async with trace_setup.running(traced(collector.url), "api"):
            await ask(RequestContextMiddleware(working), "/working")
        span = collector.one("GET")
        assert span.attributes["shop.basket"] == "/working"
        assert collector.one("SELECT").parent_id == span.span_id

    async def test_limits_of_the_environment_hold(self, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4")
        async with trace_setup.running(traced(collector.url), "api"):
            await ask(RequestContextMiddleware(working), "/working")
        assert collector.one("SELECT").attributes == {"db.query.text": "SELE", "error.type": "Arit"}
        assert collector.one("GET").attributes["url.path"] == "/wor"
