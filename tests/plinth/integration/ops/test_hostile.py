"""What hostile owners of jobs, pages and operators of little rights try at /ops."""

import json
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from tests.support.ops import OPS, csrf_of, from_a_page

Make = Callable[..., Awaitable[UUID]]
Records = Callable[[], Awaitable[list[tuple[str, str, str]]]]

EVIL = (
    "\"'><script>evil(1)</script><img src=x onerror=evil(1)> hx-get=//evil.test {{ 7*7 }} javascript:evil(1) </pre>"
    "</title></textarea><a href='javascript:evil(1)'>"
)
PLANT = """
INSERT INTO {table} (id, kind, queue, priority, payload, max_attempts, attempt, run_lease, run_at, started_at, state,
    errors, trace_context, owner, unique_key, limit_key, batch_id {columns})
VALUES ($1, $2::text, $2::text, 0, jsonb_build_object($2::text, $2::text), 1, 1, 1, now(), now(), '{state}',
    jsonb_build_array(jsonb_build_object('at', now(), 'run', 1, 'attempt', 1, 'outcome', $2::text, 'error', $2::text,
        'detail', $2::text || '.', 'traceback', $2::text)),
    jsonb_build_object('traceparent', '00-' || $2::text), $2::text, $2::text, $2::text, $3 {values})
"""


class Markup(HTMLParser):
    """Collects what a page is made of, as a browser reads it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links |= {value or "" for name, value in attrs if name in ("href", "src", "action", "hx-get")}


@pytest.fixture
async def planted(sql: asyncpg.Connection) -> tuple[UUID, UUID]:
    """Two jobs, a live one and one that has failed, that say EVIL wherever a text is."""
    live, ended, batch = uuid4(), uuid4(), uuid4()
    await sql.execute("INSERT INTO job_batch (id, parent_id) VALUES ($1, $2)", batch, ended)
    name = EVIL[:100]
    await sql.execute(
        PLANT.format(
            table="job", state="available", columns=", progress_done, progress_message", values=f", 1, '{EVIL[2:20]}'"
        ),
        *(live, name, batch),
    )
    await sql.execute(
        PLANT.format(
            table="job_history",
            state="discarded",
            columns=", finished_at, result",
            values=", now(), to_jsonb($2::text)",
        ),
        *(ended, name, batch),
    )
    for job_id in (live, ended):
        await sql.execute(
            "INSERT INTO job_step (job_id, name, kind, state, event, result, error) VALUES"
            " ($1, $2::text, 'event', 'waiting', 'batch:' || $2::text, NULL, NULL),"
            " ($1, $2::text || 1, 'step', 'done', NULL, to_jsonb($2::text), NULL),"
            " ($1, $2::text || 2, 'step', 'failed', $2::text, NULL, $2::text)",
            job_id,
            name,
        )
    await sql.execute("INSERT INTO job_queue (name) VALUES ($1)", name)
    await sql.execute(
        "INSERT INTO job_schedule (name, kind, cron, timezone, last_slot)"
        " VALUES ($1::text, $1::text, $1::text, $1::text, now())",
        name,
    )
    await sql.execute(
        "INSERT INTO audit_record (issuer, subject, action, target, detail)"
        " VALUES ($1::text, $1::text, left($1::text, 50), 'job:' || $1::text, jsonb_build_object($1::text, $1::text))",
        name,
    )
    return live, ended


async def test_what_jobs_say_is_never_markup(operator: httpx.AsyncClient, planted: tuple[UUID, UUID]) -> None:
    live, ended = planted
    evil = quote(EVIL)
    for path in (
        *("", "/now", "/last-hour", "/jobs", "/queues", "/schedules", "/workers", "/dead-letters", "/audit"),
        *(f"/jobs/{live}", f"/jobs/{ended}", f"/jobs/confirm?action=retry&id={ended}"),
        *(f"/jobs?kind={evil}&owner={evil}&error={evil}&since={evil}&batch={evil}&state={evil}&before={evil}",),
        *(f"/jobs/confirm?action=delete&all=1&owner={quote(EVIL[:100])}", f"/jobs/confirm?action={evil}&all=1"),
        *(
            f"/audit?actor={evil}&since={evil}&before={evil}",
            f"/sign-in?next={evil}",
            f"/jobs?done={evil}&count={evil}",
        ),
        *(f"/jobs/{evil}", f"/nothing/{evil}"),
    ):
        page = await operator.get(f"{OPS}{path}")
        assert page.status_code < 500, (path, page.text)
        if not page.headers["content-type"].startswith("text/html"):
            assert page.headers["x-content-type-options"] == "nosniff"
            continue
        made = Markup(page.text)
        assert not made.tags & {"img", "textarea", "iframe", "object", "base", "style"}, path
        assert not [name for name in made.attributes if name.startswith("on")], path
        assert all(link.startswith(("/ops", "?", "#content", "https://traces.test/")) for link in made.links), (
            path,
            made.links,
        )
        assert page.text.count("<script") in (0, 2), path
    for path in ("/jobs", "/queues", "/schedules", "/dead-letters", "/audit", f"/jobs/{live}", f"/jobs/{ended}"):
        assert "&lt;script&gt;evil(1)" in (await operator.get(f"{OPS}{path}")).text, path


SECRET = "token=sesame0123456789"


async def test_secrets_are_masked_wherever_a_job_has_them(
    operator: httpx.AsyncClient, sql: asyncpg.Connection, dead: Make
) -> None:
    job_id = await dead(SECRET)
    nested = json.dumps([{"deep": [{"api_key": "sesame0123456789"}, ["password", "sesame0123456789"]]}, SECRET])
    await sql.execute(
        "UPDATE job_history SET payload = jsonb_build_object('list', $2::jsonb), result = $2::jsonb,"
        " unique_key = $3::text, limit_key = $3::text, progress_done = 1, progress_message = $3::text WHERE id = $1",
        *(job_id, nested, SECRET),
    )
    await sql.execute(
        "INSERT INTO job_step (job_id, name, kind, state, event, result, error) VALUES"
        " ($1, 'a', 'event', 'waiting', $3::text, NULL, NULL), ($1, 'b', 'step', 'done', NULL, $2, NULL),"
        " ($1, 'c', 'step', 'failed', NULL, NULL, $3::text)",
        *(job_id, nested, SECRET),
    )
    await sql.execute(
        "INSERT INTO audit_record (issuer, subject, action, target, detail)"
        " VALUES ('test', 'ann', 'jobs.retry', 'jobs', jsonb_build_object('error', $1::text))",
        SECRET,
    )
    for path in (f"/jobs/{job_id}", "/jobs", "/dead-letters", "/audit"):
        page = (await operator.get(f"{OPS}{path}")).text
        assert "********" in page, path
        assert "sesame" not in page, path


@pytest.mark.parametrize(
    "query",
    [
        *(f"{name}={year}" for name in ("since", "until") for year in ("0001-01-01T00:00Z", "9999-12-31T23:59:59.9Z")),
        *("since=999999999d", "until=0001-01-01T00:00%2B14:00", "since=2026-W01-1", "since=%D9%A3h"),
        *("kind=%ff%fe", "kind=%ed%a0%80", "owner=%09", "error=%25_%5c", "error=%22", "error=%F0%9F%98%80"),
        *("before=00000000-0000-0000-0000-000000000000", "before=ffffffff-ffff-ffff-ffff-ffffffffffff"),
        *(f"before={'%D9%A3' * 32}", "batch={00000000000000000000000000000000}", "done=retry&count=%D9%A3"),
        *(f"error={'x' * 1002}", f"kind={'x' * 30_000}", "&".join(["state=running"] * 900)),
    ],
)
async def test_no_address_is_a_failure_of_the_page(operator: httpx.AsyncClient, query: str) -> None:
    for path in ("/jobs?", "/jobs/confirm?action=delete&all=1&", "/jobs/confirm?action=retry&all=1&", "/audit?"):
        assert (await operator.get(f"{OPS}{path}{query}")).status_code in (200, 400, 422), path


@pytest.mark.parametrize("host", ["[", "[::1", "a b", "service.test:x", "[::1]:1", "", "service.test:99999"])
async def test_no_host_is_a_failure_of_the_page(operator: httpx.AsyncClient, host: str) -> None:
    for path in ("", "/sign-in", "/sign-in/start"):
        assert (await operator.get(f"{OPS}{path}", headers={"Host": host})).status_code < 500


async def test_names_in_paths_lead_to_nothing_else(operator: httpx.AsyncClient, records: Records) -> None:
    csrf = csrf_of(await operator.get(OPS))
    for name in (
        "%ff",
        "%00",
        "a%2fb",
        "..",
        "%2e%2e",
        ".",
        "x" * 101,
        "%C3%A9",
        "%ed%a0%80",
        "-a",
        "a%0a",
        "a%0d%0ab",
    ):
        for path in (f"/queues/{name}/pause", f"/schedules/{name}/run"):
            page = await operator.post(f"{OPS}{path}", data={"csrf": csrf}, headers=from_a_page())
            assert page.status_code in (404, 422), path
    assert await records() == []


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
async def test_no_other_method_changes_anything(operator: httpx.AsyncClient, records: Records, method: str) -> None:
    csrf = csrf_of(await operator.get(OPS))
    for path in ("/jobs/act", "/queues/a/pause", "/schedules/a/pause", "/sign-out"):
        headers = from_a_page() | {"X-CSRF-Token": csrf, "X-HTTP-Method-Override": "POST"}
        answer = await operator.request(method, f"{OPS}{path}", headers=headers)
        assert answer.status_code in (405, 422), path
    assert await records() == []
    assert (await operator.get(OPS)).status_code == 200


@pytest.mark.parametrize(
    "path", ["../templates/base.html", "..%2ftemplates/base.html", "%2e%2e/pages.py", "%00", "//etc/passwd"]
)
async def test_nothing_but_the_files_of_the_pages_is_served(operator: httpx.AsyncClient, path: str) -> None:
    assert (await operator.get(f"{OPS}/static/{path}")).status_code in (404, 405)
