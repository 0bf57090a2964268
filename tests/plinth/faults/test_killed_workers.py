"""Workers are killed. What they ran runs again, and nothing takes effect twice."""

import asyncio
import random
from uuid import UUID

import pytest

from plinth.jobs import State
from plinth.jobs.engine.store import Reaped, Store
from tests.plinth.faults.fleet import Fleet, until
from tests.plinth.faults.kinds import Effect, Killer, Work, effect, killer, plain


async def killed_in_mid_job(fleet: Fleet, *, rounds: int, batch: int, within: float = 60.0) -> None:
    """In each round one of three workers is killed at a random moment while it runs jobs, and another one started."""
    serving = await fleet.start(3, JOBS_CONCURRENCY=8)
    accepted: list[UUID] = []
    for _ in range(rounds):
        accepted += await fleet.enqueue(effect, *(Effect(seconds=random.uniform(0.005, 0.2)) for _ in range(batch)))
        accepted += await fleet.enqueue(plain, *(Work(seconds=random.uniform(0.005, 0.2)) for _ in range(batch // 10)))

        async def few_wait() -> bool:
            return bool(await fleet.value("SELECT count(*) < $1 FROM job WHERE state = 'available'", 2 * batch))

        await until(few_wait, "the line grows short", 30)
        victim = random.choice(await fleet.busy())
        await asyncio.sleep(random.uniform(0, 0.1))
        await fleet.kill(victim)
        serving.remove(victim)
        serving += await fleet.start(1, wait=False, JOBS_CONCURRENCY=8)
    figures = await fleet.audit(f"a worker killed, {rounds} times", accepted, within=within)
    assert figures.taken_back >= rounds  # or the kills have hit no running job


async def test_jobs_of_killed_workers_run_again(fleet: Fleet) -> None:
    await killed_in_mid_job(fleet, rounds=2, batch=100)


@pytest.mark.slow
async def test_jobs_of_fifty_killed_workers_run_again(fleet: Fleet) -> None:
    await killed_in_mid_job(fleet, rounds=50, batch=250)


@pytest.mark.slow
async def test_jobs_of_a_killed_worker_run_again_within_15_s_by_default(fleet: Fleet) -> None:
    first, _ = await fleet.start(2, JOBS_SESSION_TIMEOUT=10, JOBS_MAX_CRASHES=5)
    accepted = await fleet.enqueue(effect, *[Effect(seconds=5)] * 40)
    await fleet.running(40)
    await fleet.kill(first)
    figures = await fleet.audit("a worker killed, default settings", accepted)
    assert figures.taken_back > 0
    assert figures.recovery is not None
    assert figures.recovery < 15


class TestMomentOfTheKill:
    """A job's own process is killed at the worst moments."""

    @pytest.mark.slow
    async def test_job_killed_between_complete_and_commit_runs_again(self, fleet: Fleet) -> None:
        await fleet.start(2)
        accepted = await fleet.enqueue(killer, Killer(moment="before commit"))
        await fleet.audit("killed between complete() and its commit", accepted)
        (ended,) = await fleet.ended_jobs(accepted)
        assert (ended["crash_count"], ended["attempt"], ended["run_lease"]) == (1, 1, 3)

    async def test_job_killed_after_the_commit_does_not_run_again(self, fleet: Fleet) -> None:
        await fleet.start(2)
        accepted = await fleet.enqueue(killer, Killer(moment="after commit"))
        await until_one_has_died(fleet, 1)
        figures = await fleet.audit("killed after the commit", accepted)
        assert figures.runs == 1

    @pytest.mark.slow
    async def test_job_killed_before_its_outcome_is_written_runs_again(self, fleet: Fleet) -> None:
        fleet.without = ["finish"]
        (doomed,) = await fleet.start(1)
        fleet.without = []
        accepted = await fleet.enqueue(plain, *[Work()] * 20)
        await doomed.ended()
        await fleet.start(1)
        figures = await fleet.audit("killed between a handler's end and its record", accepted)
        assert figures.runs > 2 * len(accepted)  # each job's second run, and what follows


class TestPoison:
    """A job kills every worker that runs it."""

    @pytest.mark.slow
    async def test_poison_job_is_discarded_with_its_reason_and_no_other_is(self, fleet: Fleet) -> None:
        crashes = 3
        await fleet.start(3, JOBS_MAX_CRASHES=crashes, JOBS_CONCURRENCY=1)
        poison = await fleet.enqueue(killer, Killer(runs=1000))
        others: list[UUID] = []
        for died in range(1, crashes + 1):
            others += await fleet.enqueue(effect, *(Effect(seconds=random.uniform(0, 0.1)) for _ in range(50)))
            await until_one_has_died(fleet, died)
            await fleet.start(1, JOBS_MAX_CRASHES=crashes, JOBS_CONCURRENCY=1)
        await fleet.audit("a job that kills its workers", poison + others, discarded=poison)
        (ended,) = await fleet.ended_jobs(poison)
        assert (ended["crash_count"], ended["attempt"], ended["run_lease"]) == (crashes, 0, 2 * crashes - 1)
        assert [error["outcome"] for error in ended["errors"]] == ["crash"] * crashes
        assert ended["errors"][-1]["error"].startswith("Discarded as poison")
        assert sum(not member.process.running for member in fleet.members) == crashes

    @pytest.mark.slow
    async def test_poison_job_does_not_discard_jobs_that_run_beside_it(self, fleet: Fleet) -> None:
        crashes = 3
        poison = await fleet.enqueue(killer, Killer(runs=1000))
        others = await fleet.enqueue(effect, *[Effect(seconds=1)] * 4)
        for died in range(1, crashes + 1):
            await fleet.start(1, JOBS_MAX_CRASHES=crashes)
            await until_one_has_died(fleet, died)
        await fleet.start(1, JOBS_MAX_CRASHES=crashes)
        await fleet.audit("neighbours of a job that kills its workers", poison + others, discarded=poison)


async def until_one_has_died(fleet: Fleet, count: int) -> None:
    async def so_many_died() -> bool:
        return sum(not member.process.running for member in fleet.members) >= count

    await until(so_many_died, f"the job has killed {count} workers", 20)


class TestReapers:
    async def test_concurrent_reapers_take_each_lost_run_once(self, fleet: Fleet) -> None:
        (lost,) = await fleet.start(1, JOBS_CONCURRENCY=200)
        accepted = await fleet.enqueue(effect, *[Effect(seconds=3600)] * 200)
        await fleet.running(200)
        await fleet.kill(lost)

        async def expired() -> bool:
            return bool(await fleet.value("SELECT bool_and(expires_at < now()) FROM worker_session"))

        await until(expired, "the session expires", 5)
        store = Store(fleet.database, accepted[0])  # a reaper needs no session
        reaped: list[Reaped] = []
        # A reaper that meets another one does nothing, so it may take a second round until all is taken.
        for _ in range(2):
            for some in await asyncio.gather(*(store.reap(max_crashes=5) for _ in range(20))):
                reaped += some
        assert sorted(job.id for job in reaped) == sorted(accepted)
        assert {(job.fate, job.hung) for job in reaped} == {(State.AVAILABLE, False)}
        counts = await fleet.fetch("SELECT DISTINCT state, crash_count, attempt, run_lease FROM job")
        assert [tuple(row) for row in counts] == [("available", 1, 0, 2)]

    @pytest.mark.slow
    async def test_reapers_of_a_whole_fleet_take_each_lost_run_once(self, fleet: Fleet) -> None:
        lost, *_ = await fleet.start(5, JOBS_CONCURRENCY=20)
        accepted = await fleet.enqueue(effect, *[Effect(seconds=8)] * 100)
        await fleet.running(100)
        await fleet.kill(lost)
        # Room for what comes back, without waiting for the end of what runs.
        await fleet.start(2, JOBS_CONCURRENCY=20)
        figures = await fleet.audit("reapers of six workers race", accepted)
        assert figures.taken_back == 20
        assert figures.recovery is not None
        assert figures.recovery < 2 + 1 + 1
        ended = await fleet.ended_jobs(accepted)
        assert sorted({(job["crash_count"], job["run_lease"]) for job in ended}) == [(0, 1), (1, 3)]
