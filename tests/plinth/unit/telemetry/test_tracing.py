"""Traces of requests and jobs: sampling, export, and failures of the collector."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from plinth.database.observed_connection import describe
from plinth.errors import NotFoundError
from plinth.http.error_handlers import install_exception_handlers
from plinth.http.request_context import RequestContextMiddleware
from plinth.http.unhandled_errors import UnhandledErrorMiddleware
from plinth.telemetry import span_exporter, trace_setup, tracer_provider, tracing
from plinth.telemetry.span_exporter import MAX_REASON, BoundedSpanProcessor
from plinth.telemetry.tracer_provider import build_tracer_provider
from plinth.testing import problem
from tests.support.collector import PATIENCE, Collector, Recorded, collecting
from tests.support.logs import Stderr, logging_as
from tests.support.notes import PACKAGES, settings_with

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


@pytest.fixture
def log() -> Iterator[Stderr]:
    with logging_as(LOG_FORMAT="json") as log:
        yield log


pytestmark = pytest.mark.usefixtures("fresh_tracing")


def given(traceparent: str, tracestate: str) -> dict[bytes, str]:
    return {b"traceparent": traceparent, b"tracestate": tracestate}


def traced(url: str, **values: Any) -> Any:
    """Settings that record every trace and export it at once."""
    defaults = {"OTEL_TRACES_SAMPLER_ARG": 1, "OTEL_BSP_SCHEDULE_DELAY": 10}
    return settings_with(OTEL_EXPORTER_OTLP_ENDPOINT=url, **{**defaults, **values})


def provider_for(settings: Any, collector: Collector) -> tuple[TracerProvider, BoundedSpanProcessor]:
    return build_tracer_provider(settings, f"{collector.url}/v1/traces", "api")


def service(*trusted: str) -> ASGIApp:
    """An application with a route, a handled and an unhandled error, and middleware, that trusts these callers."""
    app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})
    router = APIRouter()

    @router.get("/things/{name}")
    async def thing(name: str) -> str | None:
        if name == "missing":
            raise NotFoundError("There is no such thing.")
        if name == "broken":
            raise RuntimeError("hunter2")
        return tracing.current_trace_id()

    app.include_router(router, prefix="/api")
    install_exception_handlers(app)
    app.add_middleware(UnhandledErrorMiddleware)
    app.add_middleware(RequestContextMiddleware, quiet_paths=frozenset({"/health"}), trace_callers=trusted or ("*",))
    return app


async def ask(app: ASGIApp, path: str = "/api/things/1", method: str = "GET", **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, client=("203.0.113.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
        return await client.request(method, path, **options)


class TestTraceparent:
    """Without tracing, the traceparent of a trusted caller is adopted if it is valid."""

    @pytest.mark.parametrize(
        "value",
        [
            SAMPLED,
            UNSAMPLED,
            f"00-{TRACE}-{SPAN}-ff",
            f"01-{TRACE}-{SPAN}-01",
            f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like",
        ],
    )
    async def test_valid_traceparent_is_in_answers_problems_and_log_lines(self, log: Stderr, value: str) -> None:
        app = service()
        good = await ask(app, headers={"traceparent": value})
        bad = await ask(app, "/api/things/missing", headers={"traceparent": value})

        assert good.json() == TRACE
        assert problem(bad, 404)["trace_id"] == TRACE
        assert good.headers["traceresponse"] == bad.headers["traceresponse"] == f"00-{TRACE}-{SPAN}-00"
        assert [(line["trace_id"], line["span_id"]) for line in log.lines("request")] == [(TRACE, SPAN)] * 2

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "00",
            f"00-{TRACE}-{SPAN}",
            f"00-{TRACE}-{SPAN}-1",
            f"00-{TRACE}-{SPAN}-01-",
            f"00-{TRACE}-{SPAN}-01-more",
            f" 00-{TRACE}-{SPAN}-0g",
            f"00-{TRACE.upper()}-{SPAN}-01",
            f"00-{TRACE}-{SPAN.upper()}-01",
            f"ff-{TRACE}-{SPAN}-01",
            f"00-{'0' * 32}-{SPAN}-01",
            f"00-{TRACE}-{'0' * 16}-01",
            f"00-{TRACE[1:]}-{SPAN}-01",
            f"00-{TRACE}0-{SPAN}-01",
            f"0-{TRACE}-{SPAN}-01",
            f"01-{TRACE}-{SPAN}-01more",
            f"00_{TRACE}_{SPAN}_01",
            f"00-{TRACE}-{SPAN}-01\n",
            f"00-{TRACE}-{SPAN}-01" * 100,
            "00-\xb2" + TRACE[1:] + f"-{SPAN}-01",
        ],
    )
    async def test_invalid_traceparent_is_ignored(self, log: Stderr, value: str) -> None:
        answer = await ask(service(), "/api/things/missing", headers=[(b"traceparent", value.encode("latin-1"))])

        assert "trace_id" not in problem(answer, 404)
        assert "traceresponse" not in answer.headers
        assert "trace_id" not in log.lines("request")[0]

    async def test_malformed_tracestate_is_ignored(self, log: Stderr) -> None:
        states = ["forged line", "a=1,a=2", ",".join(f"k{n}=1" for n in range(40)), "=", "a=b=c"]
        for state in states:
            answer = await ask(service(), headers={"traceparent": UNSAMPLED, "tracestate": state})
            assert answer.json() == TRACE
        assert not any(state in log.getvalue() for state in states)
        assert {line["level"] for line in log.lines()} == {"info"}

    async def test_two_traceparents_are_ignored(self) -> None:
        answer = await ask(service(), headers=[("traceparent", SAMPLED), ("traceparent", SAMPLED)])
        assert answer.json() is None

    async def test_traceparent_belongs_to_its_request_alone(self) -> None:
        app = service()
        answers = await asyncio.gather(
            *(ask(app, headers={"traceparent": f"00-{n:032x}-{SPAN}-01"} if n else {}) for n in range(20))
        )
        assert [answer.json() for answer in answers] == [f"{n:032x}" if n else None for n in range(20)]
        assert tracing.current_trace_id() is None


class TestTracingOff:
    def test_without_an_endpoint_the_sdk_is_not_imported(self, tmp_path: Path) -> None:
        script = (
            "import sys, plinth.jobs.engine.worker; from notes.main import Settings, create_app\n"
            "create_app(Settings()); print(*sys.modules)"
        )
        environment = {**os.environ, "PYTHONPATH": PACKAGES, "OTEL_TRACES_SAMPLER": "always_on"}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        modules = done.stdout.split()
        assert "plinth.telemetry.tracing" in modules
        unwanted = r"opentelemetry\.(sdk\.trace|exporter|proto)|plinth\.telemetry\.(span_exporter|tracer_provider)"
        assert not [module for module in modules if re.match(unwanted, module)]

    @pytest.mark.parametrize("how", [{"OTEL_SDK_DISABLED": True}, {"OTEL_TRACES_EXPORTER": "none"}])
    async def test_tracing_can_be_switched_off_despite_an_endpoint(
        self, collector: Collector, how: dict[str, Any]
    ) -> None:
        async with trace_setup.running(traced(collector.url, **how), "api"):
            assert not tracing.is_on()
            assert "traceresponse" not in (await ask(service())).headers

    async def test_spans_of_a_process_without_tracing_record_nothing(self) -> None:
        with tracing.client_span("a", {}) as span, tracing.enqueue_span("kind", "queue", 1) as carrier:
            assert not span.is_recording()
        assert carrier is None
        assert tracing.begin_job("kind", None, queue="default", job_id=uuid4(), attempt=1, run=1) is None


class TestRequest:
    @pytest.fixture
    async def app(self, collector: Collector) -> AsyncIterator[ASGIApp]:
        async with trace_setup.running(traced(collector.url), "api"):
            yield service()

    async def test_request_is_a_span_with_its_route(self, app: ASGIApp, collector: Collector) -> None:
        answer = await ask(app, "/api/things/7?secret=1", headers={"User-Agent": "a" * 999})

        span = collector.one("GET /api/things/{name}")
        assert span.kind == "SERVER"
        assert span.parent_id == ""
        assert not span.failed
        assert span.attributes == {
            "http.request.method": "GET",
            "http.route": "/api/things/{name}",
            "http.response.status_code": 200,
            "url.path": "/api/things/7",
            "url.scheme": "http",
            "client.address": "203.0.113.7",
            "user_agent.original": "a" * 256,
        }
        assert answer.json() == span.trace_id
        assert re.fullmatch(f"00-{span.trace_id}-{span.span_id}-0[13]", answer.headers["traceresponse"])

    async def test_request_s_trace_is_on_its_lines_and_in_its_problem(
        self, app: ASGIApp, collector: Collector, log: Stderr
    ) -> None:
        body = problem(await ask(app, "/api/things/broken"), 500)

        span = collector.one("GET /api/things/{name}")
        assert span.failed
        assert span.attributes["error.type"] == "500"
        assert "hunter2" not in repr(span)
        assert body["trace_id"] == span.trace_id
        lines = log.lines("unhandled exception") + log.lines("request")
        assert [(line["trace_id"], line["span_id"]) for line in lines] == [(span.trace_id, span.span_id)] * 2
        assert lines[1]["route"] == "/api/things/{name}"

    @pytest.mark.parametrize(
        ("method", "path", "name", "status", "failed"),
        [
            ("GET", "/api/things/missing", "GET /api/things/{name}", 404, False),
            ("DELETE", "/api/things/1", "DELETE /api/things/{name}", 405, False),
            ("GET", "/nowhere", "GET", 404, False),
            ("BREW", "/nowhere", "HTTP", 404, False),
        ],
    )
    async def test_failed_request_s_span_is_named_after_method_and_route(
        self, app: ASGIApp, collector: Collector, method: str, path: str, name: str, status: int, failed: bool
    ) -> None:
        await ask(app, path, method)

        span = collector.one(name)
        assert span.attributes["http.response.status_code"] == status
        assert span.attributes["http.request.method"] == ("_OTHER" if method == "BREW" else method)
        assert span.attributes.get("http.request.method_original") == ("BREW" if method == "BREW" else None)
        assert span.failed is failed

    async def test_request_without_an_answer_has_a_failed_span(self, collector: Collector, app: ASGIApp) -> None:
        async def cut_off(scope: Scope, receive: Receive, send: Send) -> None:
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await ask(RequestContextMiddleware(cut_off))

        span = collector.one("GET")
        assert span.failed
        assert span.attributes["error.type"] == "CancelledError"
        assert "http.response.status_code" not in span.attributes

    async def test_request_continues_its_caller_s_trace(self, app: ASGIApp, collector: Collector) -> None:
        await ask(app, headers=[("traceparent", SAMPLED), ("tracestate", "a=1"), ("tracestate", "b=2")])

        span = collector.one("GET /api/things/{name}")
        assert (span.trace_id, span.parent_id) == (TRACE, SPAN)

    async def test_request_of_an_unsampled_trace_is_not_recorded_but_has_its_id(
        self, app: ASGIApp, collector: Collector, log: Stderr
    ) -> None:
        answer = await ask(app, "/api/things/1", headers={"traceparent": UNSAMPLED})
        await ask(app, "/nowhere")  # which is recorded

        collector.one("GET")
        assert [span.name for span in collector.spans] == ["GET"]
        assert answer.json() == TRACE
        assert re.fullmatch(f"00-{TRACE}-(?!{SPAN})[0-9a-f]{{16}}-0[02]", answer.headers["traceresponse"])
        assert log.lines("request")[0]["trace_id"] == TRACE

    async def test_probe_has_no_trace(self, app: ASGIApp, collector: Collector) -> None:
        assert "traceresponse" not in (await ask(app, "/health")).headers
        await ask(app)
        collector.one("GET /api/things/{name}")
        assert len(collector.spans) == 1

    async def test_caller_s_text_in_a_span_is_bounded(self, app: ASGIApp, collector: Collector) -> None:
        await ask(app, "/" + 2 * tracing.MAX_PATH * "a", headers={"User-Agent": 2 * tracing.MAX_USER_AGENT * "a"})
        attributes = collector.one("GET").attributes
        assert attributes["url.path"] == "/" + (tracing.MAX_PATH - 1) * "a"
        assert max(len(str(value)) for value in attributes.values()) == tracing.MAX_PATH

    async def test_secret_in_a_path_is_masked_in_its_span(self, app: ASGIApp, collector: Collector) -> None:
        await ask(app, f"/keys/plk_{32 * 'a'}_{48 * 'b'}")
        assert collector.one("GET").attributes["url.path"] == f"/keys/plk_{32 * 'a'}_********"

    async def test_recorded_request_is_logged_whatever_the_sample(self, log: Stderr, app: ASGIApp) -> None:
        async def hello(scope: Scope, receive: Receive, send: Send) -> None:
            await Response("hello")(scope, receive, send)

        quiet = RequestContextMiddleware(hello, access_sample=0, trace_callers=("*",))
        await ask(quiet)
        await ask(quiet, headers={"traceparent": UNSAMPLED})
        assert len(log.lines("request")) == 1


class TestStrangers:
    """The traceparent of a caller that is not trusted decides nothing."""

    @pytest.mark.parametrize("ratio", [0, 1])
    @pytest.mark.parametrize("theirs", [SAMPLED, UNSAMPLED])
    async def test_stranger_s_trace_begins_here_as_the_ratio_says(
        self, collector: Collector, log: Stderr, theirs: str, ratio: int
    ) -> None:
        async with trace_setup.running(traced(collector.url, OTEL_TRACES_SAMPLER_ARG=ratio), "api"):
            answer = await ask(service("192.0.2.1"), headers={"traceparent": theirs, "tracestate": "a=1"})

        assert answer.json() not in (None, TRACE)
        assert answer.headers["traceresponse"][3:35] == log.lines("request")[0]["trace_id"] == answer.json()
        assert int(answer.headers["traceresponse"][-2:], 16) & 1 == ratio
        assert len(collector.spans) == ratio
        for span in collector.spans:
            assert (span.trace_id, span.parent_id, span.tracestate) == (answer.json(), "", "")
            assert span.links == [(TRACE, SPAN)]

    @pytest.mark.parametrize("sampler", ["traceidratio", "parentbased_always_off", "always_off"])
    async def test_stranger_s_trace_id_does_not_decide_what_is_recorded(
        self, collector: Collector, sampler: str
    ) -> None:
        settings = traced(collector.url, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=1e-9)
        async with trace_setup.running(settings, "api"):
            await ask(service("192.0.2.1"), headers={"traceparent": f"00-{1:032x}-{SPAN}-01"})
        assert collector.spans == []

    async def test_stranger_s_flag_forces_no_access_line(self, collector: Collector, log: Stderr) -> None:
        async def hello(scope: Scope, receive: Receive, send: Send) -> None:
            await Response("hello")(scope, receive, send)

        async with trace_setup.running(traced(collector.url, OTEL_TRACES_SAMPLER_ARG=0), "api"):
            for trusted in ("192.0.2.1", "203.0.113.7"):
                app = RequestContextMiddleware(hello, access_sample=0, trace_callers=(trusted,))
                await ask(app, f"/{trusted}", headers={"traceparent": SAMPLED})
        assert [line["path"] for line in log.lines("request")] == ["/203.0.113.7"]

    async def test_stranger_s_trace_id_is_nowhere_while_tracing_is_off(self, log: Stderr) -> None:
        answer = await ask(service("192.0.2.1"), "/api/things/missing", headers={"traceparent": SAMPLED})

        assert "trace_id" not in problem(answer, 404)
        assert "traceresponse" not in answer.headers
        assert TRACE not in log.getvalue()

    async def test_malformed_traceparent_of_a_stranger_is_no_link(self, collector: Collector) -> None:
        async with trace_setup.running(traced(collector.url), "api"):
            await ask(service("192.0.2.1"), headers={"traceparent": f"00-{TRACE}-{'0' * 16}-01"})
        assert collector.one("GET /api/things/{name}").links == []

    @pytest.mark.parametrize(
        ("networks", "client", "forwarded", "continued"),
        [
            ((), "203.0.113.7", None, False),
            (("203.0.113.0/24",), "203.0.113.7", None, True),
            (("203.0.113.7/32",), "::ffff:203.0.113.7", None, True),
            (("203.0.113.8/32", "2001:db8::/32"), "2001:db8::1%eth0", None, True),
            (("2001:db8::/32",), "203.0.113.7", None, False),
            (("0.0.0.0/0", "::/0"), "testclient", None, False),
            (("*",), "testclient", None, True),
            # Behind a proxy, whose word on the client's address is taken: the proxy itself is no caller.
            (("10.0.0.0/8",), "10.0.0.1", "203.0.113.7", False),
            (("10.0.0.0/8",), "10.0.0.1", "10.9.9.9, 203.0.113.7", False),
            (("10.0.0.0/8",), "10.0.0.1", "10.9.9.9", True),
            (("10.0.0.0/8",), "10.5.5.5", None, True),
            (("10.0.0.0/8",), "203.0.113.7", "10.9.9.9", False),
        ],
    )
    async def test_trace_of_a_caller_within_the_networks_is_continued(
        self, networks: tuple[str, ...], client: str, forwarded: str | None, continued: bool
    ) -> None:
        seen = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(tracing.current_trace_id())
            await Response("hello")(scope, receive, send)

        behind: Any = ProxyHeadersMiddleware(
            RequestContextMiddleware(app, trace_callers=networks),  # type: ignore[arg-type]
            trusted_hosts="10.0.0.1",
        )
        transport = httpx.ASGITransport(behind, client=(client, 4711))
        headers = {"traceparent": SAMPLED} | ({"X-Forwarded-For": forwarded} if forwarded else {})
        async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as asking:
            await asking.get("/", headers=headers)
        assert seen == [TRACE if continued else None]


class TestSampler:
    @pytest.mark.parametrize(
        ("sampler", "ratio", "nobody", "sampled", "unsampled"),
        [
            ("parentbased_traceidratio", 1, True, True, False),
            ("parentbased_traceidratio", 0, False, True, False),
            ("parentbased_always_on", 0, True, True, False),
            ("parentbased_always_off", 1, False, True, False),
            ("traceidratio", 0, False, False, False),
            ("always_on", 0, True, True, True),
            ("always_off", 1, False, False, False),
        ],
    )
    async def test_sampler_decides_by_its_name_ratio_and_the_caller(
        self, collector: Collector, sampler: str, ratio: float, nobody: bool, sampled: bool, unsampled: bool
    ) -> None:
        settings = traced(collector.url, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=ratio)
        async with trace_setup.running(settings, "api"):
            flags = [
                int((await ask(service(), headers=headers)).headers["traceresponse"][-2:], 16) & 1
                for headers in ({}, {"traceparent": SAMPLED}, {"traceparent": UNSAMPLED})
            ]
        assert flags == [nobody, sampled, unsampled]
        assert len(collector.spans) == sum(flags)

    async def test_sampler_records_about_the_configured_share(self, collector: Collector) -> None:
        provider, _ = provider_for(traced(collector.url, OTEL_TRACES_SAMPLER_ARG=0.1), collector)
        tracer = provider.get_tracer("test")
        recorded = sum(
            tracer.start_span("a", trace.set_span_in_context(trace.INVALID_SPAN)).is_recording() for _ in range(5000)
        )
        provider.shutdown()
        assert 350 < recorded < 650  # ten standard deviations around 500 are 288 to 712

    async def test_ratio_sampler_decides_by_the_trace_id(self, collector: Collector) -> None:
        middleware = service()
        async with trace_setup.running(traced(collector.url, OTEL_TRACES_SAMPLER_ARG=0.5), "api"):
            answers = [(await ask(middleware)).headers["traceresponse"].split("-") for _ in range(100)]
        recorded = {trace_id for _, trace_id, _, flags in answers if int(flags, 16) & 1}
        assert recorded == {trace_id for _, trace_id, _, _ in answers if int(trace_id[16:], 16) < 2**63}
        assert {span.trace_id for span in collector.spans} == recorded
        assert 0 < len(recorded) < 100


class TestExport:
    async def test_exported_resource_has_the_names_of_service_and_pod(self, collector: Collector) -> None:
        settings = traced(
            collector.url,
            PROJECT_NAME="My Shop & Co",
            OTEL_RESOURCE_ATTRIBUTES="k8s.pod.name=api-1, deployment.environment.name=a%20b,service.version=7",
            OTEL_EXPORTER_OTLP_HEADERS="x-api-key=the%20key,x-other=1",
        )
        async with trace_setup.running(settings, "worker"):
            await ask(service())

        resource = collector.one("GET /api/things/{name}").resource
        assert resource["service.name"] == "my-shop-co-worker"
        assert resource["k8s.pod.name"] == "api-1"
        assert resource["deployment.environment.name"] == "a b"
        assert resource["service.version"] == "7"
        assert collector.headers[0]["x-api-key"] == "the key"
        assert collector.headers[0]["content-type"] == "application/x-protobuf"

    async def test_service_name_and_headers_can_be_configured(self, collector: Collector) -> None:
        settings = traced(
            "http://127.0.0.1:1",
            OTEL_SERVICE_NAME="shop",
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces",
            OTEL_EXPORTER_OTLP_HEADERS="x-api-key=general",
            OTEL_EXPORTER_OTLP_TRACES_HEADERS="x-api-key=special",
        )
        async with trace_setup.running(settings, "api"):
            await ask(service())

        assert collector.one("GET /api/things/{name}").resource["service.name"] == "shop"
        assert collector.headers[0]["x-api-key"] == "special"

    async def test_last_spans_are_exported_at_shutdown(self, collector: Collector) -> None:
        async with trace_setup.running(traced(collector.url, OTEL_BSP_SCHEDULE_DELAY=600_000), "api"):
            for _ in range(3):
                await ask(service())
        assert len(collector.spans) == 3

    async def test_nested_tracing_does_nothing(self, collector: Collector) -> None:
        async with trace_setup.running(traced(collector.url), "api"):
            async with trace_setup.running(traced("http://127.0.0.1:1"), "worker"):
                await ask(service())
            await ask(service(), "/nowhere")
        assert {span.name for span in collector.spans} == {"GET /api/things/{name}", "GET"}
        assert not tracing.is_on()


class TestCollectorFailures:
    """A failing collector costs one log line a minute and one full queue."""

    LIMIT = 8

    @asynccontextmanager
    async def running(self, url: str, monkeypatch: pytest.MonkeyPatch, flush: float = 0.05) -> AsyncIterator[ASGIApp]:
        monkeypatch.setattr(trace_setup, "FLUSH_SECONDS", flush)
        settings = traced(url, OTEL_BSP_MAX_QUEUE_SIZE=self.LIMIT, OTEL_BSP_MAX_EXPORT_BATCH_SIZE=2)
        async with trace_setup.running(settings, "api"):
            yield service()

    @staticmethod
    def dropped() -> float:
        return float(tracing.SPANS_DROPPED._value.get())

    async def test_hanging_collector_keeps_no_more_than_one_full_queue(
        self, monkeypatch: pytest.MonkeyPatch, log: Stderr
    ) -> None:
        made: list[BoundedSpanProcessor] = []

        def make(*args: Any) -> BoundedSpanProcessor:
            made.append(BoundedSpanProcessor(*args))
            return made[0]

        monkeypatch.setattr(tracer_provider, "BoundedSpanProcessor", make)
        before = self.dropped()
        with collecting("hangs") as collector:
            async with self.running(collector.url, monkeypatch) as app:
                for _ in range(30):
                    assert (await ask(app)).status_code == 200
                assert made[0].pending == self.LIMIT
                assert self.dropped() - before == 30 - self.LIMIT
            assert collector.requests <= 1
        (line,) = log.lines("the last traces were not delivered in time")
        assert line["spans"] == self.LIMIT

    async def test_refusing_collector_is_logged_once_a_minute(
        self, monkeypatch: pytest.MonkeyPatch, log: Stderr
    ) -> None:
        before, clock = self.dropped(), Mock(return_value=1000.0)
        monkeypatch.setattr(span_exporter, "monotonic", clock)
        with collecting("refuses") as collector:
            async with self.running(collector.url, monkeypatch, flush=PATIENCE) as app:
                for minute in range(3):
                    clock.return_value = 1000.0 + 61 * minute
                    for _ in range(3):
                        await ask(app)
                        await self.until(lambda: self.dropped() - before == len(log.lines("request")))
        lines = log.lines("traces cannot be delivered")
        assert len(lines) == 3
        assert {line["level"] for line in lines} == {"warning"}
        assert "400" in lines[0]["reason"]
        assert len(lines[0]["reason"]) == MAX_REASON
        assert lines[0]["endpoint"] == f"{collector.url}/v1/traces"
        # No other logger reports it.
        said = {line["message"] for line in log.lines() if line.get("logger") != "httpx"}  # the test's own client
        assert said == {"traces", "request", "traces cannot be delivered"}
        assert self.dropped() - before == 9
        assert sum(line["spans_dropped"] for line in lines) == 1 + 3 + 3

    async def test_spans_sent_to_a_redirecting_collector_are_dropped(
        self, monkeypatch: pytest.MonkeyPatch, log: Stderr
    ) -> None:
        before = self.dropped()
        with collecting("redirects") as collector:
            async with self.running(collector.url, monkeypatch, flush=PATIENCE) as app:
                await ask(app)
                await self.until(lambda: log.lines("traces cannot be delivered"))
        assert self.dropped() - before == 1
        assert "redirects, with status 308" in log.lines("traces cannot be delivered")[0]["reason"]

    async def test_endless_answer_of_a_collector_is_not_read(
        self, monkeypatch: pytest.MonkeyPatch, log: Stderr
    ) -> None:
        with collecting("floods") as collector:
            async with self.running(collector.url, monkeypatch, flush=PATIENCE) as app:
                for count in range(1, 4):
                    await ask(app)
                    await self.until(lambda: collector.requests == count)  # noqa: B023 - called here
        assert log.lines("the last traces were not delivered in time") == []
        assert collector.flooded < 50_000_000  # what the kernel holds in between

    @staticmethod
    async def until(holds: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():  # noqa: ASYNC110 - a thread changes it
                await asyncio.sleep(0.005)

    async def test_collector_that_is_back_gets_the_next_spans(
        self, monkeypatch: pytest.MonkeyPatch, log: Stderr
    ) -> None:
        with collecting("refuses") as collector:
            async with self.running(collector.url, monkeypatch, flush=PATIENCE) as app:
                await ask(app)
                await self.until(lambda: log.lines("traces cannot be delivered"))
                collector.behaviour = "takes"
                await ask(app, "/nowhere")
            assert [span.name for span in collector.spans] == ["GET"]

    async def test_unreachable_collector_does_not_delay_the_shutdown(
        self, monkeypatch: pytest.MonkeyPatch, log: Stderr
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            url = "http://{}:{}".format(*listening.getsockname())
        async with self.running(url, monkeypatch) as app:
            assert (await ask(app)).status_code == 200
        assert [line["message"] for line in log.lines() if line["level"] != "info"] == [
            "the last traces were not delivered in time"
        ]

    def test_span_ended_after_the_shutdown_is_counted_as_dropped(self, collector: Collector) -> None:
        provider, _ = provider_for(traced(collector.url), collector)
        tracer = provider.get_tracer("test")
        tracer.start_span("in time").end()
        late = tracer.start_span("late")
        provider.shutdown()
        before = self.dropped()
        late.end()
        assert self.dropped() - before == 1
        assert [span.name for span in collector.spans] == ["in time"]

    def test_count_of_spans_is_right_with_many_threads(self, collector: Collector) -> None:
        settings = traced(collector.url, OTEL_BSP_MAX_QUEUE_SIZE=50, OTEL_BSP_MAX_EXPORT_BATCH_SIZE=10)
        provider, processor = provider_for(settings, collector)
        tracer, before = provider.get_tracer("test"), self.dropped()

        def work() -> None:
            for _ in range(200):
                tracer.start_span("a").end()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        provider.shutdown()
        assert processor.pending == 0
        assert len(collector.spans) + self.dropped() - before == 800


class TestRecordedCalls:
    """A call recorded after its end gives the same span as a span around it."""

    async def test_recorded_call_is_like_a_span_around_it(self, collector: Collector) -> None:
        async with trace_setup.running(traced(collector.url, OTEL_BSP_SCHEDULE_DELAY=60_000), "api"):
            scope, headers = {"type": "http", "method": "GET", "path": "/", "headers": []}, given(SAMPLED, "a=1")
            request = tracing.begin_request(scope, headers, trusted=True)
            assert request is not None
            with trace.use_span(request.span), tracing.client_span("begun", {"a": 1, "b": "c"}):
                pass
            with trace.use_span(request.span):
                tracing.record_call("noted", {"a": 1, "b": "c"}, seconds=0)
            request.span.end()

        begun, noted = collector.one("begun"), collector.one("noted")
        assert replace(noted, name="begun", span_id=begun.span_id, seconds=begun.seconds) == begun
        assert begun.tracestate == "a=1"

    async def test_recorded_call_has_its_duration_and_type_of_error(self, collector: Collector) -> None:
        async with trace_setup.running(traced(collector.url), "api"):
            with trace.get_tracer("test").start_as_current_span("outer"):
                tracing.record_call("noted", {}, seconds=1.5, error=ValueError("hunter2"))

        noted = collector.one("noted")
        assert round(noted.seconds, 6) == 1.5
        assert (noted.failed, noted.attributes) == (True, {"error.type": "ValueError"})

    async def test_call_of_a_closed_coroutine_has_no_span(self, collector: Collector) -> None:
        """Garbage collection may close a coroutine within another request."""
        async with trace_setup.running(traced(collector.url), "api"):
            with trace.get_tracer("test").start_as_current_span("outer"):
                tracing.record_call("noted", {}, seconds=0, error=GeneratorExit())

        assert [span.name for span in collector.spans] == ["outer"]


class TestJobs:
    """The span of a run continues the trace stored with its job."""

    @staticmethod
    async def run(carrier: dict[str, str] | None, *, first: bool) -> str | None:
        async def work() -> str | None:
            # A run that has been snoozed spends no attempt.
            span = tracing.begin_job("mail", carrier, queue="default", job_id=uuid4(), attempt=1, run=1 if first else 2)
            inside = tracing.current_trace_id()
            tracing.end_job(span, outcome="succeeded" if first else "discarded", error=None if first else "ValueError")
            return inside

        return await asyncio.create_task(work())

    @pytest.mark.parametrize(("flags", "ratio"), [("01", 0), ("00", 1)])
    async def test_run_is_recorded_if_its_enqueuing_was(self, collector: Collector, flags: str, ratio: float) -> None:
        carrier = {"traceparent": f"00-{TRACE}-{SPAN}-{flags}", "tracestate": "a=1"}
        async with trace_setup.running(traced(collector.url, OTEL_TRACES_SAMPLER_ARG=ratio), "worker"):
            first, later = await self.run(carrier, first=True), await self.run(carrier, first=False)

        assert first == TRACE
        assert later not in (TRACE, None)
        if flags == "00":
            assert collector.spans == []
            return
        child, root = collector.named("job mail", 2)
        assert (child.trace_id, child.parent_id, child.links) == (TRACE, SPAN, [])
        assert (root.trace_id, root.parent_id, root.links) == (later, "", [(TRACE, SPAN)])
        assert (child.kind, child.failed, root.failed) == ("CONSUMER", False, True)
        assert root.attributes["error.type"] == "ValueError"
        assert root.attributes["plinth.job.outcome"] == "discarded"

    @pytest.mark.parametrize("carrier", [None, {}, {"traceparent": "nonsense"}])
    async def test_run_without_a_stored_trace_begins_one(
        self, collector: Collector, carrier: dict[str, str] | None
    ) -> None:
        async with trace_setup.running(traced(collector.url), "worker"):
            inside = await self.run(carrier, first=True)
        span: Recorded = collector.one("job mail")
        assert (span.trace_id, span.parent_id, span.links) == (inside, "", [])

    async def test_run_has_the_stored_trace_s_id_while_tracing_is_off(self) -> None:
        assert await self.run({"traceparent": SAMPLED}, first=True) == TRACE
        assert tracing.current_trace_id() is None

    async def test_stored_trace_context_names_the_enqueuing_span(self, collector: Collector) -> None:
        async with trace_setup.running(traced(collector.url), "api"):
            with tracing.enqueue_span("mail", "default", 3) as nothing:
                pass
            scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
            for caller in (SAMPLED, UNSAMPLED):
                request = tracing.begin_request(scope, given(caller, "a=1"), trusted=True)
                assert request is not None
                with tracing.enqueue_span("mail", "default", 3, request.context) as stored:
                    assert stored is not None
                    carrier = json.loads(stored)
                assert carrier["tracestate"] == "a=1"
                assert carrier["traceparent"][:35] == f"00-{TRACE}"
                assert int(carrier["traceparent"][-2:], 16) & 1 == (caller == SAMPLED)
                if caller == SAMPLED:
                    recorded = carrier
        assert nothing is None
        producer = collector.one("enqueue mail")
        assert producer.kind == "PRODUCER"
        assert recorded["traceparent"][36:52] == producer.span_id
        assert producer.attributes["messaging.batch.message_count"] == 3


class TestStatement:
    @pytest.mark.parametrize(
        ("statement", "name"),
        [
            ("SELECT item.id FROM item WHERE item.id = $1", "SELECT item"),
            ("\n  select 1", "SELECT"),
            ('INSERT INTO "item" (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET id = $1', "INSERT item"),
            ("UPDATE public.item SET name = $1", "UPDATE public.item"),
            ("DELETE FROM item WHERE id IN (SELECT id FROM other)", "DELETE item"),
            ("WITH a AS (SELECT * FROM unnest($1) FOR UPDATE SKIP LOCKED) DELETE FROM job USING a", "WITH job"),
            ("SELECT * FROM job FOR UPDATE SKIP LOCKED", "SELECT job"),
            ("BEGIN;", "BEGIN"),
            ("SAVEPOINT sa_savepoint_1", "SAVEPOINT"),
            ("", "SQL"),
            (";", "SQL"),
        ],
    )
    def test_statement_s_span_is_named_after_operation_and_table(self, statement: str, name: str) -> None:
        found = describe(statement)
        assert (found.name, found.operation) == (name, name.partition(" ")[0])
