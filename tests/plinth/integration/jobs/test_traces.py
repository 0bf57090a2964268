"""The trace of a job: stored with it, continued by its first run, linked to by later ones."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from opentelemetry import context as otel

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import Discard, JobContext, RetryPolicy, Snooze, enqueue, job
from plinth.jobs.admin.jobs import request_cancel, retry_job
from plinth.jobs.admin.queues import retry_dead_letters
from plinth.jobs.kinds import JobKind
from plinth.telemetry import trace_setup, tracing
from tests.plinth.integration.jobs.conftest import OLGA, Jobs, Number, until, working
from tests.support.collector import Collector
from tests.support.logs import logging_as

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = f"00-{TRACE}-{SPAN}-01"


pytestmark = pytest.mark.usefixtures("fresh_tracing")


@pytest.fixture
async def traced(settings: Settings, collector: Collector) -> AsyncIterator[Settings]:
    """Settings of workers, while tracing is on."""
    changes = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_TRACES_SAMPLER_ARG": 1.0}
    traced = settings.model_copy(update={**changes, "OTEL_BSP_SCHEDULE_DELAY": 10})
    async with trace_setup.running(traced, "worker"):
        yield traced


@pytest.fixture
def noop() -> JobKind[Number]:
    @job("test.noop")
    async def noop(ctx: JobContext, payload: Number) -> None:
        ctx.log.info("at work")

    return noop


async def enqueue_in(database: Database, kind: JobKind[Any], caller: str | None) -> UUID:
    """Enqueue as an endpoint would, for a caller with this `traceparent`; None: outside of any request."""
    request = None
    if caller is not None:
        request = tracing.begin_request(
            {"type": "http", "method": "POST", "path": "/", "headers": []}, {b"traceparent": caller}, trusted=True
        )
    token = otel.attach(otel.Context() if request is None else request.context)
    try:
        async with database.session() as session:
            return (await enqueue(session, kind, Number())).id
    finally:
        otel.detach(token)
        if request is not None:
            request.span.end()


class TestStoredTraceContext:
    async def test_job_enqueued_outside_of_a_trace_stores_no_trace_context(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], traced: Settings
    ) -> None:
        row = await jobs.live(await enqueue_in(database, noop, None))
        assert row["trace_context"] is None

    async def test_trace_context_of_the_caller_is_stored_while_tracing_is_off(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], settings: Settings
    ) -> None:
        job_id = await enqueue_in(database, noop, CALLER)
        assert (await jobs.live(job_id))["trace_context"] == {"traceparent": CALLER}
        with logging_as(LOG_FORMAT="json") as log:
            async with working(settings, noop):
                await jobs.end_of(job_id)
        lines = log.lines("at work") + log.lines("job")
        assert [(line["trace_id"], line["job_id"], line["attempt"]) for line in lines] == [(TRACE, str(job_id), 1)] * 2

    @pytest.mark.parametrize("end", ["cancelled", "succeeded"])
    async def test_trace_context_is_kept_in_the_history(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], settings: Settings, end: str
    ) -> None:
        job_id = await enqueue_in(database, noop, CALLER)
        if end == "cancelled":
            async with database.session() as session:
                await request_cancel(session, job_id)
        else:
            async with working(settings, noop):
                await jobs.end_of(job_id)
        row = await jobs.ended(job_id)
        assert (row["state"], row["trace_context"]) == (end, {"traceparent": CALLER})

    @pytest.mark.parametrize("many", [False, True])
    async def test_trace_context_survives_a_retry_of_a_dead_letter(
        self, database: Database, jobs: Jobs, settings: Settings, many: bool
    ) -> None:
        @job("test.hopeless")
        async def hopeless(ctx: JobContext, payload: Number) -> None:
            raise Discard("no")

        job_id = await enqueue_in(database, hopeless, CALLER)
        async with working(settings, hopeless):
            await jobs.end_of(job_id)
        async with database.session() as session:
            await (retry_dead_letters(session, by=OLGA, kind="test.hopeless") if many else retry_job(session, job_id))
        assert (await jobs.live(job_id))["trace_context"] == {"traceparent": CALLER}


class TestRun:
    async def test_first_run_continues_the_trace_that_enqueued_the_job(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], traced: Settings, collector: Collector
    ) -> None:
        job_id = await enqueue_in(database, noop, CALLER)
        with logging_as(LOG_FORMAT="json") as log:
            async with working(traced, noop):
                await jobs.end_of(job_id)

        run, made = collector.one("job test.noop"), collector.one("enqueue test.noop")
        (request,) = [span for span in collector.spans if span.kind == "SERVER"]
        assert {run.trace_id, made.trace_id, request.trace_id} == {TRACE}
        assert (request.parent_id, made.parent_id, run.parent_id) == (SPAN, request.span_id, made.span_id)
        assert (made.kind, run.kind) == ("PRODUCER", "CONSUMER")
        assert run.attributes == {
            "messaging.system": "plinth",
            "messaging.operation.name": "run",
            "messaging.operation.type": "process",
            "messaging.destination.name": "default",
            "messaging.message.id": str(job_id),
            "plinth.job.kind": "test.noop",
            "plinth.job.attempt": 1,
            "plinth.job.run": 1,
            "plinth.job.outcome": "succeeded",
        }
        for line in log.lines("at work") + log.lines("job"):
            assert (line["trace_id"], line["span_id"]) == (TRACE, run.span_id)

    async def test_job_of_an_unsampled_request_is_not_sampled(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], traced: Settings, collector: Collector
    ) -> None:
        unrecorded = await enqueue_in(database, noop, f"{CALLER[:-1]}0")
        recorded = await enqueue_in(database, noop, CALLER)
        assert (await jobs.live(unrecorded))["trace_context"]["traceparent"].startswith(f"00-{TRACE}")
        with logging_as(LOG_FORMAT="json") as log:
            async with working(traced, noop):
                await jobs.end_of(unrecorded)
                await jobs.end_of(recorded)
        assert collector.one("job test.noop").attributes["messaging.message.id"] == str(recorded)
        assert [line["trace_id"] for line in log.lines("job")] == [TRACE, TRACE]

    async def test_retried_run_starts_a_trace_with_a_link_to_the_enqueue(
        self, database: Database, jobs: Jobs, traced: Settings, collector: Collector
    ) -> None:
        @job("test.flaky", retry=RetryPolicy(max_attempts=3, base=0.01))
        async def flaky(ctx: JobContext, payload: Number) -> None:
            if ctx.attempt < 3:
                raise ValueError("hunter2")

        job_id = await enqueue_in(database, flaky, CALLER)
        async with working(traced, flaky):
            await jobs.end_of(job_id)

        first, *later = sorted(
            collector.named("job test.flaky", 3), key=lambda span: int(span.attributes["plinth.job.attempt"])
        )
        made = collector.one("enqueue test.flaky")
        assert (first.trace_id, first.parent_id, first.links) == (TRACE, made.span_id, [])
        assert [(span.parent_id, span.links) for span in later] == [("", [(TRACE, made.span_id)])] * 2
        assert len({span.trace_id for span in (first, *later)}) == 3
        assert [span.attributes.get("error.type") for span in (first, *later)] == ["ValueError", "ValueError", None]
        assert [span.attributes["plinth.job.outcome"] for span in (first, *later)] == [
            "retryable",
            "retryable",
            "succeeded",
        ]
        assert "hunter2" not in repr(collector.spans)

    @pytest.mark.parametrize("way", ["snoozes", "sleeps"])
    async def test_run_that_goes_on_later_is_a_trace_with_a_link(
        self, database: Database, jobs: Jobs, traced: Settings, collector: Collector, way: str
    ) -> None:
        """It spends no attempt, and may come back for days: one trace would hold thousands of runs."""
        runs = []

        @job("test.patient")
        async def patient(ctx: JobContext, payload: Number) -> None:
            runs.append(ctx.attempt)
            if way == "sleeps":
                await ctx.sleep(0.01)
                await ctx.sleep(0.02)
            elif len(runs) < 3:
                raise Snooze(0.01)

        job_id = await enqueue_in(database, patient, CALLER)
        async with working(traced, patient):
            await jobs.end_of(job_id)

        first, *later = sorted(
            collector.named("job test.patient", 3), key=lambda span: int(span.attributes["plinth.job.run"])
        )
        made = collector.one("enqueue test.patient")
        assert runs == [1, 1, 1]
        assert (first.trace_id, first.parent_id, first.links) == (TRACE, made.span_id, [])
        assert [(span.parent_id, span.links) for span in later] == [("", [(TRACE, made.span_id)])] * 2

    async def test_run_of_a_retried_dead_letter_has_a_link(
        self, database: Database, jobs: Jobs, traced: Settings, collector: Collector
    ) -> None:
        @job("test.hopeless")
        async def hopeless(ctx: JobContext, payload: Number) -> None:
            raise Discard("no")

        job_id = await enqueue_in(database, hopeless, CALLER)
        async with working(traced, hopeless):
            await jobs.end_of(job_id)
            async with database.session() as session:
                await retry_job(session, job_id)
            runs = await asyncio.to_thread(collector.named, "job test.hopeless", 2)
        assert [span.attributes["plinth.job.attempt"] for span in runs] == [1, 1]
        assert sorted(len(span.links) for span in runs) == [0, 1]
        assert {span.attributes["error.type"] for span in runs} == {"discard"}

    @pytest.mark.parametrize("completes", [False, True])
    async def test_follow_up_jobs_continue_the_trace_of_the_run(
        self,
        database: Database,
        jobs: Jobs,
        noop: JobKind[Number],
        traced: Settings,
        collector: Collector,
        completes: bool,
    ) -> None:
        @job("test.parent")
        async def parent(ctx: JobContext, payload: Number) -> None:
            ctx.enqueue(noop, Number())
            if completes:
                async with ctx.session() as session:
                    await ctx.complete(session)

        job_id = await enqueue_in(database, parent, CALLER)
        async with working(traced, parent, noop):
            await jobs.end_of(job_id)
            second = await asyncio.to_thread(collector.one, "job test.noop")
        made, first = collector.one("enqueue test.noop"), collector.one("job test.parent")
        assert (first.trace_id, made.trace_id, second.trace_id) == (TRACE, TRACE, TRACE)
        assert (made.parent_id, second.parent_id) == (first.span_id, made.span_id)

    async def test_handler_s_statements_are_traced_and_the_engine_s_are_not(
        self, jobs: Jobs, traced: Settings, collector: Collector
    ) -> None:
        @job("test.query")
        async def query(ctx: JobContext, payload: Number) -> None:
            async with ctx.database.connection() as connection:
                await connection.fetchval("SELECT count(*) FROM job")

        # Its own database: connections are traced if tracing was on when they were made.
        database = Database(traced)
        job_id = await enqueue_in(database, query, CALLER)
        await database.aclose()
        async with working(traced, query):
            await jobs.end_of(job_id)
            run = await asyncio.to_thread(collector.one, "job test.query")
        under = [span for span in collector.spans if span.parent_id == run.span_id]
        # SQLAlchemy looks a new server over.
        assert [span.name for span in under if span.name not in ("BEGIN", "ROLLBACK")] == ["SELECT job"]
        assert not [span for span in collector.spans if span.trace_id != TRACE]


@pytest.mark.parametrize("baggage", ["5", "{}"])
async def test_baggage_of_a_row_from_elsewhere_that_is_no_text_stops_nothing(
    jobs: Jobs, noop: JobKind[Number], settings: Settings, baggage: str
) -> None:
    reading = settings.model_copy(update={"OTEL_PROPAGATORS": ("tracecontext", "baggage")})
    row = await jobs.one(
        "INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state, trace_context) VALUES "
        "('test.noop', 'default', 0, '{}', 1, now(), 'available', $1::jsonb) RETURNING id",
        f'{{"traceparent": "{CALLER}", "baggage": {baggage}}}',
    )
    async with working(reading, noop):
        ended = await jobs.end_of(row["id"])
    assert ended["state"] == "succeeded"


async def test_stored_trace_context_is_plain_json(
    database: Database, jobs: Jobs, noop: JobKind[Number], traced: Settings
) -> None:
    job_id = await enqueue_in(database, noop, CALLER)
    row = await jobs.one("SELECT trace_context::text AS text FROM job WHERE id = $1", job_id)
    assert list(json.loads(row["text"])) == ["traceparent"]


class TestSampledLines:
    @pytest.mark.parametrize(("share", "written"), [(0, {"discarded"}), (1, {"discarded", "succeeded"})])
    async def test_a_share_of_the_successes_has_lines(
        self, database: Database, jobs: Jobs, settings: Settings, share: float, written: set[str]
    ) -> None:
        @job("test.sampled")
        async def sampled(ctx: JobContext, payload: Number) -> None:
            if payload.n:
                raise Discard("as it was asked to")

        async with database.session() as session:
            for n in (0, 1):
                await enqueue(session, sampled, Number(n=n))
        with logging_as(LOG_FORMAT="json") as log:
            async with working(settings.model_copy(update={"LOG_JOB_SAMPLE": share}), sampled):
                await until(lambda: jobs.all("SELECT FROM job_history OFFSET 1"))
        assert {line["outcome"] for line in log.lines("job")} == written

    async def test_traced_runs_have_lines_in_any_case(
        self, database: Database, jobs: Jobs, noop: JobKind[Number], traced: Settings
    ) -> None:
        job_id = await enqueue_in(database, noop, CALLER)
        with logging_as(LOG_FORMAT="json") as log:
            async with working(traced.model_copy(update={"LOG_JOB_SAMPLE": 0}), noop):
                await jobs.end_of(job_id)
        assert [line["job_id"] for line in log.lines("job")] == [str(job_id)]
