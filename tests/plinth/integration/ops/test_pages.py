"""The pages beside those of jobs: overview, queues, schedules, workers, dead letters, the audit log."""

import re
from collections.abc import Awaitable, Callable
from html import unescape
from uuid import UUID

import asyncpg
import httpx
import pytest
from fastapi.routing import iter_route_contexts

from notes.config import Settings
from notes.main import create_app
from plinth.database.engine import Database
from plinth.jobs import JobKind, schedule
from plinth.jobs.engine.scheduler import Scheduler
from tests.plinth.integration.jobs.conftest import Number, open_store
from tests.plinth.integration.ops.conftest import Act
from tests.support.ops import OPS, csrf_of, from_a_page

Make = Callable[..., Awaitable[UUID]]
Records = Callable[[], Awaitable[list[tuple[str, str, str]]]]

PAGES = ["", "/jobs", "/queues", "/schedules", "/workers", "/dead-letters", "/audit"]


class TestEveryPage:
    @pytest.mark.parametrize("path", PAGES)
    async def test_page_is_shown_where_there_is_nothing(self, operator: httpx.AsyncClient, path: str) -> None:
        page = await operator.get(f"{OPS}{path}")
        assert page.status_code == 200
        assert page.text.count("<h1") == 1
        assert page.text.count('aria-current="page"') == 1
        assert 'class="skip"' in page.text

    @pytest.mark.parametrize("path", PAGES)
    async def test_page_has_no_script_or_style_of_its_own_and_a_strict_policy(
        self, operator: httpx.AsyncClient, dead: Make, path: str
    ) -> None:
        await dead()
        page = await operator.get(f"{OPS}{path}")
        assert "unsafe" not in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son[a-z]+=|hx-on|hx-vals=.js", page.text)

    @pytest.mark.parametrize("path", [*PAGES, "/now", "/last-hour"])
    async def test_page_is_for_operators_that_are_signed_in(self, operator: httpx.AsyncClient, path: str) -> None:
        operator.cookies.clear()
        page = await operator.get(f"{OPS}{path}")
        assert page.status_code == 303
        assert page.headers["location"].startswith("/ops/sign-in?next=")


class TestEveryChange:
    """Each route of the pages that a form is posted to."""

    @pytest.fixture
    def paths(self, settings: Settings) -> list[str]:
        routes = iter_route_contexts(create_app(settings).routes)
        paths = [route.path_format or "" for route in routes if route.methods and "POST" in route.methods]
        found = [path for path in paths if path.startswith("/ops/") and not path.startswith("/ops/sign-")]
        assert "/ops/jobs/act" in found
        assert len(found) == 3
        return [f"https://service.test{path.format(name='default', change='pause')}" for path in found]

    async def test_reader_may_not_change_anything(
        self, reader: httpx.AsyncClient, paths: list[str], records: Records
    ) -> None:
        csrf = csrf_of(await reader.get(OPS))
        for path in paths:
            refused = await reader.post(path, data={"csrf": csrf}, headers=from_a_page())
            assert refused.status_code == 403
            assert "without the permission plinth:jobs:operate. Sign out to sign in as another user." in refused.text
        assert await records() == []

    async def test_form_of_another_session_changes_nothing(
        self, operator: httpx.AsyncClient, paths: list[str], records: Records
    ) -> None:
        for path in paths:
            assert (await operator.post(path, data={"csrf": "other"}, headers=from_a_page())).status_code == 403
            assert (await operator.get(path)).status_code in (404, 405, 422)
        assert await records() == []


class TestOverview:
    async def test_overview_counts_queues_workers_and_the_last_hour(
        self, operator: httpx.AsyncClient, database: Database, waiting: Make, dead: Make
    ) -> None:
        await open_store(database)
        for _ in range(3):
            await waiting()
        await dead()
        page = (await operator.get(OPS)).text
        assert re.search(r'<a id="waiting" href="/ops/jobs\?state=available">3</a>', page)
        assert re.search(r'<a id="workers" href="/ops/workers">1</a>', page)
        assert 'href="/ops/jobs?queue=mail"' in page
        assert "0 jobs succeeded" in page
        assert "1 failed for good" in page
        assert page.count('<rect class="bad"') == 1

    async def test_count_that_has_stopped_says_so(self, operator: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
        await sql.execute(
            "INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state)"
            " SELECT 'test.mail', queue, 0, '{}', 1, now() + interval '1 h', state FROM (VALUES"
            " ('large', 'available', 10001), ('both', 'scheduled', 9000), ('both', 'retryable', 1001),"
            " ('small', 'available', 7)) AS made (queue, state, jobs), generate_series(1, jobs)"
        )
        page = (await operator.get(OPS)).text
        assert re.search(r'<a id="waiting"[^>]*>10,007\+</a>', page)
        assert re.search(r'<a id="running"[^>]*>0</a>', page)
        cells = {
            name: re.findall(r'<td class="number">([\d,+]+)</td>', rest)
            for name, rest in re.findall(r'<a id="queue-(\w+)"(.*?)</tr>', page, re.DOTALL)
        }
        assert cells["large"] == ["10,000+", "0", "0", "0"]
        assert cells["small"] == ["7", "0", "0", "0"]
        assert all(count.endswith("+") for count in cells["both"][2:])

    async def test_live_parts_are_answered_alone(self, operator: httpx.AsyncClient, waiting: Make) -> None:
        await waiting()
        for path, own in (("/now", "now"), ("/last-hour", "last-hour")):
            part = (await operator.get(f"{OPS}{path}")).text
            assert part.strip().startswith(f'<div id="{own}" hx-get="/ops{path}"')
            assert "<html" not in part


class TestQueues:
    async def test_queue_is_paused_and_resumed(
        self, operator: httpx.AsyncClient, post: Act, waiting: Make, sql: asyncpg.Connection, records: Records
    ) -> None:
        await waiting()
        done = await post("/queues/mail/pause")
        assert (done.status_code, done.headers["location"]) == (303, "/ops/queues")
        assert await sql.fetchval("SELECT name FROM job_queue") == "mail"
        assert 'aria-label="Resume mail"' in (await operator.get(f"{OPS}/queues")).text
        await post("/queues/mail/resume")
        assert await sql.fetchval("SELECT count(*) FROM job_queue") == 0
        assert await records() == [("olga", "queue.pause", "queue:mail"), ("olga", "queue.resume", "queue:mail")]

    async def test_reader_has_no_buttons_and_pauses_nothing(
        self, reader: httpx.AsyncClient, waiting: Make, sql: asyncpg.Connection
    ) -> None:
        await waiting()
        page = (await reader.get(f"{OPS}/queues")).text
        assert "mail" in page
        assert "Pause" not in page


class TestSchedules:
    @pytest.fixture
    async def nightly(self, database: Database, mail: JobKind[Number]) -> None:
        made = schedule(mail, Number(n=7), cron="0 3 * * *", name="nightly", timezone="Europe/Berlin")
        await Scheduler(database, {"nightly": made}).declare()

    async def test_schedule_is_shown_with_its_next_times(self, operator: httpx.AsyncClient, nightly: None) -> None:
        page = (await operator.get(f"{OPS}/schedules")).text
        assert "0 3 * * *" in page
        assert "Europe/Berlin" in page
        assert page.count("<time ") == 4  # three slots, and the last

    async def test_schedule_is_paused_resumed_and_run(
        self,
        operator: httpx.AsyncClient,
        post: Act,
        nightly: None,
        sql: asyncpg.Connection,
        records: Records,
    ) -> None:
        await post("/schedules/nightly/pause")
        assert "paused" in (await operator.get(f"{OPS}/schedules")).text
        await post("/schedules/nightly/resume")
        done = await post("/schedules/nightly/run")
        job_id = await sql.fetchval("SELECT id FROM job")
        assert done.headers["location"] == f"/ops/jobs/{job_id}"
        assert [action for _, action, _ in await records()] == ["schedule.pause", "schedule.resume", "schedule.run"]

    async def test_schedule_that_there_is_not_is_not_found(self, post: Act) -> None:
        for change in ("pause", "resume", "run"):
            assert (await post(f"/schedules/none/{change}")).status_code == 404
        assert (await post("/schedules/none/explode")).status_code == 422


async def test_workers_are_shown_with_what_they_run(operator: httpx.AsyncClient, database: Database) -> None:
    await open_store(database)
    page = (await operator.get(f"{OPS}/workers")).text
    assert "alive" in page
    assert "0 of 1" in page


async def test_dead_letters_are_grouped_and_lead_to_their_jobs(operator: httpx.AsyncClient, dead: Make) -> None:
    for error in ("Refused & lost", "Refused & lost", "Late", "Too Late"):
        await dead(error)
    page = (await operator.get(f"{OPS}/dead-letters")).text
    (query,) = set(re.findall(r'href="/ops/jobs\?([^"]+Refused[^"]+)"', page))
    listed = await operator.get(f"{OPS}/jobs?{query.replace('&amp;', '&')}")
    assert listed.text.count('<th scope="row">') == 2
    assert "hunter2hunter2" not in page
    confirms = re.findall(r'href="(/ops/jobs/confirm[^"]+)"', page)
    (retry,) = [found for found in confirms if "retry" in found and "=%22Late" in found]
    assert "Retry: 1 job" in (await operator.get(f"https://service.test{retry.replace('&amp;', '&')}")).text


@pytest.mark.parametrize(
    "error", ["password=hunter2hunter2", "two\nlines", "a\ttab", "long " * 200, "a\r\nb", ' "quoted" ']
)
async def test_dead_letters_of_any_error_are_done_again_as_a_browser_sends_the_form(
    operator: httpx.AsyncClient, post: Act, dead: Make, sql: asyncpg.Connection, error: str
) -> None:
    job_id, other = await dead(error), await dead(error.strip() + ".")
    page = (await operator.get(f"{OPS}/dead-letters")).text
    assert "hunter2hunter2" not in page
    groups = [
        found.replace("&amp;", "&") for found in re.findall(r'href="(/ops/jobs/confirm[^"]+action=retry[^"]+)"', page)
    ]
    assert len(groups) == 2
    for address in groups:
        asked = (await operator.get(f"https://service.test{address}")).text
        assert "Retry: 1 job" in asked
        fields = {
            name: unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', asked)
        }
        # Browsers send each line break as \r\n.
        done = await post(
            "/jobs/act", **{name: re.sub(r"\r?\n", "\r\n", value) for name, value in fields.items() if name != "csrf"}
        )
        assert done.headers["location"].endswith("count=1")
        assert (await operator.get(f"https://service.test{done.headers['location']}")).status_code == 200
    assert {row["id"] for row in await sql.fetch("SELECT id FROM job")} == {job_id, other}


class TestAudit:
    async def test_records_are_listed_and_narrowed(self, operator: httpx.AsyncClient, post: Act) -> None:
        await post("/queues/mail/pause")
        await post("/queues/web/pause")
        page = (await operator.get(f"{OPS}/audit")).text
        assert "queue:mail" in page
        assert "queue:web" in page
        page = (await operator.get(f"{OPS}/audit?target=queue:mail&actor=olga&action=queue.pause&since=1h")).text
        assert page.count("queue:mail</td>") == 1
        assert "queue:web" not in page

    async def test_records_come_in_pages(self, operator: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
        await sql.execute(
            "INSERT INTO audit_record (issuer, subject, action, target, detail)"
            " SELECT 'test', 'ann', 'queue.pause', 'queue:q' || n, '{}' FROM generate_series(1, 60) AS n"
        )
        first = (await operator.get(f"{OPS}/audit?actor=ann")).text
        assert first.count("<td>queue:q") == 50
        (following,) = re.findall(r'rel="next" href="([^"]+)"', first)
        second = (await operator.get(f"https://service.test{following.replace('&amp;', '&')}")).text
        assert second.count("<td>queue:q") == 10

    @pytest.mark.parametrize("query", ["since=never", "before=7", "actor=%00"])
    async def test_filter_that_cannot_be_read_is_named(self, operator: httpx.AsyncClient, query: str) -> None:
        page = await operator.get(f"{OPS}/audit?{query}")
        assert page.status_code == 422
        assert 'class="problem"' in page.text or 'role="alert"' in page.text
