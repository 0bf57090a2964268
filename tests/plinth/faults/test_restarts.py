"""Rolling restarts: workers are asked to end, and others take over. No job pays, and no slot of a schedule is lost."""

import asyncio
import signal
from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import pytest

from tests.plinth.faults.fleet import Fleet, Member
from tests.plinth.faults.kinds import Effect, Work, effect, in_a_thread, stubborn

SECOND = timedelta(seconds=1)
# Of each step of a schedule: the slots it stands for, and the jobs that were enqueued in its transaction.
STEPS = """
SELECT from_slot, to_slot, (SELECT count(*) FROM job_history WHERE kind = 'faults.slot' AND created_at = slot_log.at)
FROM slot_log ORDER BY to_slot
"""


async def restarted_in_turn(fleet: Fleet, serving: list[Member], *flags: str) -> list[Member]:
    """Each worker ends, and the next one begins when another has come in its place."""
    fresh: list[Member] = []
    for member in serving:
        await fleet.stop(member)
        fresh += await fleet.start(1, *flags)
    return fresh


async def rolling_restarts(fleet: Fleet, *, rounds: int, seconds: float, jobs: int = 30) -> None:
    """Jobs that take longer than the grace, so that each restart interrupts some."""
    serving = await fleet.start(3, JOBS_SESSION_TIMEOUT=30)  # whatever is back earlier was given back, not found out
    accepted = await fleet.enqueue(effect, *[Effect(seconds=seconds)] * jobs)
    await fleet.running(jobs)
    for _ in range(rounds):
        busy = await fleet.busy()  # they go first: two can hold all the jobs, and a short one may end before its turn
        serving = await restarted_in_turn(fleet, sorted(serving, key=lambda member: member not in busy))
    figures = await fleet.audit(f"rolling restart of three, {rounds} times", accepted)
    for ended in await fleet.ended_jobs(accepted):
        assert (ended["attempt"], ended["crash_count"]) == (1, 0), "a restart has cost an attempt"
        assert ended["errors"] == []
    assert figures.runs > len(accepted), "the restarts have interrupted nothing"
    assert figures.recovery is not None
    assert figures.recovery < 3, "a job that was given back did not go on at once"  # of which the grace is 0.2


async def test_rolling_restart_costs_no_attempt(fleet: Fleet) -> None:
    await rolling_restarts(fleet, rounds=1, seconds=2.0)


@pytest.mark.slow
async def test_five_rolling_restarts_cost_no_attempt(fleet: Fleet) -> None:
    await rolling_restarts(fleet, rounds=5, seconds=6.0)


async def test_handlers_that_cannot_be_stopped_do_not_block_shutdown(fleet: Fleet) -> None:
    (member,) = await fleet.start(1)
    accepted = [
        *await fleet.enqueue(stubborn, Work(seconds=3600)),
        *await fleet.enqueue(in_a_thread, Work(seconds=3600)),
    ]
    await fleet.running(2)
    member.process.send(signal.SIGTERM)
    await member.ended(within=15)
    assert member.process.exit_code == 1  # it is told that something was left behind
    given_back = await fleet.fetch("SELECT DISTINCT state, attempt, crash_count FROM job")
    assert [tuple(row) for row in given_back] == [("available", 0, 0)]
    await fleet.execute("""UPDATE job SET payload = '{"seconds": 0}'""")
    await fleet.start(1)
    await fleet.audit("handlers that cannot be stopped", accepted)


@pytest.mark.slow
async def test_schedule_loses_no_slot_across_restarts(fleet: Fleet) -> None:
    """A slot for every second, through rolling restarts, a kill, and a time without any worker."""
    serving = await fleet.start(3, "--schedule")
    for _ in range(2):
        serving = await restarted_in_turn(fleet, serving, "--schedule")
    await fleet.kill(serving.pop())
    await asyncio.sleep(1.5)
    for member in serving:
        await fleet.stop(member)
    await asyncio.sleep(3)
    await fleet.start(3, "--schedule")
    await asyncio.sleep(2.5)
    await fleet.execute("UPDATE job_schedule SET paused_at = now()")
    accepted: list[UUID] = [
        row["id"] for row in await fleet.fetch("SELECT id FROM job UNION ALL SELECT id FROM job_history")
    ]
    await fleet.audit("slots of a schedule across restarts", accepted)
    steps = [tuple(row) for row in await fleet.fetch(STEPS)]
    assert len(steps) > 5
    for (_, reached, _), (before, _, _) in pairwise(steps):
        assert before == reached, "slots were passed over, or taken twice"
    for before, after, jobs in steps:
        slots = (after - before.replace(microsecond=0)) // SECOND  # the schedule was declared in mid-second
        assert jobs == slots, f"{slots} slots up to {after} have made {jobs} jobs"
    assert any(jobs > 2 for _, _, jobs in steps[1:]), "there was no time without workers"
