"""Endpoints ask for permissions, and the platform's own endpoints for those of operators."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel

from notes.config import Settings
from notes.main import create_app
from plinth.api.dependencies import OperatorDep, PrincipalDep, require
from plinth.database.engine import Database
from plinth.identity import sign_local_token
from plinth.identity.permissions import OPERATE_JOBS, READ_JOBS
from plinth.identity.principal import Principal
from plinth.jobs import JobContext, enqueue, job, schedule
from plinth.jobs import schedules as schedules_module
from plinth.jobs.engine.scheduler import Scheduler
from plinth.testing import problem
from tests.plinth.integration.jobs.conftest import Number
from tests.support.api import client_of
from tests.support.notes import settings_with


class Body(BaseModel):
    number: int


router = APIRouter(dependencies=[Depends(require("orders:read"))])


@router.get("/orders")
async def read_orders() -> str:
    return "read"


@router.post("/orders")
async def write_order(body: Body, principal: Annotated[Principal, Depends(require("orders:write"))]) -> str:
    return principal.subject


@router.post("/orders/mine")
async def write_mine(body: Body, principal: PrincipalDep) -> str:
    return principal.subject


@router.post("/orders/all", dependencies=[Depends(require("orders:write"))])
async def write_all(operator: OperatorDep) -> str:
    return operator.subject


@job("test.api.permissions")
async def task(ctx: JobContext, payload: Number) -> None:
    pass


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        RATE_LIMIT="100/minute",
        OPERATOR_ROLE="operator",
        PERMISSIONS=f"admin=orders:write orders:read,viewer=orders:read,support={READ_JOBS}",
    )


@pytest.fixture(scope="module")
def app(settings: Settings) -> FastAPI:
    app = create_app(settings)
    app.include_router(router, prefix="/api/v1")
    return app


@pytest.fixture(scope="module")
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


def caller(settings: Settings, *roles: str, scopes: tuple[str, ...] = (), subject: str = "olga") -> dict[str, str]:
    token = sign_local_token(settings, subject=subject, ttl=600, roles=roles, scopes=scopes)
    return {"Authorization": f"Bearer {token}"}


def refused(response: httpx.Response, permission: str) -> None:
    """A 403 that names the permission, for programs (RFC 6750) and for people."""
    body = problem(response, 403, "forbidden")
    assert response.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{permission}"'
    assert body["permission"] == permission
    assert permission in body["detail"]


class TestRequire:
    @pytest.mark.parametrize(
        ("roles", "scopes"),
        [
            (["admin"], ()),
            ([], ("admin",)),
            ([], ("orders:read", "orders:write")),
            (["orders:read", "orders:write"], ()),
            (["viewer"], ("orders:write",)),
        ],
    )
    async def test_caller_with_the_permission_is_the_endpoint_s_principal(
        self, client: httpx.AsyncClient, settings: Settings, roles: list[str], scopes: tuple[str, ...]
    ) -> None:
        response = await client.post("/orders", json={"number": 1}, headers=caller(settings, *roles, scopes=scopes))

        assert (response.status_code, response.json()) == (200, "olga")

    @pytest.mark.parametrize(
        ("method", "path", "roles", "missing"),
        [
            ("GET", "/orders", [], "orders:read"),
            ("GET", "/orders", ["operator"], "orders:read"),
            ("POST", "/orders", ["viewer"], "orders:write"),
            ("POST", "/orders", ["orders:write"], "orders:read"),  # the router's comes first
            ("POST", "/orders/mine", [], "orders:read"),
            ("POST", "/orders/all", ["admin"], OPERATE_JOBS),
            ("POST", "/orders/all", ["operator", "viewer"], "orders:write"),
        ],
    )
    async def test_missing_permission_is_named(
        self, client: httpx.AsyncClient, settings: Settings, method: str, path: str, roles: list[str], missing: str
    ) -> None:
        refused(await client.request(method, path, json={"number": 1}, headers=caller(settings, *roles)), missing)

    @pytest.mark.parametrize(("method", "path"), [("GET", "/orders"), ("POST", "/orders"), ("POST", "/orders/mine")])
    async def test_caller_without_a_token_is_asked_for_one(
        self, client: httpx.AsyncClient, method: str, path: str
    ) -> None:
        response = await client.request(method, path, json={"number": 1})

        problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize("path", ["/orders", "/orders/mine"])
    async def test_permission_is_asked_for_before_the_body_is_read(
        self, client: httpx.AsyncClient, settings: Settings, path: str
    ) -> None:
        async def body() -> AsyncIterator[bytes]:
            pytest.fail("the body was asked for")
            yield b""

        refused(await client.post(path, content=body(), headers=caller(settings)), "orders:read")

    async def test_request_is_counted_once(self, client: httpx.AsyncClient, settings: Settings) -> None:
        headers = caller(settings, "admin", "operator", subject=f"caller-{uuid4()}")

        first = await client.post("/orders/all", headers=headers)
        second = await client.post("/orders", json={"number": 1}, headers=headers)

        assert (first.status_code, second.status_code) == (200, 200)
        assert second.headers["ratelimit"].startswith('"default";r=98;')

    async def test_overridden_dependency_is_not_asked(self, settings: Settings) -> None:
        app = create_app(settings)
        app.include_router(router, prefix="/api/v1")
        anyone = Principal("anyone", "here", frozenset(), frozenset(), 0)
        app.dependency_overrides = {require(name): lambda: anyone for name in ("orders:read", "orders:write")}
        async with client_of(app) as client:
            response = await client.post("/orders", json={"number": 1})

        assert response.json() == "anyone"

    def test_document_names_the_permission_of_an_operation(self, app: FastAPI) -> None:
        paths = app.openapi()["paths"]

        def scopes(path: str, method: str) -> set[str]:
            return {name for entry in paths[f"/api/v1{path}"][method]["security"] for name in entry["bearer"]}

        assert scopes("/orders", "get") == {"orders:read"}
        assert scopes("/orders", "post") == {"orders:read", "orders:write"}
        assert scopes("/queues", "get") == {READ_JOBS}
        assert scopes("/queues/{name}/pause", "post") == {OPERATE_JOBS}
        assert scopes("/me", "get") == set()

    @pytest.mark.parametrize("name", ["", "orders write", 'orders"', "orders:*", "a" * 201])
    def test_permission_that_no_setting_could_grant_is_a_programming_error(self, name: str) -> None:
        with pytest.raises(ValueError, match="permission"):
            require(name)


# Changes that a caller may make to its own without a permission, by path. Every other change needs one.
OF_OWNERS = {"/jobs/{job_id}/cancel", "/jobs/{job_id}/retry"}
READING = {"GET", "HEAD"}


def platform_routes() -> Iterator[tuple[str, str]]:
    """Every operation of `plinth.api`: method and path."""
    app = create_app(Settings.isolated())
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, APIRoute) and route.endpoint.__module__.startswith("plinth.api."):
            for method in sorted(context.methods or ()):
                yield method, str(context.path).removeprefix("/api/v1")


ROUTES = list(platform_routes())
CHANGES = [(method, path) for method, path in ROUTES if method not in READING]
OPERATIONS = [(method, path) for method, path in ROUTES if not path.startswith(("/me", "/jobs"))]


class TestOperators:
    @pytest.fixture
    async def engine(self, settings: Settings) -> AsyncIterator[Database]:
        engine = Database(settings)
        yield engine
        await engine.aclose()

    @pytest.fixture
    async def job_id(self, engine: Database) -> UUID:
        """A waiting job of alice."""
        async with engine.session() as session:
            return (await enqueue(session, task, Number(), owner="alice", delay=3600)).id

    @pytest.fixture
    async def nightly(self, engine: Database, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(schedules_module, "_schedules", {})
        await Scheduler(engine, {"nightly": schedule(task, Number(n=7), cron="0 3 * * *", name="nightly")}).declare()
        return "nightly"

    @pytest.fixture
    def filled(self, job_id: UUID, nightly: str) -> dict[str, str]:
        return {"job_id": str(job_id), "name": nightly}

    def test_every_module_of_endpoints_is_walked(self) -> None:
        assert {path.split("/")[1] for _, path in ROUTES} >= {"jobs", "queues", "workers", "schedules", "me"}
        assert len(CHANGES) >= 7
        assert {path for _, path in CHANGES} >= OF_OWNERS

    @pytest.mark.parametrize(("method", "path"), CHANGES)
    async def test_read_only_operator_changes_nothing(
        self,
        client: httpx.AsyncClient,
        settings: Settings,
        sql: asyncpg.Connection,
        filled: dict[str, str],
        method: str,
        path: str,
    ) -> None:
        state = (
            "SELECT (SELECT string_agg(state, ' ') FROM (SELECT state FROM job UNION ALL SELECT state FROM job_history)"
            " AS jobs) || (SELECT count(*) FROM job_queue) || (SELECT count(paused_at) FROM job_schedule)"
        )
        before = await sql.fetchval(state)

        refused(await client.request(method, path.format(**filled), headers=caller(settings, "support")), OPERATE_JOBS)
        assert await sql.fetchval(state) == before

    @pytest.mark.parametrize(("method", "path"), CHANGES)
    async def test_operator_is_not_refused(
        self, client: httpx.AsyncClient, settings: Settings, filled: dict[str, str], method: str, path: str
    ) -> None:
        for headers in (caller(settings, "operator"), caller(settings, scopes=(OPERATE_JOBS,))):
            body = {"action": "run_now", "kind": task.name} if path == "/jobs/bulk/actions" else None
            response = await client.request(method, path.format(**filled), headers=headers, json=body)
            assert response.status_code in (200, 202, 204, 409), response.text

    @pytest.mark.parametrize(("method", "path"), OPERATIONS)
    async def test_caller_without_permissions_sees_and_changes_no_operations(
        self, client: httpx.AsyncClient, settings: Settings, filled: dict[str, str], method: str, path: str
    ) -> None:
        permission = READ_JOBS if method in READING else OPERATE_JOBS
        refused(await client.request(method, path.format(**filled), headers=caller(settings, "admin")), permission)

    @pytest.mark.parametrize("path", sorted(OF_OWNERS))
    async def test_job_of_another_owner_does_not_exist_without_permissions(
        self, client: httpx.AsyncClient, settings: Settings, filled: dict[str, str], path: str
    ) -> None:
        problem(await client.post(path.format(**filled), headers=caller(settings, "admin")), 404)

    async def test_read_only_operator_looks_at_everything(
        self, client: httpx.AsyncClient, settings: Settings, job_id: UUID, nightly: str
    ) -> None:
        headers = caller(settings, "support")
        for path in ("/queues", "/workers", "/schedules", f"/jobs/{job_id}", "/jobs?owner=alice"):
            assert (await client.get(path, headers=headers)).status_code == 200, path
        assert [found["id"] for found in (await client.get("/jobs", headers=headers)).json()["items"]] == [str(job_id)]
        assert (await client.get(f"/jobs/{job_id}", headers=headers)).json()["payload"] == {"n": 0}

    async def test_read_only_operator_cancels_and_retries_its_own_jobs(
        self, client: httpx.AsyncClient, settings: Settings, engine: Database
    ) -> None:
        async with engine.session() as session:
            own = (await enqueue(session, task, Number(), owner="olga", delay=3600)).id
        for verb, state in (("cancel", "cancelled"), ("retry", "available")):
            response = await client.post(f"/jobs/{own}/{verb}", headers=caller(settings, "support"))
            assert (response.status_code, response.json()["state"]) == (200, state)

    async def test_unknown_job_is_not_found_for_a_read_only_operator(
        self, client: httpx.AsyncClient, settings: Settings
    ) -> None:
        for verb in ("cancel", "retry"):
            problem(await client.post(f"/jobs/{uuid4()}/{verb}", headers=caller(settings, "support")), 404)

    async def test_jobs_of_another_owner_are_listed_with_the_permission_only(
        self, client: httpx.AsyncClient, settings: Settings, job_id: UUID
    ) -> None:
        refused(await client.get("/jobs?owner=alice", headers=caller(settings)), READ_JOBS)
