"""One trace, from the request over its statements and its job to the log lines and the error body."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import redis.asyncio
from fastapi import APIRouter

from notes.config import Settings
from notes.main import create_app
from plinth.jobs.engine.worker import Worker
from plinth.telemetry import tracing
from plinth.testing import problem
from tests.support.api import client_of, signed_in
from tests.support.collector import Collector, Recorded
from tests.support.logs import logging_as
from tests.support.notes import note, settings_with
from tests.support.processes import plinth

KEY = {"Idempotency-Key": "order-4711"}


pytestmark = pytest.mark.usefixtures("fresh_tracing")


@pytest.fixture
def settings(database_url: str, redis_url: str, collector: Collector) -> Settings:
    return settings_with(
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        RATE_LIMIT="600/minute",
        JOBS_POLL_INTERVAL=0.05,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_TRACES_SAMPLER_ARG=1,
        OTEL_BSP_SCHEDULE_DELAY=10,
    )


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    service = create_app(settings)
    broken = APIRouter()

    @broken.get("/broken")
    async def fail() -> None:
        raise RuntimeError("hunter2")

    service.include_router(broken, prefix="/api/v1")
    async with client_of(service, headers=signed_in(settings, "alice")) as client:
        yield client


def under(collector: Collector, span: Recorded) -> list[Recorded]:
    return [other for other in collector.spans if other.parent_id == span.span_id]


def statements(collector: Collector, span: Recorded) -> list[Recorded]:
    return [other for other in under(collector, span) if other.attributes.get("db.system.name") == "postgresql"]


class TestRequest:
    async def test_request_has_one_span_for_each_bare_statement(
        self, api: httpx.AsyncClient, collector: Collector
    ) -> None:
        await api.get("/notes")  # the first one also opens a connection
        collector.one("GET /api/v1/notes")
        collector.spans.clear()
        answer = await api.get("/notes")

        request = collector.one("GET /api/v1/notes")
        (query,) = statements(collector, request)
        assert (query.name, query.kind) == ("SELECT note", "CLIENT")
        assert query.attributes["db.system.name"] == "postgresql"
        assert query.attributes["db.operation.name"] == "SELECT"
        assert query.attributes["db.query.text"].startswith("SELECT note.id")
        assert query.attributes["db.namespace"]
        assert "alice" not in repr(query)
        assert answer.headers["traceresponse"][3:35] == request.trace_id

    async def test_request_has_one_span_for_each_session_statement(
        self, api: httpx.AsyncClient, collector: Collector
    ) -> None:
        made = (await api.post("/notes", json=note())).json()
        collector.one("POST /api/v1/notes")
        collector.spans.clear()
        answer = await api.patch(f"/notes/{made['id']}", json={"text": "b"}, headers={"If-Match": '"1"'})
        assert answer.status_code == 200, answer.text

        request = collector.one("PATCH /api/v1/notes/{note_id}")
        names = Counter(span.name for span in statements(collector, request))
        assert names.pop("UPDATE note") == 1
        assert names.pop("SELECT note") == 1
        assert set(names) <= {"BEGIN", "COMMIT"}  # if they took their time

    async def test_request_has_spans_for_its_redis_commands(self, api: httpx.AsyncClient, collector: Collector) -> None:
        await api.get("/notes", headers=signed_in(settings_with(), "somebody-new"))

        request = collector.one("GET /api/v1/notes")
        asked = [span for span in under(collector, request) if span.attributes["db.system.name"] == "redis"]
        assert asked
        assert {span.name for span in asked} <= {"EVALSHA", "EVAL", "SCRIPT LOAD", "TTL", "PTTL", "GET"}
        assert "somebody-new" not in repr(asked)

    async def test_failed_request_names_its_trace_in_body_and_log(
        self, api: httpx.AsyncClient, collector: Collector
    ) -> None:
        with logging_as(LOG_FORMAT="json") as log:
            body = problem(await api.get("/broken"), 500)

        request = collector.one("GET /api/v1/broken")
        assert body["trace_id"] == request.trace_id
        assert request.failed
        assert [line["trace_id"] for line in log.lines("unhandled exception") + log.lines("request")] == [
            request.trace_id
        ] * 2

    async def test_access_log_line_names_the_route_and_not_the_caller(self, api: httpx.AsyncClient) -> None:
        with logging_as(LOG_FORMAT="json") as log:
            await api.get("/notes/00000000-0000-0000-0000-000000000000")

        (line,) = log.lines("request")
        assert line["route"] == "/api/v1/notes/{note_id}"
        assert line["path"].startswith("/api/v1/notes/0000")
        assert len(line["principal"]) == 16
        assert "alice" not in str(line)

    async def test_probe_makes_no_trace(self, api: httpx.AsyncClient, collector: Collector) -> None:
        assert "traceresponse" not in (await api.get("/public/health/ready")).headers
        await api.get("/notes")
        collector.one("GET /api/v1/notes")
        assert not [span for span in collector.spans if "health" in span.name]
        assert len({span.trace_id for span in collector.spans}) == 1

    async def test_cors_allows_trace_headers_to_another_origin(self, database_url: str) -> None:
        origin = "https://app.example"
        service = create_app(settings_with(DATABASE_URL=database_url, BACKEND_CORS_ORIGINS=origin))
        async with client_of(service, headers={"Origin": origin}) as client:
            answer = await client.get("/notes")
            asked = {
                "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": "traceparent, tracestate",
            }
            preflight = await client.options("/notes", headers=asked)
        assert "traceresponse" in answer.headers["access-control-expose-headers"]
        assert preflight.status_code == 200


async def test_a_request_and_its_job_are_one_trace(
    api: httpx.AsyncClient, collector: Collector, settings: Settings
) -> None:
    with logging_as(LOG_FORMAT="json") as log:
        made = await api.post("/digests", headers=KEY)
        assert made.status_code == 202, made.text
        worker = Worker(settings)
        running = asyncio.create_task(worker.run())
        try:
            run = await asyncio.to_thread(collector.one, "job notes.digest")
        finally:
            worker.stop()
            await running

    request, enqueued = collector.one("POST /api/v1/digests"), collector.one("enqueue notes.digest")
    assert {request.trace_id, enqueued.trace_id, run.trace_id} == {made.headers["traceresponse"][3:35]}
    assert (enqueued.parent_id, run.parent_id) == (request.span_id, enqueued.span_id)
    assert [span.name for span in under(collector, enqueued) if span.kind == "CLIENT"] == ["INSERT job"]
    assert {span.name for span in under(collector, run)} >= {"SELECT note", "INSERT note"}
    for line in log.lines("request") + log.lines("job"):
        if line.get("kind", "notes.digest") == "notes.digest":
            assert line["trace_id"] == request.trace_id, line


@pytest.mark.parametrize(("networks", "continued"), [("", False), ("203.0.113.0/24", True), ("192.0.2.0/24", False)])
async def test_trace_of_a_caller_goes_on_with_its_job_where_the_setting_names_it(
    settings: Settings, collector: Collector, networks: str, continued: bool
) -> None:
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    named = settings_with(**settings.model_dump(exclude_unset=True) | {"TRACEPARENT_ALLOW_IPS": networks})
    async with client_of(create_app(named), headers=signed_in(named)) as client:
        await client.post("/digests", headers={"traceparent": f"00-{trace_id}-{span_id}-01"})

    request, enqueued = collector.one("POST /api/v1/digests"), collector.one("enqueue notes.digest")
    assert enqueued.trace_id == request.trace_id
    assert (request.trace_id == trace_id, request.parent_id == span_id) == (continued, continued)
    assert request.links == ([] if continued else [(trace_id, span_id)])


async def test_nothing_is_traced_while_tracing_is_off(settings: Settings, collector: Collector, redis_url: str) -> None:
    off: Any = settings.model_copy(update={"OTEL_SDK_DISABLED": True})
    async with client_of(create_app(off), headers=signed_in(off)) as client:
        assert "traceresponse" not in (await client.get("/notes")).headers
        assert not tracing.is_on()
    async with redis.asyncio.Redis.from_url(redis_url) as plain:
        await plain.ping()
    assert collector.requests == 0


def test_worker_exports_its_last_spans_before_it_ends(
    tmp_path: Path, database_url: str, redis_url: str, collector: Collector
) -> None:
    environment = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
        "OTEL_TRACES_SAMPLER": "always_on",
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=worker-1",
    }
    with plinth(tmp_path, "worker", **environment) as worker:
        worker.heard("traces")
        asyncio.run(_enqueue_purge(database_url))
        line = worker.heard("job")
        worker.process.terminate()
        code, _ = worker.end()
    assert code == 0
    span = collector.one("job notes.purge")
    assert span.trace_id == line["trace_id"]
    assert (span.resource["service.name"], span.resource["k8s.pod.name"]) == ("plinth-worker", "worker-1")


async def _enqueue_purge(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "INSERT INTO job (id, kind, queue, priority, payload, max_attempts, run_at, state) "
        "VALUES (gen_random_uuid(), 'notes.purge', 'default', 0, '{}', 1, now(), 'available')"
    )
    await connection.close()
