"""Finding jobs: by each filter, a page at a time, along an index."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event

from notes.config import Settings
from plinth.database.engine import Database
from plinth.database.uuid7 import first_uuid7
from plinth.jobs import JobContext, JobKind, State, enqueue, job
from plinth.jobs.admin import dead_letters, search
from plinth.jobs.admin.bulk import Selection
from plinth.jobs.admin.dead_letters import group_dead_letters
from plinth.jobs.admin.search import Found, find_jobs
from plinth.jobs.admin.throughput import last_hour
from tests.plinth.integration.jobs.conftest import Jobs, Number
from tests.support.notes import settings_with

DEAD = """
INSERT INTO job_history (id, kind, queue, priority, payload, max_attempts, run_at, state, finished_at, errors)
VALUES (COALESCE($1, uuid7()), $2, 'default', 0, '{}', 1, now(), $3, now() - $4::interval,
    jsonb_build_array(jsonb_build_object('error', $5::text, 'detail', $6::text)))
RETURNING id
"""


@pytest.fixture
def mail() -> JobKind[Number]:
    @job("test.mail", queue="mail")
    async def mail(ctx: JobContext, payload: Number) -> None:
        pass

    return mail


async def ended(
    jobs: Jobs,
    error: str,
    *,
    kind: str = "test.dead",
    state: str = "discarded",
    ago: float = 0,
    made: UUID | None = None,
) -> UUID:
    row = await jobs.one(DEAD, made, kind, state, timedelta(seconds=ago), error, f"{error}: in full")
    found: UUID = row["id"]
    return found


async def find(database: Database, selection: Selection, **options: Any) -> Found:
    async with database.session() as session:
        return await find_jobs(session, selection, **options)


async def found(database: Database, selection: Selection, **options: Any) -> list[UUID]:
    return [view.id for view in (await find(database, selection, **options)).jobs]


class TestFind:
    async def test_each_filter_narrows_the_list(self, database: Database, jobs: Jobs, mail: JobKind[Number]) -> None:
        dead = await ended(jobs, "Refused")
        mine, other = [(await enqueue(database, mail, Number(), owner=owner)).id for owner in ("a", "b")]
        for selection, expected in (
            (Selection(), [other, mine, dead]),
            (Selection(kind="test.mail"), [other, mine]),
            (Selection(queue="default"), [dead]),
            (Selection(owner="a"), [mine]),
            (Selection(states=[State.DISCARDED, State.RUNNING]), [dead]),
            (Selection(states=[State.AVAILABLE], owner="b"), [other]),
            (Selection(error="refused: IN"), [dead]),
            (Selection(error="100%"), []),
            (Selection(error='"Refused"'), [dead]),
            (Selection(error='"refused"'), []),
            (Selection(error='"Refuse"'), []),
            (Selection(error='""'), [other, mine]),
            (Selection(error=f'"sha256:{sha256(b"Refused").hexdigest()}"'), [dead]),
            (Selection(error=f'"sha256:{"0" * 64}"'), []),
            (Selection(error=f"sha256:{sha256(b'Refused').hexdigest()}"), []),
        ):
            assert await found(database, selection) == expected

    async def test_times_bound_when_a_job_was_made(self, database: Database, jobs: Jobs) -> None:
        now = datetime.now(UTC)
        old, new = [await ended(jobs, "x", made=first_uuid7(now - timedelta(days=days))) for days in (3, 1)]
        day = timedelta(days=1)
        assert await found(database, Selection(since=now - 2 * day)) == [new]
        assert await found(database, Selection(until=now - 2 * day)) == [old]
        assert await found(database, Selection(since=now - 4 * day, until=now)) == [new, old]
        assert await found(database, Selection(until=now - 2 * day), before=new) == [old]
        assert await found(database, Selection(until=now), before=old) == []

    async def test_pages_follow_each_other(self, database: Database, jobs: Jobs) -> None:
        made = [await ended(jobs, "x") for _ in range(5)][::-1]
        first = await find(database, Selection(), limit=2)
        assert ([view.id for view in first.jobs], first.before) == (made[:2], made[1])
        second = await find(database, Selection(), limit=2, before=first.before)
        last = await find(database, Selection(), limit=2, before=second.before)
        assert [view.id for view in (*second.jobs, *last.jobs)] == made[2:]
        assert last.before is None

    async def test_search_for_an_error_goes_on_where_it_was_bounded(
        self, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(search, "SEARCHED", 3)
        needle = await ended(jobs, "needle")
        for _ in range(4):
            await ended(jobs, "hay")
        first = await find(database, Selection(error="needle"))
        assert (first.jobs, first.searched) == ([], 3)
        second = await find(database, Selection(error="needle"), before=first.before)
        assert ([view.id for view in second.jobs], second.before, second.searched) == ([needle], None, 0)

    async def test_search_ends_where_so_much_of_errors_was_read(
        self, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(search, "MAX_ERROR_BYTES", 1)
        needle, hay = await ended(jobs, "needle"), await ended(jobs, "hay")
        first = await find(database, Selection(error="needle"))
        assert (first.jobs, first.before, first.searched) == ([], hay, 1)
        second = await find(database, Selection(error="needle"), before=first.before)
        assert ([view.id for view in second.jobs], second.before, second.searched) == ([needle], needle, 1)
        assert await find(database, Selection(error="needle"), before=needle) == ([], None, 0)


class TestDeadLetters:
    async def test_dead_letters_are_grouped_by_kind_and_error(self, database: Database, jobs: Jobs) -> None:
        for error, kind in (("Refused", "a"), ("Refused", "a"), ("Lost", "a"), ("Refused", "b")):
            await ended(jobs, error, kind=kind)
        newest = await ended(jobs, "Refused", kind="a")
        await ended(jobs, "Refused", kind="a", state="cancelled")
        async with database.session() as session:
            groups = await group_dead_letters(session)
        assert {(group.kind, group.error): group.number for group in groups} == {
            ("a", "Refused"): 3,
            ("a", "Lost"): 1,
            ("b", "Refused"): 1,
        }
        assert (groups[0].newest, groups[0].detail) == (newest, "Refused: in full")
        assert groups[0].first <= groups[0].last

    async def test_as_many_are_grouped_as_have_so_much_of_errors(
        self, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for ago in range(3):
            await ended(jobs, f"error {ago}", ago=ago)
        monkeypatch.setattr(dead_letters, "MAX_ERROR_BYTES", 1)
        async with database.session() as session:
            assert [group.error for group in await group_dead_letters(session)] == ["error 0"]


class TestThroughput:
    async def test_ended_jobs_are_counted_by_minute_and_state(self, database: Database, jobs: Jobs) -> None:
        for kind, state in (("a", "succeeded"), ("a", "succeeded"), ("b", "succeeded"), ("b", "discarded")):
            await ended(jobs, "x", kind=kind, state=state, ago=1800)
        await ended(jobs, "x", state="cancelled", ago=2400)
        await ended(jobs, "x", ago=7200)
        async with database.session() as session:
            minutes = await last_hour(session)
        assert len(minutes) == 60
        assert [minute[1:] for minute in minutes if any(minute[1:])] == [(0, 1, 0), (3, 0, 1)]
        assert minutes[1].at - minutes[0].at == timedelta(minutes=1)

    async def test_hour_without_jobs_has_minutes_of_none(self, database: Database) -> None:
        async with database.session() as session:
            assert [minute[1:] for minute in await last_hour(session)] == [(0, 0, 0)] * 60


# Enough that reading all of a table costs more than an index: 40,000 ended jobs and 20,000 that wait.
FILL = """
INSERT INTO {table} (kind, queue, priority, owner, payload, max_attempts, run_at, state, errors{more})
SELECT 'kind' || n % 20, 'queue' || n % 4, 0, 'owner' || n % 1000, '{{}}', 5, now(), {state},
    CASE WHEN n % 50 = 0 THEN '[{{"error": "Refused", "detail": "Refused: no"}}]'::jsonb ELSE '[]' END{values}
FROM generate_series(1, {number}) AS n
"""


class TestPlans:
    @pytest.fixture
    async def full(self, fresh_database_url: str) -> AsyncIterator[Database]:
        settings: Settings = settings_with(DATABASE_URL=fresh_database_url, REDIS_URL="")
        database = Database(settings)
        state = "CASE WHEN n % 50 = 0 THEN 'discarded' WHEN n % 51 = 0 THEN 'cancelled' ELSE 'succeeded' END"
        ended = {"more": ", finished_at", "values": ", now() - n * interval '1 second'"}
        live = "CASE WHEN n % 1000 = 0 THEN 'retryable' WHEN n % 500 = 1 THEN 'running' ELSE 'available' END"
        async with database.connection() as connection:
            await connection.execute(FILL.format(table="job_history", number=40_000, state=state, **ended))
            await connection.execute(FILL.format(table="job", number=20_000, state=live, more="", values=""))
            await connection.execute("ANALYZE job, job_history")
        yield database
        await database.aclose()

    @contextmanager
    def statements(self, database: Database) -> Iterator[list[tuple[str, Any]]]:
        """The statements that are executed in the block."""
        seen: list[tuple[str, Any]] = []

        def see(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            seen.append((statement, parameters))

        event.listen(database.engine.sync_engine, "before_cursor_execute", see)
        yield seen
        event.remove(database.engine.sync_engine, "before_cursor_execute", see)

    async def test_no_page_reads_a_table_of_jobs_from_end_to_end(self, full: Database) -> None:
        now = datetime.now(UTC)
        with self.statements(full) as seen:
            for selection in (
                Selection(),
                Selection(kind="kind3"),
                Selection(queue="queue1"),
                Selection(owner="owner7"),
                *(Selection(states=[state]) for state in State),
                Selection(states=[State.DISCARDED], kind="kind0"),
                Selection(since=now - timedelta(minutes=5)),
                Selection(until=now + timedelta(minutes=5)),
                Selection(error="refused"),
                Selection(error="nothing says so"),
                Selection(error="refused", kind="kind0", states=[State.DISCARDED]),
            ):
                page = await find(full, selection)
                if page.before is not None:
                    await find(full, selection, before=page.before)
            async with full.session() as session:
                await group_dead_letters(session)
                await last_hour(session)
        assert len(seen) > 25
        async with full.connection() as connection:
            for statement, parameters in seen:
                plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *parameters))
                assert "Seq Scan on job" not in plan, f"{statement}\n{parameters}\n{plan}"

    async def test_failed_jobs_behind_many_that_succeeded_are_found_without_reading_those(self, full: Database) -> None:
        # The oldest have failed, and none of kind8.
        failed = "CASE n % 3 WHEN 0 THEN 'discarded' ELSE 'cancelled' END"
        async with full.connection() as connection:
            await connection.execute(
                f"WITH old AS (SELECT id, row_number() OVER (ORDER BY id) AS n FROM job_history)"
                f" UPDATE job_history SET state = CASE WHEN n <= 4000 AND kind <> 'kind8' THEN {failed}"
                f" ELSE 'succeeded' END FROM old WHERE old.id = job_history.id"
            )
            await connection.execute("VACUUM ANALYZE job_history")
        both = [State.DISCARDED, State.CANCELLED]
        with self.statements(full) as seen:
            for states in ([State.DISCARDED], [State.CANCELLED], both):
                for kind, listed in ((None, 50), ("kind7", 50), ("kind8", 0)):
                    assert len((await find(full, Selection(states=states, kind=kind))).jobs) == listed
        async with full.connection() as connection:
            for statement, parameters in seen:
                # A prepared statement may get a plan for any value, which an index of some states serves only if the
                # statement itself names one.
                await connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE listed AS {statement}")
                values = ", ".join(["NULL"] * len(parameters))
                generic = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE listed ({values})"))
                assert "ix_job_history_failed" in generic, generic
                await connection.execute("DEALLOCATE listed; RESET plan_cache_mode")
                plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN ANALYZE {statement}", *parameters))
                assert all(int(rows) < 1000 for rows in re.findall(r"Rows Removed by Filter: (\d+)", plan)), plan
