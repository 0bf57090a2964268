"""Every request is counted once, under labels that no client chooses."""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import format_trace_id
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as plain_families
from prometheus_client.samples import Sample
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from plinth.http import request_context as middleware
from plinth.http.request_context import RequestContextMiddleware
from plinth.telemetry import http_metrics
from plinth.telemetry.http_metrics import _FAMILIES, COUNTED_AT_ONCE, HttpMetrics
from plinth.telemetry.route_template import UNMATCHED
from plinth.telemetry.tracing import RequestTrace

COUNT = "http_server_request_duration_seconds_count"


class Counted:
    """An application with the metrics and access lines of its requests."""

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        self.metrics = HttpMetrics()
        self.app = RequestContextMiddleware(app, metrics=self.metrics, **options)
        self.lines: Any = []

    async def call(
        self, method: str = "GET", path: str = "/", body: Sequence[bytes] = (b"",), *, leaves: bool = False
    ) -> list[Message]:
        """Send a request in chunks; `leaves` replaces the last one by a disconnect."""
        sent: list[Message] = []
        coming: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in body]
        if leaves:
            coming[-1] = {"type": "http.disconnect"}
        else:
            coming[-1]["more_body"] = False

        async def receive() -> Message:
            return coming.pop(0)

        async def send(message: Message) -> None:
            sent.append(message)

        with capture_logs() as lines:
            self.lines = lines
            await self.app({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
        return sent

    def samples(self, openmetrics: bool = False) -> list[Sample]:
        text = self.metrics.render(openmetrics)
        parse: Any = openmetrics_families if openmetrics else plain_families
        families = parse(f"{text}# EOF\n" if openmetrics else text)
        return [sample for family in families for sample in family.samples]

    def value(self, name: str) -> dict[tuple[str, str, str], float]:
        """The samples of this name by method, route and status."""
        keys = ("http_request_method", "http_route", "http_response_status_code")
        return {
            tuple(sample.labels[key] for key in keys): sample.value  # type: ignore[misc]
            for sample in self.samples()
            if sample.name == name
        }

    @property
    def ended(self) -> tuple[str, str, str]:
        """Method, route and status of the only request, equal in metrics and access line."""
        ((key, count),) = self.value(COUNT).items()
        (line,) = self.lines
        assert count == 1
        assert key == (line["method"], line["route"], str(line["status"]))
        assert self.value("http_server_response_body_size_bytes_sum")[key] == line["response_bytes"]
        return key

    def outcomes(self, openmetrics: bool = False) -> dict[str, float]:
        found = self.samples(openmetrics)
        return {s.labels["outcome"]: s.value for s in found if s.name == "plinth_http_requests_total"}

    @property
    def active(self) -> dict[str, float]:
        return {
            sample.labels["http_request_method"]: sample.value
            for sample in self.samples()
            if sample.name == "http_server_active_requests"
        }


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello", 201)(scope, receive, send)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(await Request(scope, receive).body())(scope, receive, send)


class TestCounting:
    async def test_request_is_counted_once_with_its_duration_and_sizes(self) -> None:
        counted = Counted(echo)
        await counted.call("POST", body=[b"a" * 2000, b"b" * 500])
        key = ("POST", UNMATCHED, "200")
        assert counted.value(COUNT) == {key: 1}
        assert 0 < counted.value("http_server_request_duration_seconds_sum")[key] < 60
        assert counted.value("http_server_request_body_size_bytes_sum") == {key: 2500}
        assert counted.value("http_server_response_body_size_bytes_sum") == {key: 2500}

    async def test_requests_are_counted_by_method_and_status(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await PlainTextResponse("", int(scope["path"].strip("/")))(scope, receive, send)

        counted = Counted(app)
        for method, status in [("GET", 200), ("GET", 200), ("PUT", 200), ("GET", 404)]:
            await counted.call(method, f"/{status}")
        assert counted.value(COUNT) == {
            ("GET", UNMATCHED, "200"): 2,
            ("PUT", UNMATCHED, "200"): 1,
            ("GET", UNMATCHED, "404"): 1,
        }

    async def test_unknown_method_is_counted_as_other(self) -> None:
        counted = Counted(hello)
        for method in ("BREW", "get", 'GET"} 1\n', "PROPFIND"):
            await counted.call(method)
        assert counted.value(COUNT) == {("_OTHER", UNMATCHED, "201"): 4}
        assert counted.active == {"_OTHER": 0}

    async def test_quiet_paths_are_not_counted(self) -> None:
        counted = Counted(hello, quiet_paths=frozenset({"/health"}))
        await counted.call(path="/health")
        assert counted.value(COUNT) == {}
        await counted.call(path="/healthy")
        assert len(counted.value(COUNT)) == 1

    async def test_scope_that_is_not_a_request_is_not_counted(self) -> None:
        seen = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["type"])

        counted = Counted(app)
        await counted.app({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
        assert seen == ["lifespan"]
        assert counted.value(COUNT) == {}

    async def test_streamed_response_is_counted_at_its_last_chunk(self) -> None:
        pause = asyncio.Event()

        async def pieces() -> Any:
            yield b"one"
            await pause.wait()
            yield b"three"

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await StreamingResponse(pieces())({**scope, "asgi": {"spec_version": "2.4"}}, receive, send)

        counted = Counted(app)
        running = asyncio.create_task(counted.call())
        while counted.active != {"GET": 1}:  # noqa: ASYNC110 - it is the application that changes
            await asyncio.sleep(0)
        assert counted.value(COUNT) == {}
        pause.set()
        await running
        assert counted.active == {"GET": 0}
        assert counted.value("http_server_response_body_size_bytes_sum") == {("GET", UNMATCHED, "200"): 8}

    async def test_work_after_the_response_is_not_part_of_its_duration(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = iter([10.0, 10.5, 99.0])
        monkeypatch.setattr(middleware, "perf_counter", lambda: next(clock))
        counted = Counted(hello)
        await counted.call()
        assert counted.value("http_server_request_duration_seconds_sum") == {("GET", UNMATCHED, "201"): 0.5}
        assert [line["duration_ms"] for line in counted.lines] == [500]


class TestRequestEnd:
    async def test_unhandled_exception_is_counted_as_500(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise ArithmeticError

        counted = Counted(app)
        with pytest.raises(ArithmeticError):
            await counted.call()
        assert counted.ended == ("GET", UNMATCHED, "500")
        assert counted.active == {"GET": 0}

    async def test_response_to_head_counts_no_body_bytes(self) -> None:
        counted = Counted(hello)
        await counted.call("HEAD")
        assert counted.ended == ("HEAD", UNMATCHED, "201")
        assert counted.lines[0]["response_bytes"] == 0

    async def test_failed_response_keeps_its_status_and_is_a_failure(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 206, "headers": []})
            raise ArithmeticError

        counted = Counted(app, access_sample=0)
        with pytest.raises(ArithmeticError):
            await counted.call()
        assert counted.ended == ("GET", UNMATCHED, "206")
        assert counted.lines[0]["error"] == "ArithmeticError"
        assert counted.outcomes() == {"success": 0, "failure": 1}

    async def test_response_that_fails_after_its_client_left_is_no_failure(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await receive()
            raise ClientDisconnect

        counted = Counted(app)
        with pytest.raises(ClientDisconnect):
            await counted.call(leaves=True)
        assert counted.ended == ("GET", UNMATCHED, "200")
        assert "error" not in counted.lines[0]
        assert counted.outcomes() == {"success": 1, "failure": 0}

    async def test_exception_after_a_complete_response_is_no_failure(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await hello(scope, receive, send)
            raise ArithmeticError  # as a background task may do

        counted = Counted(app)
        with pytest.raises(ArithmeticError):
            await counted.call()
        assert counted.outcomes() == {"success": 1, "failure": 0}

    async def test_client_that_disconnects_before_the_response_is_counted_as_499(self) -> None:
        counted = Counted(echo)
        with pytest.raises(ClientDisconnect):
            await counted.call("POST", body=[b"one", b"two"], leaves=True)
        assert counted.ended == ("POST", UNMATCHED, "499")
        assert counted.value("http_server_request_body_size_bytes_sum") == {("POST", UNMATCHED, "499"): 3}

    async def test_response_to_a_disconnected_client_is_counted_as_499(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await PlainTextResponse("no", 400)(scope, receive, send)

        counted = Counted(app)
        await counted.call("POST", leaves=True)
        assert counted.ended == ("POST", UNMATCHED, "499")

    async def test_client_that_disconnects_during_the_response_keeps_its_status(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await receive()

        counted = Counted(app)
        await counted.call(leaves=True)
        assert counted.ended == ("GET", UNMATCHED, "200")

    async def test_cancelled_request_is_counted_as_499(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.Event().wait()

        counted = Counted(app)
        running = asyncio.create_task(counted.call())
        while not counted.metrics.active:  # noqa: ASYNC110 - it is the application that changes
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert counted.ended == ("GET", UNMATCHED, "499")
        assert counted.active == {"GET": 0}


class TestOutcomes:
    """The counts behind the availability objective."""

    @pytest.mark.parametrize("openmetrics", [False, True])
    def test_outcomes_start_at_zero_and_only_5xx_are_failures(self, openmetrics: bool) -> None:
        counted = Counted(hello)
        assert counted.outcomes(openmetrics) == {"success": 0, "failure": 0}
        for status in (500, 503, 599, 200, 404, 499):
            counted.metrics.end(counted.metrics.begin("GET"), "/", status, 0.1, 0, 0, None)
        assert counted.outcomes(openmetrics) == {"success": 3, "failure": 3}


class TestDeferredCounting:
    """Requests are counted in batches, which a scrape does not show."""

    def test_every_scrape_includes_all_ended_requests(self) -> None:
        metrics, ended = HttpMetrics(), 20 * COUNTED_AT_ONCE + 7
        told: list[int] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                told.append(count(metrics))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(1, ended + 1):
            metrics.end(metrics.begin("GET"), "/", 200, 0.01, 0, 5, None)
            if number % 50 == 0:
                assert count(metrics) == number
        stop.set()
        for thread in threads:
            thread.join()
        assert count(metrics) == ended
        assert max(told) <= ended

    def test_exemplar_has_the_time_at_which_the_request_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        metrics, clock = HttpMetrics(), Mock(return_value=1000.25)
        monkeypatch.setattr(http_metrics, "time", clock)
        metrics.end(metrics.begin("GET"), "/", 200, 0.01, 0, 5, "1" * 32)
        clock.return_value = 2000.0
        assert f'# {{trace_id="{"1" * 32}"}} 0.01 1000.250' in metrics.render(openmetrics=True)

    async def test_number_of_uncounted_requests_is_bounded(self) -> None:
        metrics = HttpMetrics()
        for _ in range(5 * COUNTED_AT_ONCE):
            metrics.end(metrics.begin("GET"), "/", 200, 0.01, 0, 5, None)
            assert len(metrics._ended) < COUNTED_AT_ONCE


def count(metrics: HttpMetrics) -> int:
    (line,) = [line for line in metrics.render(openmetrics=False).splitlines() if line.startswith(COUNT)] or [" 0"]
    return int(line.rpartition(" ")[2])


class TestExpositionFormat:
    @pytest.mark.parametrize("family", _FAMILIES, ids=lambda family: family.name)
    @given(values=st.lists(st.one_of(st.floats(0, 1e7), st.sampled_from([0.005, 1, 2.5, 1024, 4_194_304]))))
    def test_histograms_equal_those_of_the_prometheus_client(self, family: Any, values: list[float]) -> None:
        metrics, registry = HttpMetrics(), CollectorRegistry()
        names = ("http_request_method", "http_route", "http_response_status_code")
        theirs = Histogram(family.name, family.help, names, buckets=family.bounds, registry=registry)
        child, ours = theirs.labels("GET", "/a", "200"), metrics.histograms("GET", "/a", 200)[_FAMILIES.index(family)]
        for value in values:
            child.observe(value)
            ours.observe(value)
        expected = {(s.name, frozenset(s.labels.items())): s.value for m in registry.collect() for s in m.samples}
        shown = {
            (s.name, frozenset(s.labels.items())): s.value
            for m in plain_families(metrics.render(openmetrics=False))
            if m.name == family.name
            for s in m.samples
        }
        assert shown == expected

    def test_special_characters_of_a_route_are_escaped(self) -> None:
        metrics = HttpMetrics()
        route = 'a"b\\c\nd'
        metrics.histograms("GET", route, 200)[0].observe(1)
        for parse, openmetrics in (plain_families, False), (openmetrics_families, True):
            text = metrics.render(openmetrics) + ("# EOF\n" if openmetrics else "")
            assert {s.labels["http_route"] for m in parse(text) for s in m.samples if "le" in s.labels} == {route}

    @pytest.mark.parametrize("fails", [False, True])
    async def test_bucket_of_a_sampled_request_has_an_exemplar(
        self, monkeypatch: pytest.MonkeyPatch, fails: bool
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if fails:
                raise ArithmeticError
            await hello(scope, receive, send)

        ids = self.traced(monkeypatch, ALWAYS_ON)
        monkeypatch.setattr(middleware, "perf_counter", lambda: 1.0)  # so that both are in one bucket
        counted = Counted(app)
        for _ in range(2):
            with pytest.raises(ArithmeticError) if fails else nullcontext():
                await counted.call()
        found = [sample for sample in counted.samples(openmetrics=True) if sample.exemplar is not None]
        assert [sample.exemplar.labels for sample in found if sample.exemplar] == [{"trace_id": ids[-1]}]
        assert found[0].name == "http_server_request_duration_seconds_bucket"
        assert "trace_id" not in counted.metrics.render(openmetrics=False)

    async def test_bucket_of_an_unsampled_request_has_no_exemplar(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ids = self.traced(monkeypatch, ALWAYS_OFF)
        counted = Counted(hello)
        await counted.call()
        assert len(ids) == 1
        assert not [sample for sample in counted.samples(openmetrics=True) if sample.exemplar is not None]

    @staticmethod
    def traced(monkeypatch: pytest.MonkeyPatch, sampler: Sampler) -> list[str]:
        """Make each request begin a trace. The list gets the trace ids."""
        tracer, ids = TracerProvider(sampler).get_tracer("test"), list[str]()

        def begin(*request: Any, trusted: bool) -> RequestTrace:
            span = tracer.start_span("request")
            ids.append(format_trace_id(span.get_span_context().trace_id))
            return RequestTrace(span, Context(), b"")

        monkeypatch.setattr(middleware, "begin_request", begin)
        monkeypatch.setattr(middleware, "end_request", lambda span, *request, **answer: span.end())
        return ids


async def test_middleware_adds_only_the_request_id_header_to_the_messages() -> None:
    messages: list[Message] = [
        {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]},
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"", "more_body": False},
        {"type": "http.response.trailers", "headers": []},
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send({**message})

    start, *rest = await Counted(app).call()
    (own, (added, _)) = start.pop("headers")
    assert (own, added) == ((b"a", b"b"), b"x-request-id")
    assert [start, *rest] == [{"type": "http.response.start", "status": 200}, *messages[1:]]
