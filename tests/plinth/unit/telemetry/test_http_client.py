"""Requests to other services are spans and propagate the trace."""

from collections.abc import AsyncIterator

import httpx
import pytest
from opentelemetry import trace

from plinth.telemetry import trace_setup
from plinth.telemetry.http_client import TracedClient
from plinth.telemetry.propagation import parse_w3c
from tests.plinth.unit.telemetry.test_tracing import SAMPLED, SPAN, UNSAMPLED, traced
from tests.support.collector import Collector, collecting

pytestmark = pytest.mark.usefixtures("fresh_tracing")


@pytest.fixture
async def tracer(collector: Collector) -> AsyncIterator[trace.Tracer]:
    async with trace_setup.running(traced(collector.url), "api"):
        yield trace.get_tracer("test")


async def test_a_request_is_a_span_that_the_other_service_continues(collector: Collector, tracer: trace.Tracer) -> None:
    with collecting() as other:
        url = f"{other.url}/v1/traces?api_key=hunter2"
        with tracer.start_as_current_span("outer") as outer:
            async with TracedClient() as client:
                await client.post(url, content=b"")
                other.behaviour = "refuses"
                await client.post(url, content=b"")
        async with TracedClient() as client:
            await client.post(url, content=b"")

    good, bad = collector.named("POST", 2)
    for span, headers in zip((good, bad), other.headers, strict=False):
        assert span.kind == "CLIENT"
        assert span.parent_id == format(outer.get_span_context().span_id, "016x")
        assert headers["traceparent"][:52] == f"00-{span.trace_id}-{span.span_id}"
        assert span.attributes["url.full"] == f"{other.url}/v1/traces"
    assert (good.failed, bad.failed) == (False, True)
    assert bad.attributes["http.response.status_code"] == 400
    assert "traceparent" not in other.headers[2]


async def test_redirected_or_repeated_request_has_the_traceparent_of_its_current_span(
    collector: Collector, tracer: trace.Tracer
) -> None:
    """Redirects are part of the request's span. A `traceparent` that the caller has set stays."""
    with collecting("redirects") as other, tracer.start_as_current_span("outer"):
        async with TracedClient(follow_redirects=True, max_redirects=1) as client:
            for headers in ({}, {"traceparent": SAMPLED}):
                with pytest.raises(httpx.TooManyRedirects):
                    await client.post(other.url, headers=headers, content=b"")
            other.behaviour = "takes"
            again = client.build_request("POST", f"{other.url}/v1/traces", content=b"")
            for _ in range(2):
                await client.send(again)

    spans = [span.span_id for span in collector.named("POST", 4)]
    told = [headers["traceparent"].split("-")[2] for headers in other.headers]
    assert told == [spans[0], spans[0], SPAN, SPAN, *spans[2:]]


async def test_tracestate_is_propagated(collector: Collector, tracer: trace.Tracer) -> None:
    """A request sent again within another trace or none loses its old tracestate."""
    one, another = parse_w3c(SAMPLED, "vendor=1,other=2"), parse_w3c(UNSAMPLED, None)
    assert one is not None
    assert another is not None
    with collecting() as other:
        async with TracedClient() as client:
            request = client.build_request("POST", f"{other.url}/v1/traces", content=b"")
            for caller in (one, another):
                with trace.use_span(trace.NonRecordingSpan(caller)):
                    await client.send(request)
            await client.send(request)
    told = [(headers.get("traceparent"), headers.get("tracestate")) for headers in other.headers]
    assert told[1:] == [(UNSAMPLED, None), (None, None)]
    assert told[0][1] == "vendor=1,other=2"


async def test_a_failed_request_s_span_has_the_type_of_the_error(collector: Collector, tracer: trace.Tracer) -> None:
    with tracer.start_as_current_span("outer"):
        async with TracedClient() as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("http://127.0.0.1:1/")

    span = collector.one("GET")
    assert span.failed
    assert span.attributes["error.type"] == "ConnectError"


async def test_a_method_that_http_does_not_know_is_original(collector: Collector, tracer: trace.Tracer) -> None:
    with collecting("refuses") as other, tracer.start_as_current_span("outer"):
        async with TracedClient() as client:
            await client.request("BREW", f"{other.url}/v1/traces")
    span = collector.one("HTTP")
    assert span.attributes["http.request.method"] == "_OTHER"
    assert span.attributes["http.request.method_original"] == "BREW"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/files/a%3Fb%2Fc%0A%FF?q=1", "/files/a%3Fb%2Fc%0A%FF"),
        ("/hooks/plk_0123456789abcdef0123456789abcdef", "/hooks/plk_********"),
        (f"/{'a' * 5000}", f"/{'a' * 1023}"),
    ],
    ids=["escaped", "secret", "long"],
)
async def test_the_url_is_as_it_was_sent_without_secrets(
    collector: Collector, tracer: trace.Tracer, path: str, shown: str
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200)

    with tracer.start_as_current_span("outer"):
        async with TracedClient(transport=httpx.MockTransport(answer)) as client:
            await client.get(f"https://user:hunter2@prices.example:8443{path}")
    assert collector.one("GET").attributes["url.full"] == f"https://prices.example:8443{shown}"
