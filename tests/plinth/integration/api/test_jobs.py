"""Jobs, as their owners and as operators see them."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from notes.config import Settings
from plinth.api.schemas import JobRead, JobSummary, OperatorJobRead
from plinth.database.engine import Database
from plinth.http.schemas import Page
from plinth.identity import sign_local_token
from plinth.jobs import JobContext, State, batch, enqueue, job
from plinth.jobs.engine.store import Store
from plinth.jobs.outcome import Finish, error_entry
from plinth.testing import problem
from tests.plinth.integration.jobs.conftest import Number, open_store, until, working
from tests.support.notes import settings_with


@job("test.api.jobs")
async def task(ctx: JobContext, payload: Number) -> None:
    pass


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        PROJECT_NAME="jobs-api",
        OPERATOR_ROLE="operator",
        OPERATOR_SCOPE="jobs:operate",
        METRICS_PORT=0,
        JOBS_POLL_INTERVAL=3600,  # only the doorbell can explain that something runs
        JOBS_SHUTDOWN_GRACE=6,
    )


@pytest.fixture
def operator(settings: Settings) -> dict[str, str]:
    token = sign_local_token(settings, subject="olga", ttl=600, roles=["operator"])
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[Database]:
    engine = Database(settings)
    yield engine
    await engine.aclose()


@pytest.fixture
async def store(engine: Database) -> Store:
    return await open_store(engine)


async def add(engine: Database, owner: str | None = "alice", **options: Any) -> UUID:
    async with engine.session() as session:
        return (await enqueue(session, task, Number(n=1), owner=owner, **options)).id


async def run(store: Store, state: State | None = None) -> None:
    """Claim the first in line, and end it if `state` says how."""
    (claimed,) = await store.claim(["default"], {task.name: task}, 1)
    if state is not None:
        error = error_entry("error", run=claimed.lease, attempt=claimed.attempt, exception=ValueError("hunter2"))
        await store.finish([Finish(claimed.id, claimed.lease, state, None if state is State.SUCCEEDED else error)])


async def ids(api: httpx.AsyncClient, query: str = "", **options: Any) -> list[UUID]:
    response = await api.get(f"/jobs{query}", **options)
    assert response.status_code == 200, response.text
    return [job.id for job in Page[JobSummary].model_validate_json(response.content).items]


class TestList:
    async def test_caller_lists_own_jobs_newest_first(
        self, api: httpx.AsyncClient, engine: Database, store: Store
    ) -> None:
        first = await add(engine)
        await run(store, State.DISCARDED)
        second = await add(engine, delay=60)
        await add(engine, "bob")
        await add(engine, None)

        assert await ids(api) == [second, first]
        shown = (await api.get("/jobs")).json()["items"]
        assert [(one["state"], one["error"]) for one in shown] == [("scheduled", None), ("discarded", "ValueError")]
        assert "hunter2" not in (await api.get("/jobs")).text

    async def test_operator_lists_the_jobs_of_all_owners(
        self, service: httpx.AsyncClient, engine: Database, operator: dict[str, str]
    ) -> None:
        made = [await add(engine, owner) for owner in ("alice", "bob", None)]

        assert await ids(service, headers=operator) == made[::-1]
        assert await ids(service, "?owner=bob", headers=operator) == [made[1]]

    async def test_listing_another_owner_s_jobs_is_forbidden(self, api: httpx.AsyncClient, engine: Database) -> None:
        mine = await add(engine)
        await add(engine, "bob")

        problem(await api.get("/jobs?owner=bob"), 403, "forbidden")
        assert await ids(api, "?owner=alice") == [mine]

    async def test_jobs_are_filtered_by_state_queue_and_kind(
        self, api: httpx.AsyncClient, engine: Database, store: Store
    ) -> None:
        discarded = await add(engine)
        await run(store, State.DISCARDED)
        scheduled = await add(engine, delay=60, queue="side")
        available = await add(engine)

        assert await ids(api, "?state=discarded") == [discarded]
        assert await ids(api, "?state=discarded&state=available") == [available, discarded]
        assert await ids(api, "?queue=side") == [scheduled]
        assert await ids(api, "?kind=test.api.jobs&queue=default") == [available, discarded]
        assert await ids(api, "?kind=test.api.other") == []

    async def test_pages_of_jobs_hold_each_job_once(
        self, api: httpx.AsyncClient, engine: Database, store: Store
    ) -> None:
        made = []
        for _ in range(3):
            made += [await add(engine, priority=9), await add(engine)]
            await run(store, State.SUCCEEDED)

        response = await api.get("/jobs?limit=2&state=available&state=succeeded&kind=test.api.jobs")
        found: list[str] = []
        while True:
            assert len(response.json()["items"]) == 2
            found += [one["id"] for one in response.json()["items"]]
            if (cursor := response.json()["next_cursor"]) is None:
                break
            link = response.headers["link"]
            address = link.removeprefix("<").removesuffix('>; rel="next"')
            query = parse_qs(urlsplit(address).query)
            assert query["cursor"] == [cursor]
            assert query["state"] == ["available", "succeeded"]
            response = await api.get(f"http://service.test{address}")
        assert found == [str(job_id) for job_id in made[::-1]]
        assert "link" not in response.headers

    async def test_cursor_of_another_list_of_jobs_is_refused(
        self, api: httpx.AsyncClient, engine: Database, bob: dict[str, str], operator: dict[str, str]
    ) -> None:
        await add(engine)
        await add(engine)
        cursor = (await api.get("/jobs?limit=1")).json()["next_cursor"]

        for query, headers in (("&state=available", {}), ("&queue=default", {}), ("", bob), ("", operator)):
            problem(await api.get(f"/jobs?cursor={cursor}{query}", headers=headers), 422)

    @pytest.mark.parametrize("query", ["?state=lost", "?limit=0", "?kind=a%20b", "?owner=", "?nonsense=1", "?cursor=x"])
    async def test_invalid_query_of_a_list_is_refused(self, api: httpx.AsyncClient, query: str) -> None:
        problem(await api.get(f"/jobs{query}"), 422, "validation_error")


class TestRead:
    async def test_owner_reads_a_job_without_its_internals(
        self, api: httpx.AsyncClient, engine: Database, store: Store
    ) -> None:
        job_id = await add(engine, unique_key="secret-key")
        await run(store, State.DISCARDED)

        response = await api.get(f"/jobs/{job_id}")

        seen = JobRead.model_validate_json(response.content)
        assert (seen.id, seen.state, seen.attempt, seen.owner) == (job_id, State.DISCARDED, 1, "alice")
        assert [(error.run, error.attempt, error.outcome, error.error) for error in seen.errors] == [
            (1, 1, "error", "ValueError")
        ]
        assert set(response.json()) == set(JobRead.model_fields)
        assert set(response.json()["errors"][0]) == {"at", "run", "attempt", "outcome", "error"}
        assert "secret-key" not in response.text

    async def test_operator_reads_all_fields_of_a_job(
        self, service: httpx.AsyncClient, engine: Database, store: Store, operator: dict[str, str]
    ) -> None:
        job_id = await add(engine, unique_key="k")
        await run(store, State.DISCARDED)

        response = await service.get(f"/jobs/{job_id}", headers=operator)

        seen = OperatorJobRead.model_validate_json(response.content)
        assert set(response.json()) == set(OperatorJobRead.model_fields)
        assert (seen.payload, seen.unique_key, seen.worker) == ({"n": 1}, "k", None)
        assert (seen.errors[0].detail, seen.errors[0].traceback[:10]) == ("ValueError: hunter2", "ValueError")

    async def test_running_job_shows_its_worker_and_progress(
        self, service: httpx.AsyncClient, engine: Database, store: Store, operator: dict[str, str]
    ) -> None:
        job_id = await add(engine)
        await run(store)
        await store.write_progress([(job_id, 1, 3, None, "reading")])

        shown = (await service.get(f"/jobs/{job_id}", headers=operator)).json()

        assert (shown["worker"], shown["state"]) == ("test", "running")
        assert shown["progress"] == {"done": 3, "total": None, "message": "reading"}

    async def test_scope_grants_operator_access(
        self, service: httpx.AsyncClient, engine: Database, settings: Settings
    ) -> None:
        job_id = await add(engine)
        for scopes, roles, status in (
            (["jobs:operate"], [], 200),
            (["operator"], ["jobs:operate"], 404),
            ([], ["None", ""], 404),
        ):
            token = sign_local_token(settings, subject="olga", ttl=600, scopes=scopes, roles=roles)
            response = await service.get(f"/jobs/{job_id}", headers={"Authorization": f"Bearer {token}"})
            assert response.status_code == status

    @pytest.mark.parametrize("verb", ["", "/events", "/cancel", "/retry"])
    async def test_another_owner_s_job_is_indistinguishable_from_an_unknown_one(
        self, api: httpx.AsyncClient, service: httpx.AsyncClient, engine: Database, bob: dict[str, str], verb: str
    ) -> None:
        method = "POST" if verb in ("/cancel", "/retry") else "GET"
        theirs, nowhere = await add(engine), uuid4()

        answers = [await api.request(method, f"/jobs/{one}{verb}", headers=bob) for one in (theirs, nowhere)]

        first, second = [problem(answer, 404, "not_found") for answer in answers]
        assert first | {"request_id": ""} == second | {"request_id": ""}
        assert await ids(api) == [theirs]

    @pytest.mark.parametrize("verb", ["", "/events", "/cancel", "/retry"])
    @pytest.mark.parametrize("ended", [False, True])
    async def test_another_owner_s_locked_job_is_not_waited_for(
        self,
        api: httpx.AsyncClient,
        engine: Database,
        store: Store,
        sql: asyncpg.Connection,
        bob: dict[str, str],
        verb: str,
        ended: bool,
    ) -> None:
        job_id = await add(engine)
        if ended:
            await run(store, State.CANCELLED)
        async with sql.transaction():
            await sql.execute(f"SELECT FROM {'job_history' if ended else 'job'} FOR UPDATE")
            method = "POST" if verb in ("/cancel", "/retry") else "GET"
            problem(await api.request(method, f"/jobs/{job_id}{verb}", headers=bob), 404)

    async def test_anonymous_callers_read_no_job(self, service: httpx.AsyncClient, engine: Database) -> None:
        job_id = await add(engine)
        for path in ("/jobs", f"/jobs/{job_id}", f"/jobs/{job_id}/events"):
            problem(await service.get(path), 401)


class TestSteps:
    async def test_owner_sees_the_steps_and_operators_what_they_gave(
        self, api: httpx.AsyncClient, engine: Database, operator: dict[str, str]
    ) -> None:
        job_id = await add(engine)
        async with engine.connection() as connection:
            await connection.execute(
                """
                INSERT INTO job_step (job_id, name, kind, state, result, event, due_at, started_at) VALUES
                ($1, 'paid', 'event', 'waiting', NULL, 'paid', '2030-02-01 UTC', '2030-01-02 UTC'),
                ($1, 'charge', 'step', 'done', '{"id": 7}', NULL, NULL, '2030-01-01 UTC')
                """,
                job_id,
            )
        own = (await api.get(f"/jobs/{job_id}/steps")).json()
        assert [(step["name"], step["kind"], step["state"]) for step in own] == [
            ("charge", "step", "done"),
            ("paid", "event", "waiting"),
        ]
        assert own[1]["due_at"] == "2030-02-01T00:00:00Z"
        assert not {"result", "error", "event"} & set(own[0])
        seen = (await api.get(f"/jobs/{job_id}/steps", headers=operator)).json()
        assert (seen[0]["result"], seen[1]["event"]) == ({"id": 7}, "paid")

    async def test_steps_of_another_owner_s_job_are_not_found(self, api: httpx.AsyncClient, engine: Database) -> None:
        assert (await api.get(f"/jobs/{await add(engine, 'bob')}/steps")).status_code == 404


class TestResult:
    async def test_owner_and_operators_see_what_a_job_returned(
        self, api: httpx.AsyncClient, engine: Database, store: Store, operator: dict[str, str]
    ) -> None:
        job_id = await add(engine)
        assert (await api.get(f"/jobs/{job_id}")).json()["result"] is None
        (claimed,) = await store.claim(["default"], {task.name: task}, 1)
        await store.finish([Finish(claimed.id, claimed.lease, State.SUCCEEDED, result='{"total": 7}')])
        for headers in ({}, operator):
            assert (await api.get(f"/jobs/{job_id}", headers=headers)).json()["result"] == {"total": 7}
        (listed,) = (await api.get("/jobs")).json()["items"]
        assert "result" not in listed


class TestBatch:
    async def make(self, engine: Database, owner: str = "alice", number: int = 3) -> UUID:
        async with engine.session() as session, batch(session, owner=owner, on_end=(task, Number(n=9))) as made:
            await made.enqueue_many(task, [Number(n=n) for n in range(number)])
        return made.id

    async def test_owner_sees_how_far_a_batch_is(
        self, api: httpx.AsyncClient, engine: Database, store: Store, operator: dict[str, str]
    ) -> None:
        batch_id = await self.make(engine)
        await run(store, State.SUCCEEDED)
        await run(store)
        for headers in ({}, operator):
            seen = (await api.get(f"/jobs/batches/{batch_id}", headers=headers)).json()
            assert (seen["total"], seen["live"], seen["finished_at"]) == (3, 2, None)
            assert {state: number for state, number in seen["states"].items() if number} == {
                "available": 1,
                "running": 1,
                "succeeded": 1,
            }
        assert len(await ids(api, f"?batch={batch_id}")) == 3
        assert await ids(api, f"?batch={uuid4()}") == []
        (listed,) = (await api.get(f"/jobs?batch={batch_id}&state=running")).json()["items"]
        assert listed["batch_id"] == str(batch_id)

    async def test_batch_that_an_operator_cancels_has_ended(
        self, api: httpx.AsyncClient, engine: Database, operator: dict[str, str]
    ) -> None:
        batch_id = await self.make(engine)
        asked = {"action": "cancel", "batch": str(batch_id)}
        assert (await api.post("/jobs/bulk/actions", json=asked, headers=operator)).json()["count"] == 3
        seen = (await api.get(f"/jobs/batches/{batch_id}")).json()
        assert (seen["total"], seen["live"], seen["states"]["cancelled"]) == (3, 0, 3)
        assert seen["finished_at"] is not None
        (last,) = await ids(api, "?state=available")
        assert seen["on_end_job_id"] == str(last)

    async def test_member_that_is_retried_after_the_end_changes_no_count(
        self, api: httpx.AsyncClient, engine: Database
    ) -> None:
        batch_id = await self.make(engine, number=1)
        (member,) = await ids(api, f"?batch={batch_id}")
        await api.post(f"/jobs/{member}/cancel")
        await api.post(f"/jobs/{member}/retry")
        seen = (await api.get(f"/jobs/batches/{batch_id}")).json()
        assert (seen["total"], seen["live"], seen["states"]["cancelled"]) == (1, 0, 1)
        assert seen["finished_at"] is not None
        assert await ids(api, f"?batch={batch_id}&state=available") == [member]

    async def test_batch_of_another_owner_is_not_found(
        self, api: httpx.AsyncClient, engine: Database, operator: dict[str, str]
    ) -> None:
        batch_id = await self.make(engine, "bob")
        problem(await api.get(f"/jobs/batches/{batch_id}"), 404)
        problem(await api.get(f"/jobs/batches/{uuid4()}"), 404)
        assert (await api.get(f"/jobs/batches/{batch_id}", headers=operator)).json()["owner"] == "bob"


class TestBulk:
    async def test_operator_acts_on_many_jobs_after_a_dry_run(
        self, api: httpx.AsyncClient, engine: Database, operator: dict[str, str]
    ) -> None:
        made = [await add(engine, delay=3600) for _ in range(3)]
        asked = {"action": "run_now", "kind": task.name, "limit": 2}
        tried = await api.post("/jobs/bulk/actions", json=asked | {"dry_run": True}, headers=operator)
        assert (tried.status_code, tried.json()) == (200, {"count": 2, "dry_run": True})
        done = await api.post("/jobs/bulk/actions", json=asked, headers=operator)
        assert done.json() == {"count": 2, "dry_run": False}
        assert await ids(api, "?state=available") == made[1::-1]
        priority = {"action": "prioritise", "priority": -7, "ids": [str(made[2])]}
        assert (await api.post("/jobs/bulk/actions", json=priority, headers=operator)).json()["count"] == 1
        assert (await api.get(f"/jobs/{made[2]}")).json()["priority"] == -7

    async def test_owner_acts_on_no_job_in_bulk(self, api: httpx.AsyncClient, engine: Database) -> None:
        job_id = await add(engine)
        refused = await api.post("/jobs/bulk/actions", json={"action": "delete", "ids": [str(job_id)]})
        assert refused.status_code == 403
        assert await ids(api) == [job_id]

    @pytest.mark.parametrize(
        "body",
        [
            {"action": "delete"},
            {"action": "delete", "kind": None},
            {"action": "delete", "ids": []},
            {"action": "delete", "kind": "a", "priority": 1},
            {"action": "prioritise", "kind": "a"},
            {"action": "burn", "kind": "a"},
            {"action": "cancel", "kind": "a", "limit": 10_001},
        ],
    )
    async def test_what_says_not_what_or_which_is_refused(
        self, api: httpx.AsyncClient, operator: dict[str, str], body: dict[str, Any]
    ) -> None:
        problem(await api.post("/jobs/bulk/actions", json=body, headers=operator), 422)


class TestCancel:
    async def test_cancelling_a_waiting_job_is_200_and_cancelled(
        self, api: httpx.AsyncClient, engine: Database
    ) -> None:
        job_id = await add(engine)

        first, second = [await api.post(f"/jobs/{job_id}/cancel") for _ in range(2)]

        assert (first.status_code, first.json()["state"]) == (200, "cancelled")
        assert (second.status_code, second.json()) == (200, first.json())

    async def test_cancelling_a_running_job_is_202(
        self, api: httpx.AsyncClient, engine: Database, store: Store
    ) -> None:
        job_id = await add(engine)
        await run(store)

        response = await api.post(f"/jobs/{job_id}/cancel")

        assert (response.status_code, response.json()["state"]) == (202, "running")
        assert JobRead.model_validate_json(response.content).cancel_requested_at is not None

    async def test_ended_job_cannot_be_cancelled(self, api: httpx.AsyncClient, engine: Database, store: Store) -> None:
        job_id = await add(engine)
        await run(store, State.SUCCEEDED)

        problem(await api.post(f"/jobs/{job_id}/cancel"), 409, "job_ended")

    async def test_operator_cancels_the_job_of_another_owner(
        self, service: httpx.AsyncClient, engine: Database, operator: dict[str, str]
    ) -> None:
        job_id = await add(engine)

        response = await service.post(f"/jobs/{job_id}/cancel", headers=operator)

        assert OperatorJobRead.model_validate_json(response.content).state is State.CANCELLED


class TestRetry:
    async def test_retried_job_runs_at_once(
        self, api: httpx.AsyncClient, settings: Settings, engine: Database, store: Store
    ) -> None:
        job_id = await add(engine)
        await run(store, State.DISCARDED)

        async def succeeded() -> bool:
            return bool((await api.get(f"/jobs/{job_id}")).json()["state"] == "succeeded")

        async def heard() -> bool:
            # The worker listens once it has run what it found by looking.
            return bool((await api.get(f"/jobs/{warm}")).json()["state"] == "succeeded")

        warm = await add(engine)
        async with working(settings, task):
            await until(heard)
            response = await api.post(f"/jobs/{job_id}/retry")
            assert (response.status_code, response.json()["attempt"]) == (200, 0)
            await until(succeeded)

    async def test_job_that_has_not_failed_cannot_be_retried(self, api: httpx.AsyncClient, engine: Database) -> None:
        problem(await api.post(f"/jobs/{await add(engine)}/retry"), 409, "job_not_failed")

    async def test_retry_is_refused_while_the_unique_key_is_taken(
        self, api: httpx.AsyncClient, engine: Database, store: Store
    ) -> None:
        job_id = await add(engine, unique_key="k")
        await run(store, State.DISCARDED)
        await add(engine, unique_key="k")

        problem(await api.post(f"/jobs/{job_id}/retry"), 409, "unique_key_taken")
        assert (await api.get(f"/jobs/{job_id}")).json()["state"] == "discarded"
