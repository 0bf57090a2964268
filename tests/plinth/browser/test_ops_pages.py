"""The pages of /ops in a browser: each flow, by mouse and by keyboard, in both schemes and on a narrow screen."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from notes.config import Settings
from plinth.database.engine import Database
from plinth.identity import sign_local_token
from plinth.jobs import JobContext, JobKind, enqueue, job, schedule
from plinth.jobs import kinds as kinds_module
from plinth.jobs import schedules as schedules_module
from plinth.jobs.engine.scheduler import Scheduler
from plinth.jobs.engine.store import Store
from tests.plinth.integration.jobs.conftest import Number
from tests.support.notes import settings_with

pytest.importorskip("playwright", reason="`make browser-test` installs it")
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.plinth.browser.conftest import PICTURES, TIMEOUT, draws

pytestmark = pytest.mark.slow  # needs more than Python: `make browser-test`

PAGES = ["", "/jobs", "/queues", "/schedules", "/workers", "/dead-letters", "/audit"]
SCHEMES = ["light", "dark"]

DEAD = """
INSERT INTO job_history (kind, queue, priority, payload, max_attempts, attempt, run_lease, created_at, run_at,
    started_at, state, finished_at, errors)
SELECT 'invoice.send', 'mail', 0, '{"invoice": 4711, "to": "a@b.test", "api_key": "sesame-0123456789"}', 5, 2, 2,
    at - interval '95 seconds', at - interval '1 second', at - interval '1 second', 'discarded', at, jsonb_build_array(
        jsonb_build_object('at', at - interval '90 seconds', 'run', 1, 'attempt', 1, 'outcome', 'error', 'error',
            $1::text, 'detail', $1 || ': 451 4.7.1 greylisted', 'traceback', 'Traceback (most recent call last): …'),
        jsonb_build_object('at', at, 'run', 2, 'attempt', 2, 'outcome', 'discard', 'error', $1, 'detail',
            $1 || ': 550 5.7.1 relaying denied', 'traceback', 'Traceback (most recent call last): …'))
FROM generate_series(1, $2) AS n, LATERAL (SELECT now() - n * interval '97 seconds' AS at) AS times RETURNING id
"""
DONE = """
INSERT INTO job_history (kind, queue, priority, payload, max_attempts, attempt, run_lease, run_at, state, finished_at)
SELECT 'report.build', 'default', 0, '{}', 5, 1, 1, now(), 'succeeded',
    now() - (n * n % 3599) * interval '1 second' FROM generate_series(1, $1) AS n
"""


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        OPS_ENABLED=True,
        OPERATOR_ROLE="operator",
        RATE_LIMIT="100000/minute",
        RATE_LIMIT_ANONYMOUS="100000/minute",
    )


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings)
    yield database
    await database.aclose()


@pytest.fixture
def mail(monkeypatch: pytest.MonkeyPatch) -> JobKind[Number]:
    monkeypatch.setattr(kinds_module, "_kinds", dict(kinds_module.kinds()))
    monkeypatch.setattr(schedules_module, "_schedules", {})

    @job("mail.welcome", queue="mail")
    async def mail(ctx: JobContext, payload: Number) -> None:
        pass

    return mail


@pytest.fixture
async def filled(database: Database, mail: JobKind[Number], sql: asyncpg.Connection) -> UUID:
    """Jobs in most states, a schedule and a worker; the id of a dead letter."""
    store = await Store.open_session(
        database,
        name="worker-7d9f",
        version="1.4.0",
        queues=["mail"],
        kinds=[mail.name],
        concurrency=20,
        expire_after=600,
    )
    made = schedule(mail, Number(n=7), cron="0 3 * * *", name="nightly", timezone="Europe/Berlin")
    await Scheduler(database, {"nightly": made}).declare()
    for n in range(8):
        await enqueue(database, mail, Number(n=n), owner=f"customer-{n % 3}", delay=3600 if n > 5 else 0)
    await store.claim(["mail"], {mail.name: mail}, 2)
    dead: UUID = (await sql.fetch(DEAD, "SMTPRecipientsRefused", 7))[0]["id"]
    await sql.fetch(DEAD, "TimeoutError", 2)
    await sql.execute(DONE, 900)
    return dead


@pytest.fixture
async def page(tab: Page, url: str, settings: Settings) -> Page:
    """The first page, after the sign-in."""
    await tab.goto(f"{url}/ops")
    await tab.get_by_label("Token").fill(sign_local_token(settings, subject="olga", ttl=600, roles=["operator"]))
    await tab.get_by_role("button", name="Sign in").click()
    await expect(tab.get_by_role("heading", name="Overview")).to_be_visible(timeout=TIMEOUT)
    return tab


async def test_dead_letter_is_found_read_and_retried(
    page: Page, filled: UUID, sql: asyncpg.Connection, problems: list[str]
) -> None:
    await page.get_by_role("link", name="Jobs", exact=True).click()
    await page.get_by_label("discarded").check()
    await page.get_by_label("Text in an error").fill("relaying")
    await page.get_by_role("button", name="Filter").click()
    await page.get_by_role("link", name=f"invoice.send {filled}").click()
    await expect(page.get_by_role("heading", name="invoice.send discarded")).to_be_visible(timeout=TIMEOUT)
    await expect(page.get_by_label("Payload")).to_contain_text("4711")
    await expect(page.locator("body")).not_to_contain_text("sesame-0123456789")

    await page.get_by_role("link", name="Retry").click()
    await page.get_by_role("button", name="Retry 1 job").click()
    await expect(page.get_by_role("status").first).to_contain_text("1 job will be done again.", timeout=TIMEOUT)
    assert await sql.fetchval("SELECT state FROM job WHERE id = $1", filled) == "available"
    assert problems == []


async def test_many_jobs_are_ticked_counted_and_cancelled(
    page: Page, url: str, filled: UUID, sql: asyncpg.Connection, problems: list[str]
) -> None:
    await page.goto(f"{url}/ops/jobs?state=available")
    await page.get_by_label("All on this page").check()
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.get_by_role("heading", name="Cancel: 4 jobs")).to_be_visible(timeout=TIMEOUT)
    await page.get_by_label("Type 4 to confirm").fill("5")
    await page.get_by_role("button", name="Cancel 4 jobs").click()
    await expect(page.get_by_role("alert")).to_contain_text("Nothing was changed.", timeout=TIMEOUT)
    await page.get_by_label("Type 4 to confirm").fill("4")
    await page.get_by_role("button", name="Cancel 4 jobs").click()
    await expect(page.get_by_role("status").first).to_contain_text("4 jobs cancelled", timeout=TIMEOUT)
    assert await sql.fetchval("SELECT count(*) FROM job_history WHERE state = 'cancelled'") == 4
    # The answer to the wrong number is a 422, which Chromium writes into its console.
    assert [problem for problem in problems if "422" not in problem] == []


async def test_ticks_do_not_move_to_other_jobs_when_the_browser_goes_back(
    page: Page, url: str, filled: UUID, database: Database, mail: JobKind[Number]
) -> None:
    await page.goto(f"{url}/ops/jobs?state=available")
    await page.get_by_role("checkbox", name="Tick mail.welcome").nth(1).check()
    await page.get_by_role("button", name="Delete").click()
    await expect(page.get_by_role("heading", name="Delete: 1 job")).to_be_visible(timeout=TIMEOUT)
    await enqueue(database, mail, Number())
    await page.go_back()
    await expect(page.get_by_role("checkbox", name="Tick mail.welcome")).to_have_count(5, timeout=TIMEOUT)
    assert await page.locator("input[name=id]:checked").count() == 0


async def test_progress_moves_without_a_reload_until_the_end(
    page: Page, url: str, filled: UUID, sql: asyncpg.Connection, problems: list[str]
) -> None:
    job_id = await sql.fetchval(
        "UPDATE job SET progress_done = 1, progress_total = 4 WHERE state = 'running' RETURNING id"
    )
    await page.goto(f"{url}/ops/jobs/{job_id}")
    await expect(page.get_by_label("Progress: 1 of 4")).to_be_visible(timeout=TIMEOUT)
    await page.evaluate("window.same = true")
    await sql.execute("UPDATE job SET progress_done = 3 WHERE id = $1", job_id)
    await expect(page.get_by_label("Progress: 3 of 4")).to_be_visible(timeout=TIMEOUT)
    await sql.execute(
        "WITH gone AS (DELETE FROM job WHERE id = $1 RETURNING *)"
        " INSERT INTO job_history"
        " (id, kind, queue, priority, payload, max_attempts, run_at, state, finished_at, result)"
        " SELECT id, kind, queue, priority, payload, max_attempts, run_at, 'succeeded', now(), '{\"sent\": 7}'"
        " FROM gone",
        job_id,
    )
    await expect(page.get_by_role("heading", name="mail.welcome succeeded")).to_be_visible(timeout=TIMEOUT)
    await expect(page.get_by_label("Result")).to_contain_text('"sent": 7')
    assert await page.evaluate("window.same")
    assert await page.locator("[hx-trigger]").count() == 0
    assert problems == []


async def test_overview_is_live_while_it_is_looked_at(
    page: Page, database: Database, mail: JobKind[Number], problems: list[str]
) -> None:
    waiting = page.locator(".figures div").filter(has_text="Waiting").locator("dd")
    await expect(waiting).to_have_text("0", timeout=TIMEOUT)
    await enqueue(database, mail, Number())
    await expect(waiting).to_have_text("1", timeout=TIMEOUT)

    await page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.wait_for_timeout(3000)
    assert asked == []
    await page.evaluate("delete document.hidden")
    await enqueue(database, mail, Number())
    await expect(waiting).to_have_text("2", timeout=TIMEOUT)
    assert problems == []


async def test_lost_contact_is_told_until_it_is_back(page: Page) -> None:
    await page.route("**/ops/now", lambda route: route.abort())
    await expect(page.locator("#contact")).to_be_visible(timeout=TIMEOUT)
    await page.unroute("**/ops/now")
    await expect(page.locator("#contact")).to_be_hidden(timeout=TIMEOUT)


async def test_service_that_does_not_answer_is_told_as_lost_contact(page: Page) -> None:
    await page.route("**/ops/now", lambda _: None)
    await expect(page.locator("#contact")).to_be_visible(timeout=TIMEOUT)


async def test_job_that_was_deleted_is_told(page: Page, url: str, filled: UUID, sql: asyncpg.Connection) -> None:
    job_id = await sql.fetchval("SELECT id FROM job WHERE state = 'running'")
    await page.goto(f"{url}/ops/jobs/{job_id}")
    await sql.execute("DELETE FROM job WHERE id = $1", job_id)
    await expect(page.get_by_role("alert")).to_contain_text("There is no such job.", timeout=TIMEOUT)


async def test_session_that_has_ended_leads_to_the_sign_in(page: Page) -> None:
    await page.context.clear_cookies()
    await page.wait_for_url("**/ops/sign-in?next=**", timeout=TIMEOUT)
    assert page.url.endswith("next=%2Fops")


async def test_queue_is_paused_and_a_schedule_is_run(
    page: Page, filled: UUID, sql: asyncpg.Connection, problems: list[str]
) -> None:
    await page.get_by_role("link", name="Queues").click()
    await page.get_by_role("button", name="Pause mail").click()
    await expect(page.get_by_role("button", name="Resume mail")).to_be_visible(timeout=TIMEOUT)
    assert await sql.fetchval("SELECT name FROM job_queue") == "mail"
    await page.get_by_role("link", name="Schedules").click()
    await page.get_by_role("button", name="Run now: nightly").click()
    await expect(page.get_by_role("heading", name="mail.welcome available")).to_be_visible(timeout=TIMEOUT)
    await page.get_by_role("link", name="Audit log").click()
    await expect(page.get_by_role("cell", name="schedule.run")).to_be_visible(timeout=TIMEOUT)
    assert problems == []


async def test_second_click_while_the_first_is_answered_does_nothing(
    page: Page, url: str, filled: UUID, sql: asyncpg.Connection
) -> None:
    await page.goto(f"{url}/ops/schedules")
    button = await page.get_by_role("button", name="Run now: nightly").bounding_box()
    assert button is not None
    async with sql.transaction():
        await sql.execute("LOCK TABLE job")
        for _ in range(2):
            await page.mouse.click(button["x"] + 5, button["y"] + 5)  # a click on the element would wait for the answer
            await asyncio.sleep(0.5)
    await expect(page.get_by_role("heading", name="mail.welcome available")).to_be_visible(timeout=TIMEOUT)
    assert await sql.fetchval("SELECT count(*) FROM audit_record WHERE action = 'schedule.run'") == 1
    await page.go_back()
    await page.get_by_role("button", name="Pause: nightly").click()
    await expect(page.get_by_role("button", name="Resume: nightly")).to_be_visible(timeout=TIMEOUT)


async def test_keyboard_alone_reaches_the_content_and_the_tables(page: Page, url: str, filled: UUID) -> None:
    await page.goto(f"{url}/ops/jobs")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("scheduled")).to_be_focused()
    table = page.get_by_role("region", name="Jobs, the newest first")
    for _ in range(40):
        await page.keyboard.press("Tab")
        if await table.evaluate("element => element === document.activeElement"):
            break
    await expect(table).to_be_focused()
    outline = await table.evaluate("element => getComputedStyle(element).outlineStyle")
    assert outline == "solid"


async def test_poll_leaves_the_focus_where_it_is(page: Page, url: str, filled: UUID) -> None:
    link = page.locator("#queue-mail")
    await link.focus()
    async with page.expect_response("**/ops/now"):
        pass
    await page.wait_for_timeout(300)
    await expect(link).to_be_focused()


class TestInTokyo:
    @pytest.fixture
    def context_options(self) -> dict[str, Any]:
        return {"timezone_id": "Asia/Tokyo", "locale": "en-GB"}

    async def test_times_are_those_of_the_reader(self, page: Page, url: str, filled: UUID) -> None:
        await page.goto(f"{url}/ops/schedules")
        await expect(page.locator("#zone")).to_have_text("Times are in Asia/Tokyo.")
        slot = page.locator("time").first
        utc = await slot.get_attribute("datetime")
        assert utc is not None
        hour = (int(utc[11:13]) + 9) % 24
        await expect(slot).to_contain_text(f" {hour:02}:00:00")


class TestWithoutScripts:
    @pytest.fixture
    def context_options(self) -> dict[str, Any]:
        return {"java_script_enabled": False}

    async def test_pages_work_and_tell_times_in_utc(
        self, page: Page, url: str, filled: UUID, sql: asyncpg.Connection
    ) -> None:
        await expect(page.locator("#zone")).to_have_text("Times are in UTC.")
        await page.goto(f"{url}/ops/jobs")
        await expect(page.get_by_label("All that match")).to_be_visible(timeout=TIMEOUT)
        await expect(page.get_by_label("All on this page")).to_be_hidden()
        await page.goto(f"{url}/ops/dead-letters")
        await page.get_by_role("link", name="Delete invoice.send: SMTPRecipientsRefused").click()
        await page.get_by_label("Type 7 to confirm").fill("7")
        await page.get_by_role("button", name="Delete 7 jobs").click()
        await expect(page.get_by_role("status").first).to_contain_text("7 jobs deleted.", timeout=TIMEOUT)
        assert await sql.fetchval("SELECT count(*) FROM job_history WHERE state = 'discarded'") == 2


@pytest.mark.parametrize("scheme", SCHEMES)
class TestAxe:
    @pytest.fixture
    def context_options(self, scheme: str) -> dict[str, Any]:
        return {"color_scheme": scheme}

    async def test_axe_finds_nothing_serious_on_any_page(
        self, page: Page, url: str, filled: UUID, problems: list[str]
    ) -> None:
        await page.goto(f"{url}/ops/jobs?since=never")
        found = await serious(page)
        paths = [*PAGES, f"/jobs/{filled}", f"/jobs/confirm?action=delete&id={filled}", "/jobs?state=discarded"]
        for path in paths:
            await page.goto(f"{url}/ops{path}")
            await expect(page.locator("h1")).to_be_visible(timeout=TIMEOUT)
            found += [f"{path}: {rule}" for rule in await serious(page)]
        assert found == []
        assert [problem for problem in problems if "422" not in problem] == []


async def serious(page: Page) -> list[str]:
    """The rules that a page breaks, with the first place of each."""
    answer: dict[str, Any] = (await Axe().run(page)).response
    assert len(answer["passes"]) > 10
    return [
        f"{rule['id']} {rule['nodes'][0]['html'][:200]}"
        for rule in answer["violations"]
        if rule["impact"] in ("serious", "critical")
    ]


class TestNarrow:
    @pytest.fixture
    def context_options(self) -> dict[str, Any]:
        return {"viewport": {"width": 360, "height": 740}}

    async def test_pages_fit_a_narrow_screen(self, page: Page, url: str, filled: UUID) -> None:
        for path in (*PAGES, f"/jobs/{filled}", f"/jobs/confirm?action=delete&id={filled}"):
            await page.goto(f"{url}/ops{path}")
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= 360, path


@draws
class TestPictures:
    @pytest.fixture
    def context_options(self) -> dict[str, Any]:
        return {"viewport": {"width": 900, "height": 600}}

    async def test_pictures_of_the_documentation(self, page: Page, url: str, filled: UUID) -> None:
        for name, path in (
            ("overview", ""),
            ("jobs", "/jobs?state=discarded&state=running"),
            ("job", f"/jobs/{filled}"),
        ):
            await page.goto(f"{url}/ops{path}")
            await page.locator("h1").wait_for()
            await page.screenshot(path=PICTURES / f"ops-{name}.png")
