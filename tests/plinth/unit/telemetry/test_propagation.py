"""Traces and baggage that come in by the headers of OTEL_PROPAGATORS, and go on by them."""

import json
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from plinth.http.request_context import RequestContextMiddleware
from plinth.settings import PlatformSettings
from plinth.settings.traces import PROPAGATORS
from plinth.telemetry import propagation, trace_setup, tracing
from plinth.telemetry.http_client import TracedClient
from plinth.telemetry.propagation import MAX_BAGGAGE, Propagation, headers_of, outgoing_headers, use
from tests.plinth.unit.telemetry.test_tracing import SAMPLED, SPAN, TRACE, ask, traced
from tests.support.collector import Collector, collecting
from tests.support.logs import logging_as

B3 = {"b3": f"{TRACE}-{SPAN}-1"}
B3_MULTI = {"X-B3-TraceId": TRACE, "X-B3-SpanId": SPAN, "X-B3-Sampled": "1"}
XRAY = {"X-Amzn-Trace-Id": f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=1"}
GCP = {"X-Cloud-Trace-Context": f"{TRACE}/{int(SPAN, 16)};o=1"}
W3C = {"traceparent": SAMPLED}


@pytest.fixture(autouse=True)
def restored(fresh_tracing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation, "_active", propagation._active)


def service(*trusted: str) -> ASGIApp:
    """Answers with the trace and the baggage of its request."""

    async def tell(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse([tracing.current_trace_id(), dict(baggage.get_all()), outgoing_headers()])(
            scope, receive, send
        )

    return RequestContextMiddleware(tell, trace_callers=trusted or ("*",))


async def told(headers: Any, *trusted: str) -> list[Any]:
    found: list[Any] = (await ask(service(*trusted), headers=headers)).json()
    return found


@pytest.mark.parametrize(
    ("names", "headers"),
    [
        ("b3", B3),
        ("b3", B3_MULTI),
        ("b3multi", B3_MULTI),
        ("b3multi", B3),
        ("xray", XRAY),
        ("gcp", GCP),
        ("tracecontext", W3C),
        ("tracecontext,b3", B3),
        ("b3,tracecontext", W3C),
        ("tracecontext,baggage,b3,b3multi,xray,gcp", GCP),
    ],
)
async def test_trace_of_a_trusted_caller_goes_on(names: str, headers: dict[str, str]) -> None:
    use(names.split(","))
    assert (await told(headers))[0] == TRACE
    assert (await told(headers, "192.0.2.1"))[0] is None


@pytest.mark.parametrize("headers", [B3, B3_MULTI, XRAY, GCP, {"baggage": "a=b"}])
async def test_without_the_setting_nothing_but_traceparent_is_read(headers: dict[str, str]) -> None:
    assert await told(headers) == [None, {}, {}]


@pytest.mark.parametrize("names", ["none", "b3", "none,tracecontext"])
async def test_traceparent_is_not_read_where_the_setting_does_not_name_it(names: str) -> None:
    use(names.split(","))
    assert (await told(W3C))[0] is None


@pytest.mark.parametrize(
    ("names", "headers"),
    [
        ("b3", {"b3": "0"}),
        ("b3", {"b3": TRACE}),
        ("b3", {"b3": f"{TRACE}-{SPAN}-2"}),
        ("b3", {"b3": f"{TRACE.upper()}-{SPAN}-1"}),
        ("b3", {"b3": f"{TRACE}-{SPAN}-1-{SPAN}-1"}),
        ("b3", {"b3": f"{'0' * 32}-{SPAN}-1"}),
        ("b3", {"b3": f"{TRACE}-{'0' * 16}-1"}),
        ("b3", {"b3": f" {TRACE}-{SPAN}-1"}),
        ("b3multi", {"X-B3-TraceId": TRACE}),
        ("b3multi", {"X-B3-TraceId": TRACE, "X-B3-SpanId": "1"}),
        ("xray", {"X-Amzn-Trace-Id": f"Root=1-{TRACE[:8]}-{TRACE[8:]}"}),  # as a load balancer sends it
        ("xray", {"X-Amzn-Trace-Id": f"Root={TRACE};Parent={SPAN};Sampled=1"}),
        ("xray", {"X-Amzn-Trace-Id": ";" * 1000}),
        ("xray", {"X-Amzn-Trace-Id": "Root"}),
        ("gcp", {"X-Cloud-Trace-Context": TRACE}),
        ("gcp", {"X-Cloud-Trace-Context": f"{TRACE}/0;o=1"}),
        ("gcp", {"X-Cloud-Trace-Context": f"{TRACE}/{2**64};o=1"}),
        ("gcp", {"X-Cloud-Trace-Context": f"{TRACE}/x;o=1"}),
    ],
)
async def test_malformed_header_is_no_trace(names: str, headers: dict[str, str]) -> None:
    use(names.split(","))
    assert (await told(headers))[0] is None


@pytest.mark.parametrize("headers", [B3, XRAY, GCP])
async def test_a_header_sent_twice_is_no_trace(headers: dict[str, str]) -> None:
    use(("b3", "xray", "gcp"))
    assert (await told([*headers.items(), *headers.items()]))[0] is None


@pytest.mark.parametrize(
    ("value", "sampled"),
    [("-1", True), ("-d", True), ("-0", False), ("", False), (f"-1-{SPAN}", True), (f"-0-{SPAN}", False)],
)
def test_b3_says_whether_a_trace_is_recorded(value: str, sampled: bool) -> None:
    found = Propagation(["b3"]).caller({b"b3": f"{TRACE}-{SPAN}{value}"})
    assert found is not None
    assert found.trace_flags.sampled is sampled


def test_short_trace_ids_of_b3_are_padded() -> None:
    found = Propagation(["b3"]).caller({b"b3": f"{TRACE[16:]}-{SPAN}-1"})
    assert found is not None
    assert f"{found.trace_id:032x}" == "0" * 16 + TRACE[16:]


@pytest.mark.parametrize(
    ("name", "headers"), [("b3", B3), ("b3multi", B3_MULTI), ("xray", XRAY), ("gcp", GCP), ("tracecontext", W3C)]
)
def test_what_is_sent_is_what_was_read(name: str, headers: dict[str, str]) -> None:
    use([name])
    caller = propagation.active().caller({key.lower().encode(): value for key, value in headers.items()})
    assert caller is not None
    with trace.use_span(trace.NonRecordingSpan(caller)):
        assert outgoing_headers() == headers
    assert outgoing_headers() == {}


async def test_calls_to_other_services_have_the_headers(collector: Collector) -> None:
    settings = traced(collector.url, OTEL_PROPAGATORS="tracecontext,baggage,b3")
    async with trace_setup.running(settings, "api"), TracedClient() as client:
        with collecting() as other, trace.get_tracer("test").start_as_current_span("outer") as span:
            context = span.get_span_context()
            token = propagation.with_baggage("tenant=acme")
            assert token is not None
            attached = attach(token)
            await client.post(f"{other.url}/v1/traces", content=b"")
            await client.post(f"{other.url}/v1/traces", content=b"", headers={"b3": "0"})
            detach(attached)
    sent, kept = other.headers
    assert sent["baggage"] == "tenant=acme"
    assert sent["b3"].startswith(f"{context.trace_id:032x}-")
    assert sent["b3"].split("-")[1] == sent["traceparent"].split("-")[2]
    assert (kept["b3"], "traceparent" in kept) == ("0", False)


class TestBaggage:
    @pytest.fixture(autouse=True)
    def on(self) -> None:
        use(("tracecontext", "baggage"))

    async def test_baggage_of_a_trusted_caller_is_read_and_passed_on(self) -> None:
        _, found, sent = await told({**W3C, "baggage": "tenant=acme, user%20id = a%2Cb;secret=1"})
        assert found["tenant"] == "acme"
        assert sent["baggage"].startswith("tenant=acme,")
        assert "traceparent" in sent

    async def test_baggage_is_passed_on_without_a_trace(self) -> None:
        answer = await ask(service(), headers={"baggage": "tenant=acme"})
        assert answer.json() == [None, {"tenant": "acme"}, {"baggage": "tenant=acme"}]
        assert "traceresponse" not in answer.headers

    async def test_baggage_of_others_is_dropped(self) -> None:
        assert (await told({**W3C, "baggage": "tenant=acme"}, "192.0.2.1"))[1:] == [{}, {}]

    async def test_several_lines_are_one_list(self) -> None:
        assert (await told([("baggage", "a=1"), ("baggage", "b=2")]))[1] == {"a": "1", "b": "2"}

    @pytest.mark.parametrize(
        ("header", "kept"),
        [
            (f"a={'x' * MAX_BAGGAGE}", 0),
            (f"a={'x' * 4095},b=1", 1),
            (",".join(f"a{n}={'!' * 4000}" for n in range(2)), 2),  # three times as long when it is sent
            (",".join(f"a{n}={n}" for n in range(500)), 64),
            (",".join(f"a{n}={'x' * 200}" for n in range(64)), 0),
            ("no pair,a=1,=2,b=\x7f", 1),
            ("", 0),
        ],
    )
    async def test_bounds(self, header: str, kept: int) -> None:
        with logging_as(LOG_FORMAT="json") as log:
            _, found, sent = await told({"baggage": header})
        assert len(found) == kept
        assert len(sent.get("baggage", "")) <= MAX_BAGGAGE
        assert {line.get("logger") for line in log.lines()} <= {None, "httpx"}

    async def test_baggage_goes_on_with_jobs(self) -> None:
        request = tracing.begin_request(
            {"type": "http", "method": "GET", "path": "/", "headers": []},
            {b"traceparent": SAMPLED, b"baggage": "tenant=acme"},
            trusted=True,
        )
        assert request is not None
        with tracing.enqueue_span("mail", "default", 1, request.context) as stored:
            carrier = json.loads(stored or "")
        assert carrier == {"traceparent": f"00-{TRACE}-{SPAN}-01", "baggage": "tenant=acme"}

        # Current until this task ends.
        tracing.begin_job("mail", carrier, queue="default", job_id=uuid4(), attempt=1, run=1)
        assert dict(baggage.get_all()) == {"tenant": "acme"}
        assert headers_of()["baggage"] == "tenant=acme"


def test_the_warning_names_all_propagators_that_there_are() -> None:
    names = [name for name in PROPAGATORS if name != "none"]
    found = Propagation(names)
    assert len(found._parsers) == len(names) - 1  # baggage is no trace
    settings = PlatformSettings.isolated(OTEL_PROPAGATORS=",".join(PROPAGATORS))
    assert settings.warnings == ()
