"""The audit log: each act of an operator, by the API and by commands, leaves one record in its own transaction."""

import asyncio
import json
import os
import pwd
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import click
import httpx
import pytest
from fastapi.routing import iter_route_contexts

import notes.jobs  # noqa: F401 - before the registries are replaced, or its kinds would be lost with them
from notes.config import Settings
from notes.main import create_app
from plinth.api.schemas import AuditRead
from plinth.audit import MAX_DETAIL_BYTES, record
from plinth.cli import main
from plinth.database.engine import Database
from plinth.http.schemas import Page
from plinth.identity import sign_local_token
from plinth.identity.api_keys import create_key, read_key
from plinth.jobs import JobContext, State, enqueue, job, schedule
from plinth.jobs import kinds as kinds_module
from plinth.jobs import schedules as schedules_module
from plinth.jobs.admin.jobs import request_cancel, retry_job
from plinth.jobs.admin.queues import pause_queue
from plinth.jobs.engine.scheduler import Scheduler
from plinth.jobs.engine.store import Store
from plinth.jobs.outcome import Finish, error_entry
from plinth.testing import problem
from tests.plinth.integration.jobs.conftest import OLGA, Number, open_store
from tests.support.cli import Run, command_line
from tests.support.notes import settings_with

SECRET = "payload-that-no-record-may-have"
MACHINE = f"cli:{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(
        DATABASE_URL=database_url, REDIS_URL=redis_url, OPERATOR_ROLE="operator", RATE_LIMIT="100000/minute"
    )


@pytest.fixture(autouse=True)
def _one_kind_and_one_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds_module, "_kinds", {})
    monkeypatch.setattr(schedules_module, "_schedules", {})

    @job("greet")
    async def greet(ctx: JobContext, payload: Number) -> None:
        raise NotImplementedError

    schedule(greet, Number(), cron="0 3 * * *", name="nightly")


@pytest.fixture
def operator(settings: Settings) -> dict[str, str]:
    token = sign_local_token(settings, subject="olga", ttl=600, roles=["operator"])
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[Database]:
    engine = Database(settings)
    await Scheduler(engine).declare()
    yield engine
    await engine.aclose()


@pytest.fixture
def run(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Callable[..., Any]]:
    with command_line(tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url) as run:
        yield lambda *arguments: asyncio.to_thread(_ran, run, *arguments)


def _ran(run: Run, *arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


async def waiting(engine: Database, owner: str | None = "alice") -> UUID:
    async with engine.session() as session:
        return (await enqueue(session, "greet", Number(n=1), owner=owner, unique_key=None)).id


async def discarded(engine: Database, owner: str | None = "alice") -> UUID:
    job_id = await waiting(engine, owner)
    store: Store = await open_store(engine)
    kinds = dict(kinds_module.kinds())
    (claimed,) = await store.claim(["default"], kinds, 1)
    error = error_entry("error", run=1, attempt=1, exception=ValueError(SECRET))
    await store.finish([Finish(job_id, claimed.lease, State.DISCARDED, error)])
    return job_id


async def records(sql: asyncpg.Connection) -> list[tuple[str, str, str]]:
    rows = await sql.fetch("SELECT action, target, subject FROM audit_record ORDER BY id")
    return [tuple(row) for row in rows]


# Every changing route of the platform, with what stands in its path, and the record that it leaves.
ROUTES: dict[tuple[str, str], tuple[str, str]] = {
    ("POST", "/queues/{name}/pause"): ("queue.pause", "queue:mail"),
    ("POST", "/queues/{name}/resume"): ("queue.resume", "queue:mail"),
    ("POST", "/schedules/{name}/pause"): ("schedule.pause", "schedule:nightly"),
    ("POST", "/schedules/{name}/resume"): ("schedule.resume", "schedule:nightly"),
    ("POST", "/schedules/{name}/run"): ("schedule.run", "schedule:nightly"),
    ("POST", "/jobs/{job_id}/cancel"): ("job.cancel", "job:{job}"),
    ("POST", "/jobs/{job_id}/retry"): ("job.retry", "job:{job}"),
    ("POST", "/jobs/bulk/actions"): ("jobs.delete", "jobs"),
}
BODIES = {"/jobs/bulk/actions": {"action": "delete", "kind": "greet"}}

# The same of commands. {job} waits where it is to be cancelled, and is a dead letter otherwise.
COMMANDS: dict[tuple[str, ...], tuple[str, str]] = {
    ("jobs", "pause", "mail"): ("queue.pause", "queue:mail"),
    ("jobs", "resume", "mail"): ("queue.resume", "queue:mail"),
    ("jobs", "cancel", "{job}"): ("job.cancel", "job:{job}"),
    ("jobs", "retry", "{job}"): ("job.retry", "job:{job}"),
    ("jobs", "retry", "--kind", "greet"): ("dead_letters.retry", "dead_letters"),
    ("jobs", "cancel-many", "--kind", "greet"): ("jobs.cancel", "jobs"),
    ("jobs", "delete", "{job}"): ("jobs.delete", "jobs"),
    ("jobs", "run-now", "--queue", "default"): ("jobs.run_now", "jobs"),
    ("jobs", "prioritise", "--priority", "-3", "--owner", "alice"): ("jobs.prioritise", "jobs"),
    ("jobs", "enqueue", "greet", '{"n": 7}'): ("job.enqueue", "job:{made}"),
    ("schedules", "pause", "nightly"): ("schedule.pause", "schedule:nightly"),
    ("schedules", "resume", "nightly"): ("schedule.resume", "schedule:nightly"),
    ("schedules", "run", "nightly"): ("schedule.run", "schedule:nightly"),
    ("keys", "create", "deploy"): ("key.create", "key:{key}"),
    ("keys", "revoke", "{key}"): ("key.revoke", "key:{key}"),
}
# Commands that change nothing in the database, or are no operator's: processes, migrations, tokens for development.
OTHERS = {
    *("audit", "jobs list", "jobs show", "jobs sql", "jobs stats", "keys list", "schedules list", "workers"),
    *("config check", "version", "wait", "doctor", "jobs batch", "jobs watch"),
    "jobs import-arq",  # it needs arq's Redis: tests/plinth/integration/cli/test_import_arq.py
    *("run", "with-servers", "api", "worker", "migrate", "token", "log-level", "drain"),
}


def commands(group: click.Group, *parents: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *parents, name)
        else:
            yield " ".join((*parents, name))


def test_every_changing_route_of_the_platform_is_walked_through(settings: Settings) -> None:
    changing = {
        (method, str(context.path).removeprefix("/api/v1"))
        for context in iter_route_contexts(create_app(settings).routes)
        for method in set(context.methods or ()) - {"GET", "HEAD", "OPTIONS"}
        if context.endpoint.__module__.startswith("plinth.")
    }
    assert changing == set(ROUTES)


def test_every_changing_command_is_walked_through() -> None:
    walked = {" ".join(command[:2]) for command in COMMANDS}
    assert set(commands(main)) == walked | OTHERS


class TestRecords:
    @pytest.mark.parametrize(("method", "path"), ROUTES)
    async def test_route_leaves_one_record_of_its_caller(
        self,
        service: httpx.AsyncClient,
        operator: dict[str, str],
        engine: Database,
        sql: asyncpg.Connection,
        method: str,
        path: str,
    ) -> None:
        job_id = await (waiting(engine) if path.endswith("cancel") else discarded(engine))
        name = "nightly" if "schedules" in path else "mail"
        headers = {**operator, "X-Request-ID": "request-of-olga"}
        response = await service.request(
            method, path.format(name=name, job_id=job_id), headers=headers, json=BODIES.get(path)
        )

        assert response.is_success, response.text
        (row,) = await sql.fetch("SELECT * FROM audit_record")
        action, target = ROUTES[method, path]
        assert (row["action"], row["target"]) == (action, target.format(job=job_id))
        assert (row["issuer"], row["subject"]) == (settings_issuer(), "olga")
        assert row["request_id"] == "request-of-olga"
        assert timedelta(0) <= datetime.now(UTC) - row["at"] < timedelta(minutes=1)
        assert SECRET not in repr(dict(row))

    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    async def test_command_leaves_one_record_of_its_system_user(
        self, run: Callable[..., Any], engine: Database, sql: asyncpg.Connection, command: tuple[str, ...]
    ) -> None:
        job_id = await (waiting(engine) if "cancel" in command else discarded(engine))
        async with engine.session() as session:
            key = await create_key(session, "old", scopes=[], expires_in=timedelta(days=1), by=OLGA)
        await sql.execute("TRUNCATE audit_record")
        names = {"{job}": str(job_id), "{key}": str(key.id)}
        printed = (await run(*[names.get(part, part) for part in command])).strip()

        action, target = COMMANDS[command]
        if (made := read_key(printed)) is not None:
            names["{key}"] = str(made.id)
            assert printed.rpartition("_")[2] not in repr(await sql.fetch("SELECT * FROM audit_record"))
        names["{made}"] = printed
        expected = reduce(lambda text, name: text.replace(name, names[name]), names, target)
        (row,) = await sql.fetch("SELECT * FROM audit_record")
        assert (row["action"], row["target"]) == (action, expected)
        assert (row["issuer"], row["subject"], row["request_id"]) == ("plinth:cli", MACHINE, None)
        assert SECRET not in repr(dict(row))
        assert "payload" not in row["detail"]

    async def test_bulk_retry_records_what_was_asked_and_how_many_came_back(
        self, run: Callable[..., Any], engine: Database, sql: asyncpg.Connection
    ) -> None:
        await discarded(engine)
        await run("jobs", "retry", "--kind", "greet", "--limit", "7")
        detail = json.loads(await sql.fetchval("SELECT detail FROM audit_record"))
        assert detail == {"kind": "greet", "since": None, "until": None, "limit": 7, "count": 1}

    async def test_dry_run_is_no_act(self, run: Callable[..., Any], engine: Database, sql: asyncpg.Connection) -> None:
        await discarded(engine)
        await run("jobs", "retry", "--kind", "greet", "--dry-run")
        assert await records(sql) == []

    async def test_caller_s_act_on_its_own_job_is_not_recorded(
        self, api: httpx.AsyncClient, engine: Database, sql: asyncpg.Connection
    ) -> None:
        job_id = await waiting(engine)
        assert (await api.post(f"/jobs/{job_id}/cancel")).status_code == 200
        assert (await api.post(f"/jobs/{job_id}/retry")).status_code == 200
        assert await records(sql) == []

    async def test_operator_s_act_on_its_own_job_is_not_recorded(
        self, service: httpx.AsyncClient, operator: dict[str, str], engine: Database, sql: asyncpg.Connection
    ) -> None:
        job_id = await waiting(engine, "olga")
        assert (await service.post(f"/jobs/{job_id}/cancel", headers=operator)).status_code == 200
        assert await records(sql) == []

    async def test_code_of_the_service_acts_without_a_record(self, engine: Database, sql: asyncpg.Connection) -> None:
        job_id = await waiting(engine)
        async with engine.session() as session:
            await request_cancel(session, job_id)
            await retry_job(session, job_id)
        assert await records(sql) == []

    async def test_refused_act_leaves_no_record(
        self,
        service: httpx.AsyncClient,
        api: httpx.AsyncClient,
        operator: dict[str, str],
        engine: Database,
        sql: asyncpg.Connection,
    ) -> None:
        problem(await api.post("/queues/mail/pause"), 403, "forbidden")
        problem(await service.post("/schedules/daily/pause", headers=operator), 404, "not_found")
        job_id = await waiting(engine)
        problem(await service.post(f"/jobs/{job_id}/retry", headers=operator), 409, "job_not_failed")
        assert await records(sql) == []


def settings_issuer() -> str:
    return Settings.isolated().issuers[0]


class TestTransaction:
    async def test_act_that_is_rolled_back_leaves_no_record(self, engine: Database, sql: asyncpg.Connection) -> None:
        with suppress(ZeroDivisionError):
            async with engine.session() as session:
                await pause_queue(session, "mail", by=OLGA)
                raise ZeroDivisionError
        assert await sql.fetchval("SELECT count(*) FROM job_queue") == 0
        assert await records(sql) == []

    async def test_act_whose_record_cannot_be_written_does_not_happen(
        self, fresh_database_url: str, settings: Settings
    ) -> None:
        connection = await asyncpg.connect(fresh_database_url)
        await connection.execute("DROP TABLE audit_record")
        engine = Database(settings_with(DATABASE_URL=fresh_database_url))
        with pytest.raises(Exception, match="audit_record"):
            async with engine.session() as session:
                await pause_queue(session, "mail", by=OLGA)
        assert await connection.fetchval("SELECT count(*) FROM job_queue") == 0
        await engine.aclose()
        await connection.close()

    async def test_detail_that_is_too_long_is_refused(self, engine: Database) -> None:
        async with engine.session() as session:
            with pytest.raises(ValueError, match="8192 bytes"):
                await record(session, OLGA, "queue.pause", "queue:mail", text="x" * MAX_DETAIL_BYTES)


@pytest.fixture
async def three_acts(engine: Database, sql: asyncpg.Connection) -> list[str]:
    """Records of two actors, the oldest first; that is a day old. Their ids."""
    async with engine.session() as session:
        await pause_queue(session, "mail", by=OLGA)
    await sql.execute("UPDATE audit_record SET at = now() - interval '1 day'")
    async with engine.session() as session:
        await pause_queue(session, "side", by=OLGA)
        await record(session, Caller("otto", "test"), "queue.resume", "queue:mail")
    return [str(row["id"]) for row in await sql.fetch("SELECT id FROM audit_record ORDER BY id")]


class Caller:
    def __init__(self, subject: str, issuer: str) -> None:
        self.subject = subject
        self.issuer = issuer


# A filter, and the records that pass: their places in `three_acts`.
FILTERS = [
    ({}, [2, 1, 0]),
    ({"actor": "olga"}, [1, 0]),
    ({"action": "queue.pause"}, [1, 0]),
    ({"target": "queue:mail"}, [2, 0]),
    ({"actor": "olga", "target": "queue:mail"}, [0]),
    ({"actor": "nina"}, []),
]


class TestApi:
    @pytest.mark.parametrize(("query", "expected"), FILTERS)
    async def test_operator_lists_the_newest_records_by_filter(
        self,
        service: httpx.AsyncClient,
        operator: dict[str, str],
        three_acts: list[str],
        query: dict[str, str],
        expected: list[int],
    ) -> None:
        response = await service.get("/audit", params=query, headers=operator)
        found = Page[AuditRead].model_validate_json(response.content)
        assert [str(one.id) for one in found.items] == [three_acts[place] for place in expected]
        assert found.next_cursor is None

    async def test_records_are_filtered_by_time(
        self, service: httpx.AsyncClient, operator: dict[str, str], three_acts: list[str]
    ) -> None:
        since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        found = (await service.get("/audit", params={"since": since}, headers=operator)).json()["items"]
        assert [one["id"] for one in found] == three_acts[:0:-1]

    async def test_pages_hold_each_record_once(
        self, service: httpx.AsyncClient, operator: dict[str, str], three_acts: list[str]
    ) -> None:
        found: list[str] = []
        address = "/audit?limit=1"
        while True:
            response = await service.get(address, headers=operator)
            found += [one["id"] for one in response.json()["items"]]
            if response.json()["next_cursor"] is None:
                break
            address = "http://service.test" + response.headers["link"].removeprefix("<").removesuffix('>; rel="next"')
        assert found == three_acts[::-1]

    async def test_record_is_shown_with_all_its_fields(
        self, service: httpx.AsyncClient, operator: dict[str, str], engine: Database
    ) -> None:
        job_id = await waiting(engine)
        await service.post(f"/jobs/{job_id}/cancel", headers={**operator, "X-Request-ID": "request-of-olga"})
        (shown,) = (await service.get("/audit", headers=operator)).json()["items"]
        assert set(shown) == {"id", "at", "issuer", "subject", "action", "target", "detail", "request_id"}
        assert (shown["issuer"], shown["subject"]) == (settings_issuer(), "olga")
        assert (shown["action"], shown["target"]) == ("job.cancel", f"job:{job_id}")
        assert shown["detail"] == {"kind": "greet", "owner": "alice"}
        assert shown["request_id"] == "request-of-olga"

    async def test_callers_other_than_operators_are_refused(
        self, service: httpx.AsyncClient, api: httpx.AsyncClient
    ) -> None:
        problem(await api.get("/audit"), 403, "forbidden")
        problem(await service.get("/audit", headers={"Authorization": ""}), 401)

    @pytest.mark.parametrize(
        "query",
        [
            "?actor=",
            f"?actor={'a' * 256}",
            "?action=%00",
            "?since=yesterday",
            "?since=0.5",
            "?since=2030-01-31",
            "?since=2030-01-31T08:00:00",
            "?since=0001-01-01T00:00:00%2B14:00",
            "?since=9999-12-31T23:59:59-14:00",
            "?limit=0",
            "?nonsense=1",
            "?cursor=x",
        ],
    )
    async def test_invalid_query_is_refused(
        self, service: httpx.AsyncClient, operator: dict[str, str], query: str
    ) -> None:
        problem(await service.get(f"/audit{query}", headers=operator), 422, "validation_error")

    @pytest.mark.parametrize("since", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2030-01-31T08:00:00+02:00"])
    async def test_first_and_last_times_are_compared(
        self, service: httpx.AsyncClient, operator: dict[str, str], three_acts: list[str], since: str
    ) -> None:
        assert (await service.get("/audit", params={"since": since}, headers=operator)).status_code == 200


class TestCommand:
    @pytest.mark.parametrize(("options", "expected"), FILTERS)
    async def test_command_lists_the_newest_records_by_filter(
        self, run: Callable[..., Any], three_acts: list[str], options: dict[str, str], expected: list[int]
    ) -> None:
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        found = [json.loads(line) for line in (await run("audit", *arguments, "--json")).splitlines()]
        assert [one["id"] for one in found] == [three_acts[place] for place in expected]

    async def test_command_takes_an_age(self, run: Callable[..., Any], three_acts: list[str]) -> None:
        found = (await run("audit", "--since", "1h", "--json")).splitlines()
        assert [json.loads(line)["id"] for line in found] == three_acts[:0:-1]

    async def test_command_prints_a_table_and_how_to_go_on(
        self, tmp_path: Path, database_url: str, three_acts: list[str]
    ) -> None:
        with command_line(tmp_path, DATABASE_URL=database_url) as run:
            result = await asyncio.to_thread(run, "audit", "--limit", "2", "--action", "queue.pause")
            assert result.stdout.splitlines()[0].split() == [
                *("AT", "ACTOR", "ISSUER", "ACTION", "TARGET", "DETAIL", "REQUEST")
            ]
            result = await asyncio.to_thread(run, "audit", "--limit", "2")
            assert [line.split()[1:5] for line in result.stdout.splitlines()[1:]] == [
                ["otto", "test", "queue.resume", "queue:mail"],
                ["olga", "test", "queue.pause", "queue:side"],
            ]
            found = re.fullmatch(r"More: plinth (audit --before \S+ --limit 2)\n", result.stderr)
            assert found, result.stderr
            result = await asyncio.to_thread(run, *found[1].split(), "--json")
            assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == three_acts[:1]
