"""The pages of jobs: the list and its filters, one job, and what an operator does with one or with many."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from plinth.database.uuid7 import first_uuid7
from tests.plinth.integration.ops.conftest import Act
from tests.support.ops import OPS

Make = Callable[..., Awaitable[UUID]]
Records = Callable[[], Awaitable[list[tuple[str, str, str]]]]


def listed(page: httpx.Response) -> list[UUID]:
    """The jobs that a page lists, in its order."""
    assert page.status_code == 200, page.text
    return [UUID(found) for found in re.findall(r'<th scope="row"><a href="/ops/jobs/([0-9a-f-]{36})"', page.text)]


async def state(sql: asyncpg.Connection, job_id: UUID) -> str | None:
    found: str | None = await sql.fetchval(
        "SELECT state FROM job WHERE id = $1 UNION ALL SELECT state FROM job_history WHERE id = $1", job_id
    )
    return found


class TestList:
    async def test_filters_of_the_address_narrow_the_list(
        self, operator: httpx.AsyncClient, waiting: Make, dead: Make
    ) -> None:
        refused, lost = await dead("Refused"), await dead("Lost")
        mine, other = await waiting(owner="alice"), await waiting(owner="bob")
        for query, expected in (
            ("", [other, mine, lost, refused]),
            ("?kind=&queue=&since=", [other, mine, lost, refused]),
            ("?kind=test.mail", [other, mine]),
            ("?queue=default", [lost, refused]),
            ("?state=discarded&state=running", [lost, refused]),
            ("?owner=alice", [mine]),
            ("?error=REFUSED", [refused]),
            ("?since=1h&until=2100-01-01T00:00Z", [other, mine, lost, refused]),
            ("?until=1h", []),
            (f"?batch={uuid4()}", []),
            (f"?before={mine}", [lost, refused]),
        ):
            assert listed(await operator.get(f"{OPS}/jobs{query}")) == expected, query

    async def test_owner_with_a_blank_is_another_one(self, operator: httpx.AsyncClient, waiting: Make) -> None:
        alice, other = await waiting(owner="alice"), await waiting(owner=" alice")
        (link,) = re.findall(r'href="(/ops/jobs\?owner=[^"]+)"', (await operator.get(f"{OPS}/jobs/{other}")).text)
        assert listed(await operator.get(f"https://service.test{link}")) == [other]
        assert listed(await operator.get(f"{OPS}/jobs?owner=alice&kind=+test.mail+")) == [alice]

    async def test_filters_stay_in_the_form(self, operator: httpx.AsyncClient) -> None:
        page = (await operator.get(f"{OPS}/jobs?kind=a%22b&state=running&since=2h")).text
        assert 'name="kind" value="a&#34;b"' in page
        assert 'value="running" checked' in page
        assert 'name="since" value="2h"' in page

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ("since=yesterday", "Expected a time such as"),
            ("batch=7", "Expected an id"),
            ("before=7", "Expected an id"),
            ("state=asleep", "There is no state asleep."),
            ("error=%00", "No job has such a character."),
            (f"owner={'x' * 256}", "Up to 255 characters."),
            ("since=1h&until=2h", "Until has to be after since."),
        ],
    )
    async def test_filter_that_cannot_be_read_is_named(
        self, operator: httpx.AsyncClient, waiting: Make, query: str, said: str
    ) -> None:
        await waiting()
        page = await operator.get(f"{OPS}/jobs?{query}")
        assert page.status_code == 422
        assert said in page.text
        assert "test.mail" not in page.text

    async def test_list_comes_in_pages_of_fifty(
        self, operator: httpx.AsyncClient, waiting: Make, sql: asyncpg.Connection
    ) -> None:
        await waiting(owner="alice")
        await sql.execute(
            "INSERT INTO job (kind, queue, priority, owner, payload, max_attempts, run_at, state)"
            " SELECT 'test.mail', 'mail', 0, 'alice', '{}', 1, now(), 'available' FROM generate_series(1, 70)"
        )
        first = await operator.get(f"{OPS}/jobs?owner=alice")
        assert len(listed(first)) == 50
        (following,) = re.findall(r'rel="next" href="([^"]+)"', first.text)
        assert following.startswith("/ops/jobs?owner=alice&amp;before=")
        second = await operator.get(f"https://service.test{following.replace('&amp;', '&')}")
        assert len(listed(second)) == 21
        assert 'rel="next"' not in second.text
        assert not set(listed(first)) & set(listed(second))

    async def test_what_jobs_say_is_shown_as_text(self, operator: httpx.AsyncClient, dead: Make) -> None:
        await dead("<b>no</b> token=abcdefgh12345678", "<i>alice</i>")
        page = (await operator.get(f"{OPS}/jobs")).text
        assert "&lt;b&gt;no&lt;/b&gt;" in page
        assert "&lt;i&gt;alice" in page
        assert "abcdefgh12345678" not in page


class TestJob:
    async def test_job_is_shown_with_its_errors_and_its_secrets_masked(
        self, operator: httpx.AsyncClient, dead: Make
    ) -> None:
        page = await operator.get(f"{OPS}/jobs/{await dead()}")
        assert page.status_code == 200
        for shown in (
            "test.dead",
            "discarded",
            "a@b.test",
            "Run 1, attempt 1: error. Refused",
            "Traceback: &lt;script&gt;",
        ):
            assert shown in page.text, shown
        for secret in ("sesame-0123456789", "hunter2hunter2", "<script>1"):
            assert secret not in page.text, secret
        assert 'href="https://traces.test/0123456789abcdef0123456789abcdef"' in page.text

    async def test_number_of_the_last_run_is_not_shown_as_a_count_of_runs(
        self, operator: httpx.AsyncClient, dead: Make, sql: asyncpg.Connection
    ) -> None:
        job_id = await dead()
        # As five workers leave it that were lost: each raises the number twice, with the claim and when it is reaped.
        await sql.execute("UPDATE job_history SET run_lease = 9, crash_count = 5")
        page = (await operator.get(f"{OPS}/jobs/{job_id}")).text
        assert "<dt>Run number</dt><dd>9</dd>" in page
        assert "<dt>Workers lost</dt><dd>5</dd>" in page
        assert "<dt>Runs</dt>" not in page

    async def test_failed_run_is_told_in_utc_whatever_zone_the_database_wrote(
        self, operator: httpx.AsyncClient, dead: Make, sql: asyncpg.Connection
    ) -> None:
        job_id = await dead()
        await sql.execute(
            "UPDATE job_history SET errors = jsonb_set(errors, '{0,at}', '\"2030-01-31T09:30:00+05:30\"')"
        )
        page = (await operator.get(f"{OPS}/jobs/{job_id}")).text
        assert re.search(r'datetime="2030-01-31T04:00:00.000000Z">2030-01-31 04:00:00</time>\s*Run 1 failed', page)

    async def test_live_job_is_asked_for_again_and_an_ended_one_is_not(
        self, operator: httpx.AsyncClient, waiting: Make, dead: Make
    ) -> None:
        assert 'hx-trigger="every 2s"' in (await operator.get(f"{OPS}/jobs/{await waiting()}")).text
        assert "hx-trigger" not in (await operator.get(f"{OPS}/jobs/{await dead()}")).text

    async def test_progress_steps_batch_and_children_are_shown(
        self, operator: httpx.AsyncClient, waiting: Make, sql: asyncpg.Connection
    ) -> None:
        batch, parent, children = uuid4(), uuid4(), uuid4()
        job_id = await waiting(owner="alice")
        await sql.execute("INSERT INTO job_batch (id, parent_id) VALUES ($1, $2)", batch, parent)
        await sql.execute(
            "UPDATE job SET batch_id = $2, progress_done = 3, progress_total = 9, progress_message = 'rows'"
            " WHERE id = $1",
            job_id,
            batch,
        )
        await sql.execute(
            "INSERT INTO job_step (job_id, name, kind, state, event, result)"
            " VALUES ($1, 'pay', 'step', 'done', NULL, '7'), ($1, 'pay.ended', 'event', 'waiting', $2, NULL)",
            job_id,
            f"batch:{children}",
        )
        page = (await operator.get(f"{OPS}/jobs/{job_id}")).text
        assert "Progress: 3 of 9, rows" in page
        assert '<progress id="progress" max="9" value="3">' in page
        assert f'href="/ops/jobs?batch={batch}"' in page
        assert "0 of 1 job ended" in page
        assert f'href="/ops/jobs/{parent}"' in page
        assert f'href="/ops/jobs?batch={children}"' in page
        assert "pay.ended" in page

    async def test_large_steps_and_many_failed_runs_are_not_read_as_a_whole(
        self, operator: httpx.AsyncClient, waiting: Make, sql: asyncpg.Connection
    ) -> None:
        job_id = await waiting()
        await sql.execute(
            "INSERT INTO job_step (job_id, name, kind, state, result, started_at)"
            " SELECT $1, 'step-' || n || '.', 'step', 'done', to_jsonb(repeat('token: x, ', CASE n WHEN 250 THEN 6000"
            " ELSE 1 END)), now() + n * interval '1 ms'"
            " FROM generate_series(1, 250) AS n",
            job_id,
        )
        await sql.execute(
            "UPDATE job SET errors = (SELECT jsonb_agg(jsonb_build_object('at', now(), 'run', n, 'attempt', n,"
            " 'outcome', 'error', 'error', 'error-' || n || '.', 'detail', '', 'traceback', ''))"
            " FROM generate_series(1, 50) AS n)"
            " WHERE id = $1",
            job_id,
        )
        page = (await operator.get(f"{OPS}/jobs/{job_id}")).text
        assert (page.count("step-"), "step-50." in page, "step-51." in page) == (200, False, True)
        assert "60002 bytes" in page
        assert (page.count('<details id="run-'), "error-40." in page, "error-41." in page) == (10, False, True)

    @pytest.mark.parametrize("path", ["/jobs/00000000-0000-7000-8000-000000000000", "/jobs/none"])
    async def test_job_that_there_is_not_has_a_page_that_says_so(self, operator: httpx.AsyncClient, path: str) -> None:
        page = await operator.get(f"{OPS}{path}")
        assert page.status_code in (404, 422)
        assert page.headers["content-type"].startswith("text/html")


class TestAct:
    async def test_retry_of_one_job_is_recorded_and_leads_back_to_it(
        self, operator: httpx.AsyncClient, post: Act, dead: Make, sql: asyncpg.Connection, records: Records
    ) -> None:
        job_id = await dead()
        asked = await operator.get(f"{OPS}/jobs/confirm?action=retry&id={job_id}")
        assert "Retry: 1 job" in asked.text
        assert 'id="confirm"' not in asked.text  # it can be undone
        done = await post("/jobs/act", action="retry", id=str(job_id), limit="1")
        assert (done.status_code, done.headers["location"]) == (303, f"/ops/jobs/{job_id}?done=retry&count=1")
        assert await state(sql, job_id) == "available"
        assert await records() == [("olga", "job.retry", f"job:{job_id}")]
        assert (
            "1 job will be done again." in (await operator.get(f"https://service.test{done.headers['location']}")).text
        )

    async def test_job_that_cannot_be_retried_says_why(
        self, post: Act, waiting: Make, sql: asyncpg.Connection, records: Records
    ) -> None:
        job_id = await waiting()
        refused = await post("/jobs/act", action="retry", id=str(job_id), limit="1")
        assert refused.status_code == 409
        assert "Only cancelled and discarded jobs can be retried: it is available." in refused.text
        assert await records() == []

    async def test_all_that_match_are_counted_first_and_then_changed(
        self, operator: httpx.AsyncClient, post: Act, dead: Make, sql: asyncpg.Connection, records: Records
    ) -> None:
        refused = [await dead("Refused") for _ in range(3)]
        lost = await dead("Lost")
        query = {"state": "discarded", "error": "Refused", "all": "1"}
        asked = await operator.get(f"{OPS}/jobs/confirm", params={"action": "retry", **query})
        assert "Retry: 3 jobs" in asked.text
        assert await sql.fetchval("SELECT count(*) FROM job") == 0
        done = await post("/jobs/act", action="retry", limit="3", **query)
        assert done.headers["location"] == "/ops/jobs?state=discarded&error=Refused&done=retry&count=3"
        assert [await state(sql, job_id) for job_id in (*refused, lost)] == ["available"] * 3 + ["discarded"]
        assert await records() == [("olga", "jobs.retry", "jobs")]

    async def test_no_more_jobs_are_changed_than_were_said(
        self, post: Act, waiting: Make, sql: asyncpg.Connection
    ) -> None:
        for _ in range(3):
            await waiting()
        await post("/jobs/act", action="cancel", all="1", kind="test.mail", limit="2", confirm="2")
        assert await sql.fetchval("SELECT count(*) FROM job") == 1

    async def test_page_that_asks_says_which_moment_a_filter_is(
        self, operator: httpx.AsyncClient, waiting: Make
    ) -> None:
        await waiting()
        query = {"action": "cancel", "all": "1", "kind": "test.mail", "since": "2020-01-31 09:30+05:30", "until": "0s"}
        asked = (await operator.get(f"{OPS}/jobs/confirm", params=query)).text
        assert re.search(r"<dd>2020-01-31 09:30\+05:30: \s*<time [^>]*>2020-01-31 04:00:00</time>", asked)
        assert re.search(r"<dd>0s: \s*<time ", asked)

    async def test_ages_are_those_of_the_time_at_which_the_page_asked(
        self, operator: httpx.AsyncClient, post: Act, waiting: Make, sql: asyncpg.Connection
    ) -> None:
        query = {"action": "cancel", "all": "1", "kind": "test.mail", "until": "1h"}
        asked = await operator.get(f"{OPS}/jobs/confirm", params=query)
        assert "Cancel: no job" in asked.text
        now = datetime.now(UTC)
        old, later = [first_uuid7(now - timedelta(minutes=minutes)) for minutes in (70, 61)]
        for job_id in (old, later):
            await sql.execute("UPDATE job SET id = $2 WHERE id = $1", await waiting(), job_id)
        asked = await operator.get(f"{OPS}/jobs/confirm", params=query)
        fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', asked.text))
        assert (fields["limit"], fields["until"]) == ("2", "1h")
        assert now <= datetime.fromisoformat(fields["at"]) <= datetime.now(UTC)

        fields |= {"at": (now - timedelta(minutes=5)).isoformat(), "confirm": "2"}  # as if it had asked then
        done = await post("/jobs/act", **{name: value for name, value in fields.items() if name != "csrf"})
        assert done.headers["location"] == "/ops/jobs?kind=test.mail&until=1h&done=cancel&count=1"
        assert (await state(sql, old), await state(sql, later)) == ("cancelled", "available")

    async def test_jobs_made_since_the_page_asked_are_left_alone(
        self, post: Act, waiting: Make, sql: asyncpg.Connection
    ) -> None:
        asked_at = datetime.now(UTC) - timedelta(minutes=1)
        await waiting()
        await post("/jobs/act", action="run_now", all="1", limit="1", at=asked_at.isoformat())
        await post("/jobs/act", action="cancel", all="1", limit="1", at=asked_at.isoformat())
        assert await sql.fetchval("SELECT count(*) FROM job") == 1

    async def test_delete_needs_the_word(
        self, operator: httpx.AsyncClient, post: Act, dead: Make, sql: asyncpg.Connection, records: Records
    ) -> None:
        job_id = await dead()
        assert (
            "Type <strong>delete</strong>" in (await operator.get(f"{OPS}/jobs/confirm?action=delete&id={job_id}")).text
        )
        for typed in ("", "1", "retry"):
            refused = await post("/jobs/act", action="delete", id=str(job_id), limit="1", confirm=typed)
            assert refused.status_code == 422
            assert "Nothing was changed." in refused.text
        assert await records() == []
        done = await post("/jobs/act", action="delete", id=str(job_id), limit="1", confirm="delete")
        assert done.headers["location"] == "/ops/jobs?done=delete&count=1"
        assert await state(sql, job_id) is None
        assert await records() == [("olga", "jobs.delete", "jobs")]

    async def test_dead_letter_that_was_retried_meanwhile_is_not_deleted(
        self, operator: httpx.AsyncClient, post: Act, dead: Make, sql: asyncpg.Connection
    ) -> None:
        retried, left = await dead(), await dead()
        page = (await operator.get(f"{OPS}/jobs/{retried}")).text
        assert f'href="/ops/jobs/confirm?action=delete&amp;id={retried}&amp;state=discarded"' in page
        await post("/jobs/act", action="retry", id=str(retried), limit="1")
        chosen = {"action": "delete", "id": [str(retried), str(left)], "state": "discarded"}
        assert "Delete: 1 job" in (await operator.get(f"{OPS}/jobs/confirm", params=chosen)).text
        none = await operator.get(f"{OPS}/jobs/confirm", params=chosen | {"id": str(retried)})
        assert "It is for jobs that are discarded." in none.text
        done = await post("/jobs/act", limit="2", confirm="2", **chosen)
        assert done.headers["location"] == "/ops/jobs?state=discarded&done=delete&count=1"
        assert (await state(sql, retried), await state(sql, left)) == ("available", None)

    async def test_many_jobs_are_cancelled_only_by_their_number(
        self, post: Act, waiting: Make, sql: asyncpg.Connection
    ) -> None:
        made = [await waiting() for _ in range(2)]
        ids = [str(job_id) for job_id in made]
        assert (await post("/jobs/act", action="cancel", id=ids, limit="2", confirm="3")).status_code == 422
        assert (await post("/jobs/act", action="cancel", id=ids, limit="2", confirm="2")).status_code == 303
        assert [await state(sql, job_id) for job_id in made] == ["cancelled"] * 2

    async def test_jobs_that_wait_are_run_now(self, post: Act, waiting: Make, sql: asyncpg.Connection) -> None:
        job_id = await waiting(delay=3600)
        await post("/jobs/act", action="run_now", id=str(job_id), limit="1")
        assert await state(sql, job_id) == "available"

    async def test_action_for_no_job_says_what_it_is_for(self, operator: httpx.AsyncClient, waiting: Make) -> None:
        job_id = await waiting()
        page = await operator.get(f"{OPS}/jobs/confirm?action=retry&id={job_id}")
        assert "Retry: no job" in page.text
        assert "cancelled, discarded" in page.text

    async def test_longest_texts_are_recorded_and_no_secret(
        self, post: Act, dead: Make, sql: asyncpg.Connection, records: Records
    ) -> None:
        job_id = await dead("😀" * 1000)
        done = await post("/jobs/act", action="retry", all="1", error=f'"{"😀" * 1000}"', limit="1")
        assert (done.status_code, await state(sql, job_id)) == (303, "available")
        names = dict.fromkeys(("kind", "queue", "owner"), "😀" * 255)
        secret = "password=hunter2hunter2 " * 40
        done = await post("/jobs/act", action="retry", all="1", error=secret, limit="1", **names)
        assert done.status_code == 303
        assert len(await records()) == 2
        assert "hunter2" not in str(await sql.fetch("SELECT detail FROM audit_record"))

    @pytest.mark.parametrize(
        "fields",
        [
            {"action": "explode", "all": "1", "limit": "1"},
            {"action": "retry", "limit": "1"},
            {"action": "retry", "id": "7", "limit": "1"},
            {"action": "retry", "all": "1"},
            {"action": "retry", "all": "1", "limit": "10001"},
            {"action": "retry", "all": "1", "limit": "0"},
            {"action": "retry", "all": "1", "limit": "٣"},
            {"action": "retry", "all": "1", "limit": "9" * 5000},
            {"action": "retry", "all": "1", "limit": "1", "since": "never"},
            {"action": "retry", "all": "1", "limit": "1", "at": "never"},
            {"action": "retry", "all": "1", "limit": "1", "at": "0001-01-01", "until": "2h"},
        ],
    )
    async def test_form_that_makes_no_sense_is_refused(self, post: Act, fields: dict[str, Any]) -> None:
        assert (await post("/jobs/act", **fields)).status_code == 400

    async def test_reader_sees_no_action_and_may_take_none(
        self, reader: httpx.AsyncClient, dead: Make, sql: asyncpg.Connection
    ) -> None:
        job_id = await dead()
        for path in ("/jobs", f"/jobs/{job_id}"):
            page = await reader.get(f"{OPS}{path}")
            assert page.status_code == 200
            assert "Retry" not in page.text
        assert (await reader.get(f"{OPS}/jobs/confirm?action=retry&id={job_id}")).status_code == 403
        assert await state(sql, job_id) == "discarded"

    async def test_changes_without_the_token_of_the_session_are_refused(
        self, operator: httpx.AsyncClient, dead: Make, sql: asyncpg.Connection
    ) -> None:
        job_id = await dead()
        fields = {"action": "retry", "id": str(job_id), "limit": "1"}
        assert (await operator.post(f"{OPS}/jobs/act", data=fields)).status_code == 403
        assert await state(sql, job_id) == "discarded"

    async def test_what_the_address_says_was_done_is_no_text_of_others(self, operator: httpx.AsyncClient) -> None:
        for query in ("done=you+were+hacked&count=1", "done=retry&count=many", "done=retry&count=9999999"):
            assert 'class="told"' not in (await operator.get(f"{OPS}/jobs?{query}")).text
