"""Queues, workers and schedules: for operators only."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from notes.config import Settings
from plinth.database.engine import Database
from plinth.http.schemas import Page
from plinth.identity import sign_local_token
from plinth.jobs import JobContext, enqueue, job, schedule
from plinth.jobs import schedules as schedules_module
from plinth.jobs.admin.queues import QueueRead, ScheduleRead, WorkerRead
from plinth.jobs.engine.scheduler import Scheduler
from plinth.testing import problem
from tests.plinth.integration.jobs.conftest import Number, open_store
from tests.support.notes import settings_with

OPERATIONS = [
    ("GET", "/queues"),
    ("POST", "/queues/default/pause"),
    ("POST", "/queues/default/resume"),
    ("GET", "/workers"),
    ("GET", "/schedules"),
    ("POST", "/schedules/nightly/pause"),
    ("POST", "/schedules/nightly/resume"),
    ("POST", "/schedules/nightly/run"),
]


@job("test.api.operations")
async def task(ctx: JobContext, payload: Number) -> None:
    pass


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(DATABASE_URL=database_url, REDIS_URL=redis_url, OPERATOR_ROLE="operator")


@pytest.fixture
async def operator(service: httpx.AsyncClient, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The service as an operator calls it."""
    token = sign_local_token(settings, subject="olga", ttl=600, roles=["operator"])
    service.headers["Authorization"] = f"Bearer {token}"
    yield service
    del service.headers["Authorization"]


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[Database]:
    engine = Database(settings)
    yield engine
    await engine.aclose()


@pytest.fixture
async def nightly(engine: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules_module, "_schedules", {})
    made = schedule(task, Number(n=7), cron="0 3 * * *", name="nightly")
    await Scheduler(engine, {"nightly": made}).declare()


class TestAccess:
    @pytest.mark.parametrize(("method", "path"), OPERATIONS)
    async def test_callers_without_the_operator_role_are_refused(
        self, api: httpx.AsyncClient, sql: asyncpg.Connection, method: str, path: str
    ) -> None:
        problem(await api.request(method, path), 403, "forbidden")
        assert await sql.fetchval("SELECT count(*) FROM job_queue") == 0

    @pytest.mark.parametrize(("method", "path"), OPERATIONS)
    async def test_anonymous_callers_of_operations_are_refused(
        self, service: httpx.AsyncClient, method: str, path: str
    ) -> None:
        problem(await service.request(method, path), 401)


class TestQueues:
    async def test_queue_counts_are_listed(self, operator: httpx.AsyncClient, engine: Database) -> None:
        async with engine.session() as session:
            await enqueue(session, task, Number())
            await enqueue(session, task, Number(), delay=60, queue="side")

        response = await operator.get("/queues")

        first, second = Page[QueueRead].model_validate_json(response.content).items
        assert (first.name, first.available, first.scheduled) == ("default", 1, 0)
        assert (second.name, second.available, second.scheduled) == ("side", 0, 1)
        assert (first.oldest_due_age is None, second.oldest_due_age) == (False, None)

    async def test_queue_is_paused_and_resumed(self, operator: httpx.AsyncClient) -> None:
        paused = []
        for verb in ("pause", "pause", "resume", "resume"):
            response = await operator.post(f"/queues/side/{verb}")
            assert (response.status_code, response.content) == (204, b"")
            paused.append([queue["name"] for queue in (await operator.get("/queues")).json()["items"]])
        assert paused == [["side"], ["side"], [], []]

    @pytest.mark.parametrize("name", ["-", "a%20b", "a" * 101, "%F0%9F%8E%89", "a%0A", "a%00"])
    async def test_invalid_queue_name_is_refused(self, operator: httpx.AsyncClient, name: str) -> None:
        problem(await operator.post(f"/queues/{name}/pause"), 422, "validation_error")


class TestWorkers:
    async def test_workers_are_listed(self, operator: httpx.AsyncClient, engine: Database) -> None:
        store = await open_store(engine)

        (worker,) = Page[WorkerRead].model_validate_json((await operator.get("/workers")).content).items

        assert (worker.id, worker.name, worker.status, worker.running) == (store.session_id, "test", "alive", 0)


@pytest.mark.usefixtures("nightly")
class TestSchedules:
    async def show(self, operator: httpx.AsyncClient) -> ScheduleRead:
        (shown,) = Page[ScheduleRead].model_validate_json((await operator.get("/schedules")).content).items
        return shown

    async def test_schedule_is_paused_and_resumed(self, operator: httpx.AsyncClient) -> None:
        shown = await self.show(operator)
        assert (shown.name, shown.kind, shown.cron) == ("nightly", "test.api.operations", "0 3 * * *")
        assert shown.next_slot is not None

        assert (await operator.post("/schedules/nightly/pause")).status_code == 204
        shown = await self.show(operator)
        assert (shown.paused_at is None, shown.next_slot) == (False, None)

        assert (await operator.post("/schedules/nightly/resume")).status_code == 204
        shown = await self.show(operator)
        assert (shown.paused_at, shown.next_slot is None) == (None, False)

    async def test_schedule_is_run_now(self, operator: httpx.AsyncClient) -> None:
        response = await operator.post("/schedules/nightly/run")

        assert response.status_code == 202
        made = (await operator.get(f"http://service.test{response.headers['location']}")).json()
        assert (made["id"], made["kind"]) == (response.json()["job_id"], "test.api.operations")
        assert (made["payload"], made["owner"]) == ({"n": 7}, None)

    @pytest.mark.parametrize("verb", ["pause", "resume", "run"])
    async def test_unknown_schedule_is_not_found(self, operator: httpx.AsyncClient, verb: str) -> None:
        problem(await operator.post(f"/schedules/daily/{verb}"), 404, "not_found")
