"""Acts on many jobs: which they choose, which they pass over, and what they leave behind."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from plinth.audit import Actor
from plinth.database.engine import Database
from plinth.jobs import JobContext, JobKind, State, enqueue, job
from plinth.jobs.admin.bulk import STATES, Action, Selection, act_on_many
from tests.plinth.integration.jobs.conftest import Jobs, Number, open_store


@dataclass(frozen=True)
class Operator:
    issuer: str = "test"
    subject: str = "operator"


BY: Actor = Operator()


@pytest.fixture
def mail() -> JobKind[Number]:
    @job("test.mail", queue="mail")
    async def mail(ctx: JobContext, payload: Number) -> None:
        pass

    return mail


@pytest.fixture
def report() -> JobKind[Number]:
    @job("test.report")
    async def report(ctx: JobContext, payload: Number) -> None:
        pass

    return report


async def act(database: Database, action: Action, selection: Selection, **options: Any) -> int:
    async with database.session() as session:
        return await act_on_many(session, action, selection, by=BY, **options)


async def in_each_state(database: Database, jobs: Jobs, kind: JobKind[Number]) -> dict[State, UUID]:
    """A job in each state."""
    store = await open_store(database)
    made: dict[State, UUID] = {}
    for state in State:
        made[state] = (await enqueue(database, kind, Number(), delay=3600 if state is State.SCHEDULED else 0)).id
        if state.terminal or state is State.RUNNING:
            (claimed,) = await store.claim([kind.queue], {kind.name: kind}, 1)
            assert claimed.id == made[state]
        if state.terminal:
            await jobs.all(
                """
                WITH gone AS (DELETE FROM job WHERE id = $1 RETURNING *)
                INSERT INTO job_history (id, kind, queue, priority, payload, max_attempts, run_at, state, finished_at)
                SELECT id, kind, queue, priority, payload, max_attempts, run_at, $2, now() FROM gone
                """,
                made[state],
                state.value,
            )
        elif state in (State.RETRYABLE, State.AVAILABLE):
            # Out of the way of the claims.
            await jobs.all("UPDATE job SET state = 'retryable', run_at = now() WHERE id = $1", made[state])
    await jobs.all("UPDATE job SET state = 'available' WHERE id = $1", made[State.AVAILABLE])
    return made


@pytest.mark.parametrize("action", list(STATES))
async def test_each_action_is_for_the_jobs_in_its_states_alone(
    database: Database, jobs: Jobs, mail: JobKind[Number], action: Action
) -> None:
    made = await in_each_state(database, jobs, mail)
    before = {state: await jobs.state(job_id) for state, job_id in made.items()}
    assert before == {state: state.value for state in State}
    options: dict[str, Any] = {"priority": 7} if action == "prioritise" else {}
    assert await act(database, action, Selection(kind="test.mail"), dry_run=True, **options) == len(STATES[action])
    assert {state: await jobs.state(job_id) for state, job_id in made.items()} == before

    assert await act(database, action, Selection(kind="test.mail"), **options) == len(STATES[action])
    for state, job_id in made.items():
        live, ended = await jobs.live(job_id), await jobs.ended(job_id)
        if state not in STATES[action]:
            assert (live or ended)["state"] == state.value
        elif action == "cancel" and state is State.RUNNING:
            assert live["cancel_requested_at"] is not None
        elif action == "cancel":
            assert (live, ended["state"]) == (None, "cancelled")
        elif action == "delete":
            assert (live, ended) == (None, None)
        elif action == "retry":
            assert (live["state"], ended) == ("available", None)
        elif action == "run_now":
            assert live["state"] == "available"
        else:
            assert (live["state"], live["priority"]) == (state.value, 7)


async def test_selection_is_by_all_that_is_given(
    database: Database, jobs: Jobs, mail: JobKind[Number], report: JobKind[Number]
) -> None:
    made = [
        (await enqueue(database, kind, Number(), owner=owner)).id for kind in (mail, report) for owner in ("a", "b")
    ]
    await jobs.all("""UPDATE job SET errors = '[{"error": "Refused", "detail": "SMTP 550"}]' WHERE id = $1""", made[3])
    for selection, expected in (
        (Selection(kind="test.mail"), made[:2]),
        (Selection(queue="default"), made[2:]),
        (Selection(owner="a"), [made[0], made[2]]),
        (Selection(kind="test.mail", owner="b"), [made[1]]),
        (Selection(ids=made[1:3]), made[1:3]),
        (Selection(ids=made[1:3], owner="a"), [made[2]]),
        (Selection(states=[State.AVAILABLE]), made),
        (Selection(states=[State.SCHEDULED]), []),
        (Selection(kind="test.mail", since=datetime.now(UTC) - timedelta(hours=1)), made[:2]),
        (Selection(kind="test.mail", until=datetime.now(UTC) - timedelta(hours=1)), []),
        (Selection(error="smtp 550"), made[3:]),
        (Selection(error="sandwich", owner="b"), []),
    ):
        await jobs.all("UPDATE job SET priority = 0")
        assert await act(database, "prioritise", selection, priority=1) == len(expected)
        assert [row["id"] for row in await jobs.all("SELECT id FROM job WHERE priority = 1 ORDER BY id")] == expected


async def test_limit_takes_the_oldest(database: Database, jobs: Jobs, mail: JobKind[Number]) -> None:
    made = [(await enqueue(database, mail, Number())).id for _ in range(4)]
    assert await act(database, "delete", Selection(queue="mail"), limit=3, dry_run=True) == 3
    assert await act(database, "delete", Selection(queue="mail"), limit=3) == 3
    assert [row["id"] for row in await jobs.all("SELECT id FROM job")] == made[3:]


async def test_retry_passes_over_a_job_whose_unique_key_is_taken(
    database: Database, jobs: Jobs, mail: JobKind[Number]
) -> None:
    made = [(await enqueue(database, mail, Number(), unique_key=key)).id for key in ("a", "b")]
    await act(database, "cancel", Selection(ids=made))
    taken = await enqueue(database, mail, Number(), unique_key="a")
    assert await act(database, "retry", Selection(kind="test.mail"), dry_run=True) == 1
    assert await act(database, "retry", Selection(kind="test.mail")) == 1
    assert [row["id"] for row in await jobs.all("SELECT id FROM job ORDER BY id")] == [made[1], taken.id]


async def test_retry_brings_back_one_of_those_that_share_a_unique_key(
    database: Database, jobs: Jobs, mail: JobKind[Number]
) -> None:
    for _ in range(2):
        made = (await enqueue(database, mail, Number(), unique_key="k")).id
        await act(database, "cancel", Selection(ids=[made]))
    assert await act(database, "retry", Selection(kind="test.mail"), dry_run=True) == 1
    assert await act(database, "retry", Selection(kind="test.mail")) == 1
    assert len(await jobs.all("SELECT FROM job_history")) == 1


async def test_deleting_takes_the_steps_along(database: Database, jobs: Jobs, mail: JobKind[Number]) -> None:
    made = await enqueue(database, mail, Number())
    await jobs.all("INSERT INTO job_step (job_id, name, kind, state) VALUES ($1, 'a', 'step', 'done')", made.id)
    await act(database, "delete", Selection(ids=[made.id]))
    assert await jobs.all("SELECT FROM job_step") == []


async def test_locked_jobs_are_passed_over(database: Database, jobs: Jobs, mail: JobKind[Number]) -> None:
    locked, free = [(await enqueue(database, mail, Number())).id for _ in range(2)]
    async with database.connection() as connection, connection.transaction():
        await connection.fetch("SELECT FROM job WHERE id = $1 FOR UPDATE", locked)
        assert await act(database, "cancel", Selection(kind="test.mail")) == 1
    assert [await jobs.state(job_id) for job_id in (locked, free)] == ["available", "cancelled"]


async def test_act_is_recorded_with_its_selection(database: Database, jobs: Jobs, mail: JobKind[Number]) -> None:
    await enqueue(database, mail, Number())
    await act(database, "cancel", Selection(kind="test.mail"), dry_run=True)
    assert await jobs.all("SELECT FROM audit_record") == []
    await act(database, "cancel", Selection(kind="test.mail", states=[State.AVAILABLE]))
    (row,) = await jobs.all("SELECT action, target, detail::text FROM audit_record")
    assert (row["action"], row["target"]) == ("jobs.cancel", "jobs")
    detail = row["detail"] if isinstance(row["detail"], dict) else json.loads(row["detail"])
    assert (detail["kind"], detail["states"], detail["count"]) == ("test.mail", ["available"], 1)


@pytest.mark.parametrize(
    ("action", "selection", "options"),
    [
        ("cancel", Selection(), {}),
        ("cancel", Selection(kind="a"), {"limit": 0}),
        ("cancel", Selection(kind="a"), {"limit": 10_001}),
        ("cancel", Selection(kind="a"), {"priority": 1}),
        ("prioritise", Selection(kind="a"), {}),
        ("prioritise", Selection(kind="a"), {"priority": 40_000}),
    ],
)
async def test_what_makes_no_sense_is_refused(
    database: Database, action: Action, selection: Selection, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"say which|limit is|priority"):
        await act(database, action, selection, **options)
