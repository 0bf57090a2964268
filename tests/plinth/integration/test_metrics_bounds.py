"""No client, tenant, job or queue adds metric series by its name."""

import random
import string
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from notes.config import Settings
from notes.main import create_app
from plinth.identity import sign_local_token
from plinth.jobs import JobContext, job
from plinth.jobs.engine import fleet_metrics as figures
from plinth.jobs.kinds import JobKind
from plinth.jobs.schedules import schedules
from plinth.telemetry.route_template import UNMATCHED
from tests.plinth.integration.jobs.conftest import Number, until, working
from tests.support.api import client_of
from tests.support.metrics import metric, samples, series
from tests.support.notes import settings_with

ROUNDS = 2  # the first may add series, the second may not
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
QUEUES = 80  # more than are shown


class Chance:
    """Values that were never sent before."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def word(self) -> str:
        return "".join(self._random.choices(string.ascii_lowercase, k=12))

    def uuid(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)

    def path(self) -> str:
        pieces = [self.word(), str(self.uuid()), str(self._random.random()), "%2e%2e", "é", "a;b=c", '"}', "%0a"]
        return "/" + "/".join([*self._random.choices(pieces, k=self._random.randint(1, 6)), self.word()])

    def headers(self, settings: Settings) -> dict[str, str]:
        """Those of a new tenant, with ids of their own."""
        token = sign_local_token(settings, subject=self.word(), ttl=600, roles=["operator"])
        return {
            "Authorization": f"Bearer {token}",
            "X-Request-ID": self.word(),
            "traceparent": f"00-{self.uuid().hex}-{self.uuid().hex[:16]}-01",
            "User-Agent": self.word(),
        }


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(
        DATABASE_URL=database_url, REDIS_URL=redis_url, OPERATOR_ROLE="operator", JOBS_POLL_INTERVAL=0.1
    )


@pytest.fixture
def app(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    # FleetMetrics all the time, and from this process for as long as the test lasts.
    monkeypatch.setattr(figures, "INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr(figures, "HOLD", 6000)
    monkeypatch.setattr(figures, "SHARE", 1)
    return create_app(settings)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def task() -> JobKind[Number]:
    @job("test.bounds")
    async def task(ctx: JobContext, payload: Number) -> None:
        pass

    return task


def templates(app: FastAPI) -> set[str]:
    return {context.path_format for context in iter_route_contexts(app.routes) if context.path_format}


async def ask(client: httpx.AsyncClient, app: FastAPI, settings: Settings, chance: Chance) -> None:
    """Each method of each route, with values of every sort, and paths that lead nowhere."""
    for template in sorted(templates(app)):
        for method in (*METHODS, chance.word().upper()):
            for value in (str(chance.uuid()), chance.word()):
                names = {name: value for _, name, _, _ in string.Formatter().parse(template) if name}
                url = f"http://service.test{template.format(**names)}?{chance.word()}={chance.word()}"
                await client.request(method, url, headers=chance.headers(settings), content=b"{}")
    for method in (*METHODS, chance.word().upper()):
        for _ in range(5):
            url = f"http://service.test{chance.path()}"
            await client.request(method, url, headers=chance.headers(settings), content=chance.word().encode())


_LOST = """
INSERT INTO job (kind, queue, priority, owner, payload, max_attempts, run_at, state, session_id)
SELECT $1 || n, $2 || n, 0, $3 || n, '{}', 5, now(), 'running', uuid7() FROM generate_series(1, $4::int) AS n
"""


async def work(connection: asyncpg.Connection, settings: Settings, task: JobKind[Number], chance: Chance) -> None:
    """Jobs of other versions of the code in queues of theirs, whose workers are lost."""
    await connection.execute("TRUNCATE job, job_queue")
    await connection.execute(_LOST, chance.word(), chance.word(), chance.word(), QUEUES)

    async def reaped() -> bool:
        return not await connection.fetchval("SELECT EXISTS (SELECT FROM job WHERE state = 'running')")

    async with working(settings, task):
        await until(reaped)

    async def told() -> bool:
        # Schedules too: a worker writes their rows when it has time for it.
        shown = {dict(labels).get("schedule") for name, labels in series() if name == "plinth_schedule_overdue_seconds"}
        return metric("plinth_queue_jobs", state="available") == QUEUES and shown == schedules().keys()

    await until(told)


def without_queues() -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {(name, labels) for name, labels in series() if not name.startswith("plinth_queue_")}


async def test_random_input_adds_no_series(
    app: FastAPI,
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    settings: Settings,
    task: JobKind[Number],
) -> None:
    found: list[Any] = []
    reaped = metric("plinth_jobs_reaped_total", kind="unknown")
    for number in range(ROUNDS):
        chance = Chance(number)
        await ask(client, app, settings, chance)
        await work(connection, settings, task, chance)
        found.append((without_queues(), len(series())))
    (known, count), *later = found
    for others, other_count in later:
        assert others - known == set()
        assert other_count == count
    assert metric("plinth_jobs_reaped_total", kind="unknown") == reaped + ROUNDS * QUEUES


async def test_labels_of_requests_are_a_known_set(app: FastAPI, client: httpx.AsyncClient, settings: Settings) -> None:
    def counts() -> dict[frozenset[tuple[str, str]], float]:
        name = "http_server_request_duration_seconds_count"
        return {frozenset(sample.labels.items()): sample.value for sample in samples() if sample.name == name}

    before = counts()  # of other tests
    await ask(client, app, settings, Chance(99))
    shown = [dict(labels) for labels, count in counts().items() if count != before.get(labels)]
    assert {labels["http_request_method"] for labels in shown} <= {*METHODS, "_OTHER"}
    assert {labels["http_route"] for labels in shown} >= {UNMATCHED, "/api/v1/notes/{note_id}"}
    assert {labels["http_route"] for labels in shown} - {UNMATCHED} <= templates(app)
    assert not {labels["http_route"] for labels in shown} & {"/api/v1/public/health", "/api/v1/public/health/ready"}
