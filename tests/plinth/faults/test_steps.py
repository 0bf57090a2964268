"""Workers are killed at every boundary of a step: no transactional step is doubled, and no finished one runs again."""

import asyncio
import random
from typing import get_args
from uuid import UUID

import pytest

from plinth.jobs import emit
from plinth.testing.servers import Servers
from tests.plinth.faults.fleet import Fleet, until
from tests.plinth.faults.kinds import Moment, Stepped, stepped
from tests.plinth.faults.test_servers_away import stopped_and_started


async def tell(fleet: Fleet, jobs: list[UUID]) -> None:
    """Emit the event that each of the jobs waits for, before or while it waits."""
    for job_id in random.sample(jobs, len(jobs)):
        async with fleet.database.session() as session:
            await emit(session, f"go {job_id}", {"to": str(job_id)})


async def audit(fleet: Fleet, fault: str, jobs: list[UUID], within: float) -> None:
    await fleet.audit(fault, jobs, within=within)
    inside = await fleet.fetch("SELECT job_id, count(*) FROM step_ledger WHERE step = 'inside' GROUP BY 1")
    assert {row[0]: row[1] for row in inside} == dict.fromkeys(jobs, 1), "a transactional step was lost or doubled"
    assert await fleet.fetch("SELECT * FROM step_log WHERE kept") == [], "a finished step ran again"
    outside = await fleet.value("SELECT count(DISTINCT job_id) FROM step_log WHERE step = 'outside'")
    assert outside == len(jobs), "a step was lost"
    states = await fleet.fetch("SELECT DISTINCT kind, state FROM job_step WHERE kind <> 'sleep'")
    assert {tuple(row) for row in states} == {("step", "done"), ("event", "done")}


async def test_worker_that_dies_at_each_boundary_of_a_step(fleet: Fleet) -> None:
    moments = [moment for moment in get_args(Moment) if moment != "never"]
    await fleet.start(2)
    jobs: list[UUID] = []
    for died, moment in enumerate(moments, 1):
        (job_id,) = await fleet.enqueue(stepped, Stepped(dies=moment))
        jobs.append(job_id)
        await tell(fleet, [job_id])

        async def another_has_died(died: int = died) -> bool:
            return sum(not member.process.running for member in fleet.members) >= died

        await until(another_has_died, f"the job has killed its worker {moment}", 20)
        await fleet.start(1, wait=False)
    await audit(fleet, "a worker dies at each boundary of a step", jobs, 60)
    deaths = await fleet.fetch("SELECT step FROM step_ledger WHERE step LIKE 'died%'")
    assert sorted(row["step"] for row in deaths) == sorted(f"died {moment}" for moment in moments)


async def killed_amid_steps(fleet: Fleet, *, jobs: int, kills: int) -> None:
    """Workers are killed at random moments while jobs have steps, sleep and wait; at the end all of them at once."""
    serving = await fleet.start(3, JOBS_CONCURRENCY=20)
    accepted = await fleet.enqueue(stepped, *(Stepped(seconds=random.uniform(0, 0.1)) for _ in range(jobs)))
    telling = asyncio.create_task(tell(fleet, accepted))
    for _ in range(kills):
        await asyncio.sleep(random.uniform(0.1, 0.4))
        victim = random.choice(serving)
        await fleet.kill(victim)
        serving.remove(victim)
        serving += await fleet.start(1, wait=False, JOBS_CONCURRENCY=20)
    for member in serving:
        await fleet.kill(member)
    await telling
    await fleet.start(2, JOBS_CONCURRENCY=20)
    await audit(fleet, f"a worker killed amid steps, {kills} times", accepted, 180)


async def test_workers_killed_amid_steps(fleet: Fleet) -> None:
    await killed_amid_steps(fleet, jobs=100, kills=3)


@pytest.mark.slow
async def test_a_thousand_jobs_with_steps_and_twenty_killed_workers(fleet: Fleet) -> None:
    await killed_amid_steps(fleet, jobs=1000, kills=20)


async def test_sleeping_and_waiting_jobs_survive_a_restart_of_everything(
    breakable_fleet: Fleet, breakable: Servers
) -> None:
    fleet = breakable_fleet
    serving = await fleet.start(2)
    jobs = await fleet.enqueue(stepped, *[Stepped()] * 20)

    async def all_wait() -> bool:
        waiting = "SELECT count(*) FROM job_step WHERE kind = 'event' AND state = 'waiting'"
        return bool(await fleet.value(waiting) == len(jobs))

    await until(all_wait, "every job waits for its event", 20)
    for member in serving:
        await fleet.kill(member)
    await stopped_and_started(breakable.redis)
    await stopped_and_started(breakable.postgres)
    await fleet.start(2)
    await tell(fleet, jobs)
    await audit(fleet, "everything restarted while jobs wait", jobs, 60)
