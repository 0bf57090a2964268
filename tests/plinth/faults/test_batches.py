"""Workers are killed amid batches: each batch ends once, with every member counted, and parents go on."""

import asyncio
import random
from uuid import UUID

import pytest

from plinth.jobs import batch
from tests.plinth.faults.fleet import Fleet, until
from tests.plinth.faults.kinds import Effect, Family, Nothing, Work, counted, effect, last, parent

MEMBERS = 20


async def enqueue_batch(fleet: Fleet, members: int = MEMBERS, seconds: float = 0.1) -> list[UUID]:
    """Enqueue a batch of both sorts of members; their ids and that of the job at its end."""
    half = members // 2
    async with fleet.database.session() as session, batch(session, on_end=(last, Nothing())) as made:
        jobs = await made.enqueue_many(effect, [Effect(seconds=random.uniform(0, seconds)) for _ in range(half)])
        work = [Work(seconds=random.uniform(0, seconds)) for _ in range(members - half)]
        jobs += await made.enqueue_many(counted, work)
    at_end = await fleet.value("SELECT on_end_id FROM job_batch WHERE id = $1", made.id)
    return [*(job.id for job in jobs), at_end]


async def audit(fleet: Fleet, fault: str, jobs: list[UUID], parents: list[UUID], within: float) -> None:
    async def all_have_ended() -> bool:
        return not await fleet.value("SELECT EXISTS (SELECT FROM job_batch WHERE finished_at IS NULL)")

    await until(all_have_ended, "every batch has ended", within)
    children = "SELECT id FROM job_history WHERE batch_id IN (SELECT id FROM job_batch WHERE parent_id IS NOT NULL)"
    await fleet.all_done(within)
    jobs = [*jobs, *parents, *(row["id"] for row in await fleet.fetch(children))]
    await fleet.audit(fault, jobs, within=within)
    ends = await fleet.fetch("SELECT succeeded, cancelled, discarded FROM job_batch")
    assert {tuple(row) for row in ends} <= {(MEMBERS, 0, 0)}, "a member was not counted"
    told = await fleet.fetch("SELECT result FROM job_history WHERE kind = $1", last.name)
    assert all(row["result"] == [MEMBERS, 0, 0] for row in told)
    assert len(told) == await fleet.value("SELECT count(*) FROM job_batch WHERE on_end IS NOT NULL")
    totals = await fleet.fetch("SELECT result FROM job_history WHERE id = ANY ($1::uuid[])", parents)
    assert [row["result"] for row in totals] == [MEMBERS] * len(parents), "a child's result was lost or doubled"
    assert len(await fleet.fetch("SELECT id FROM job_batch WHERE parent_id IS NOT NULL")) == len(parents)


async def killed_amid_batches(fleet: Fleet, *, batches: int, parents: int, kills: int) -> None:
    """Workers are killed at random moments, at the end all of them at once."""
    serving = await fleet.start(3, JOBS_CONCURRENCY=20)
    jobs = [job_id for _ in range(batches) for job_id in await enqueue_batch(fleet)]
    families = await fleet.enqueue(parent, *[Family(seconds=0.05, children=MEMBERS)] * parents)
    for _ in range(kills):
        await asyncio.sleep(random.uniform(0.1, 0.4))
        victim = random.choice(serving)
        await fleet.kill(victim)
        serving.remove(victim)
        serving += await fleet.start(1, wait=False, JOBS_CONCURRENCY=20)
    for member in serving:
        await fleet.kill(member)
    await fleet.start(2, JOBS_CONCURRENCY=20)
    await audit(fleet, f"a worker killed amid batches, {kills} times", jobs, families, 180)


async def test_workers_killed_amid_batches(fleet: Fleet) -> None:
    await killed_amid_batches(fleet, batches=6, parents=3, kills=3)


@pytest.mark.slow
async def test_a_thousand_members_and_twenty_killed_workers(fleet: Fleet) -> None:
    await killed_amid_batches(fleet, batches=35, parents=15, kills=20)


async def test_worker_that_dies_between_the_last_member_and_the_end_of_its_batch(fleet: Fleet) -> None:
    (dying,) = await fleet.start(1, "--without", "batches")
    jobs = await enqueue_batch(fleet, seconds=0)
    await dying.ended()
    await fleet.start(2)
    await audit(fleet, "a worker dies as it is about to end a batch", jobs, [], 30)
