"""A service with /ops, a browser that is signed in there, and jobs to look at."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from notes.config import Settings
from notes.main import create_app
from plinth.database.engine import Database
from plinth.identity.permissions import READ_JOBS
from plinth.jobs import JobContext, JobKind, enqueue, job
from plinth.jobs import kinds as kinds_module
from plinth.jobs import schedules as schedules_module
from plinth.ops import overview
from tests.plinth.integration.jobs.conftest import Number
from tests.support.api import client_of
from tests.support.notes import settings_with
from tests.support.ops import OPS, csrf_of, from_a_page, sign_in

Act = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        OPS_ENABLED=True,
        OPS_TRACE_URL="https://traces.test/{trace_id}",
        OPERATOR_ROLE="operator",
        PERMISSIONS=f"support={READ_JOBS}",
        RATE_LIMIT="100000/minute",
        RATE_LIMIT_ANONYMOUS="100000/minute",
    )


@pytest.fixture(scope="module")
async def running(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(settings)) as client:
        yield client


@pytest.fixture(autouse=True)
def _figures_of_this_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    for shared in (overview.NOW, overview.LAST_HOUR):
        monkeypatch.setattr(shared, "seconds", 0)


@pytest.fixture
async def operator(running: httpx.AsyncClient, settings: Settings) -> httpx.AsyncClient:
    """A browser that is signed in as olga, an operator."""
    running.cookies.clear()
    assert (await sign_in(running, settings)).status_code == 303
    return running


@pytest.fixture
async def reader(running: httpx.AsyncClient, settings: Settings) -> httpx.AsyncClient:
    """A browser that is signed in as sue, which may look and change nothing."""
    running.cookies.clear()
    assert (await sign_in(running, settings, subject="sue", roles=["support"])).status_code == 303
    return running


@pytest.fixture
def post(operator: httpx.AsyncClient) -> Act:
    """Send a form of a page, as the operator's browser does."""

    async def post(path: str, **fields: Any) -> httpx.Response:
        csrf = csrf_of(await operator.get(f"{OPS}/queues"))
        return await operator.post(f"{OPS}{path}", data={"csrf": csrf, **fields}, headers=from_a_page())

    return post


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings)
    yield database
    await database.aclose()


@pytest.fixture
def mail(monkeypatch: pytest.MonkeyPatch) -> JobKind[Number]:
    monkeypatch.setattr(kinds_module, "_kinds", dict(kinds_module.kinds()))
    monkeypatch.setattr(schedules_module, "_schedules", {})

    @job("test.mail", queue="mail")
    async def mail(ctx: JobContext, payload: Number) -> None:
        pass

    return mail


@pytest.fixture
def waiting(database: Database, mail: JobKind[Number]) -> Callable[..., Awaitable[UUID]]:
    """Make a job that waits."""

    async def waiting(**options: Any) -> UUID:
        return (await enqueue(database, mail, Number(n=7), **options)).id

    return waiting


DEAD = """
INSERT INTO job_history (kind, queue, priority, payload, max_attempts, attempt, run_lease, run_at, started_at, state,
    finished_at, errors, trace_context, owner)
VALUES ('test.dead', 'default', 0, '{"to": "a@b.test", "api_key": "sesame-0123456789"}', 1, 1, 1, now(), now(),
    'discarded', now(), jsonb_build_array(jsonb_build_object('at', now(), 'run', 1, 'attempt', 1, 'outcome', 'error',
        'error', $1::text, 'detail', $1 || ': password=hunter2hunter2', 'traceback', 'Traceback: <script>1</script>')),
    '{"traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"}', $2)
RETURNING id
"""


@pytest.fixture
def dead(sql: asyncpg.Connection) -> Callable[..., Awaitable[UUID]]:
    """Make a job that has failed for good."""

    async def dead(error: str = "Refused", owner: str | None = None) -> UUID:
        made: UUID = await sql.fetchval(DEAD, error, owner)
        return made

    return dead


@pytest.fixture
def records(sql: asyncpg.Connection) -> Callable[[], Awaitable[list[tuple[str, str, str]]]]:
    """The audit log: what each actor did, to what."""

    async def records() -> list[tuple[str, str, str]]:
        rows = await sql.fetch("SELECT subject, action, target FROM audit_record ORDER BY id")
        return [tuple(row) for row in rows if not row["action"].startswith("session.")]

    return records
