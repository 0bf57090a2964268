"""Counters of known labels are exposed at 0: Prometheus sees no increase in a series that begins at 1."""

from unittest.mock import Mock

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from prometheus_client.parser import text_string_to_metric_families

from plinth.http.request_context import RequestContextMiddleware
from plinth.http.routes import templates_of
from plinth.http.unhandled_errors import UnhandledErrorMiddleware
from plinth.jobs.engine.runner import Runner
from plinth.telemetry.http_metrics import HttpMetrics
from plinth.telemetry.metrics import exposition
from tests.support.notes import settings_with
from tests.support.settings import run

FIRST_SCRAPE = """
import notes.jobs
from plinth.telemetry.metrics import exposition
print(exposition("")[1].decode())
"""


def samples(text: str, name: str) -> dict[tuple[str, ...], float]:
    found = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {tuple(value for _, value in sorted(s.labels.items())): s.value for s in found if s.name == name}


@pytest.fixture(scope="module")
def first_scrape() -> str:
    """What a process shows that has done nothing yet but registered its kinds."""
    done = run(FIRST_SCRAPE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_errors_of_databases_begin_at_zero(first_scrape: str) -> None:
    kinds = ("unavailable", "timeout", "other")
    expected = {(system, kind): 0.0 for system in ("postgresql", "redis") for kind in kinds}
    assert samples(first_scrape, "plinth_db_errors_total") == expected


def test_enqueued_jobs_of_every_registered_kind_begin_at_zero(first_scrape: str) -> None:
    found = samples(first_scrape, "plinth_jobs_enqueued_total")
    assert ("notes.digest",) in found
    assert set(found.values()) == {0.0}


def service() -> FastAPI:
    app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})
    outer, inner = APIRouter(prefix="/outer"), APIRouter(prefix="/{outer_id}/inner")

    @inner.get("/{name}/{rest:path}")
    async def fail(name: str) -> None:
        raise RuntimeError

    outer.include_router(inner)
    app.include_router(outer, prefix="/api")
    return app


async def test_failures_of_every_route_begin_at_zero() -> None:
    metrics, app = HttpMetrics(), service()
    metrics.expect(templates_of(app.routes))
    app.add_middleware(UnhandledErrorMiddleware)
    app.add_middleware(RequestContextMiddleware, metrics=metrics)
    before = samples(metrics.render(openmetrics=False), "plinth_http_failures_total")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service.test") as client:
        assert (await client.get("/api/outer/1/inner/name/and/the/rest")).status_code == 500
    after = samples(metrics.render(openmetrics=False), "plinth_http_failures_total")

    assert set(before.values()) == {0.0}
    grown = {route: after[route] - before[route] for route in after if after[route] != before[route]}
    assert grown == {("/api/outer/{outer_id}/inner/{name}/{rest}",): 1.0}
    assert before.keys() == after.keys()


async def test_runs_of_unknown_kinds_that_were_taken_away_begin_at_zero() -> None:
    Runner(Mock(), settings_with(), database=Mock(), doorbell=Mock(), kinds={}, queues=[], concurrency=1)
    found = samples(exposition("")[1].decode(), "plinth_jobs_reaped_total")
    assert {fate for fate, kind in found if kind == "unknown"} == {"available", "cancelled", "discarded"}
