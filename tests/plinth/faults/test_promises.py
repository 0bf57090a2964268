"""What else is promised: limits, keys, time limits, and what a rollback leaves."""

import asyncio
import random
from itertools import count
from uuid import UUID

import pytest

from plinth.jobs import EnqueuedJob, enqueue, enqueue_many
from tests.plinth.faults.fleet import Fleet, until
from tests.plinth.faults.kinds import (
    Effect,
    Followed,
    Keyed,
    Trouble,
    Work,
    counted,
    effect,
    keyed,
    leads,
    limited,
    times_out,
)

# For each run its begin and its end, of one kind.
SPANS = """
SELECT run_log.at AS began, ledger.at AS ended, job_history.unique_key, job_history.limit_key FROM ledger
JOIN run_log USING (job_id, run) JOIN job_history ON job_history.id = ledger.job_id WHERE job_history.kind = $1
"""


def most_at_once(spans: list[tuple[object, object]]) -> int:
    """How many of these spans of time overlap, at most."""
    # An end before a beginning at the same time: spans that touch do not overlap.
    moments = sorted([(began, 1) for began, _ in spans] + [(ended, -1) for _, ended in spans])
    running = most = 0
    for _, step in moments:
        running += step
        most = max(most, running)
    return most


def test_overlapping_runs_are_counted() -> None:
    assert most_at_once([]) == 0
    assert most_at_once([(0, 2), (2, 4), (4, 5)]) == 1
    assert most_at_once([(0, 3), (1, 2), (2, 4), (2, 3)]) == 3


async def test_rolled_back_enqueue_leaves_no_job(fleet: Fleet) -> None:
    await fleet.start(1)

    async def enqueue_and_fail() -> None:
        async with fleet.database.session() as session:
            await enqueue_many(session, effect, [Effect()] * 100)
            raise LookupError

    for _ in range(5):
        with pytest.raises(LookupError):
            await enqueue_and_fail()
    accepted = await fleet.enqueue(effect, Effect())
    figures = await fleet.audit("enqueued and rolled back", accepted)
    assert figures.runs == 1


@pytest.mark.slow
async def test_max_running_holds_in_the_whole_fleet(fleet: Fleet) -> None:
    """Through rings, polls and a restart, never more than three at once, and three whenever there are so many."""
    first, *_ = await fleet.start(3, JOBS_CONCURRENCY=10)
    accepted: list[UUID] = []
    for _ in range(10):
        accepted += await fleet.enqueue(limited, *(Work(seconds=random.uniform(0.01, 0.05)) for _ in range(10)))
    accepted += await fleet.enqueue(effect, *[Effect(seconds=0.01)] * 50)
    await fleet.running(1)
    await fleet.stop(first)
    await fleet.start(1, JOBS_CONCURRENCY=10)
    await fleet.audit("a kind with a limit of three", accepted)
    spans = [(row["began"], row["ended"]) for row in await fleet.fetch(SPANS, limited.name)]
    assert len(spans) == 100
    assert most_at_once(spans) == 3


async def limits_of_keys_hold(fleet: Fleet, *, rounds: int, batch: int) -> None:
    """Ten keys, jobs of one of them ahead of all others, and in each round a worker is killed."""
    serving = await fleet.start(3, JOBS_CONCURRENCY=16)
    accepted: list[UUID] = []
    for _ in range(rounds):
        keys = [*"a" * batch, *random.choices("abcdefghij", k=batch)]
        works = [Keyed(key=key, seconds=random.uniform(0.001, 0.01)) for key in keys]
        accepted += await fleet.enqueue(keyed, *works)
        await fleet.running(1)
        victim = random.choice(await fleet.busy())
        await fleet.kill(victim)
        serving.remove(victim)
        serving += await fleet.start(1, wait=False, JOBS_CONCURRENCY=16)
    await fleet.audit(f"limits of keys, workers killed {rounds} times", accepted, within=120)
    spans = await fleet.fetch(SPANS, keyed.name)
    assert len(spans) == len(accepted)
    for key in {row["limit_key"] for row in spans}:
        assert most_at_once([(row["began"], row["ended"]) for row in spans if row["limit_key"] == key]) <= 2


async def test_limits_of_keys_hold_in_the_whole_fleet(fleet: Fleet) -> None:
    await limits_of_keys_hold(fleet, rounds=1, batch=50)


@pytest.mark.slow
async def test_limits_of_keys_hold_while_ten_workers_are_killed(fleet: Fleet) -> None:
    await limits_of_keys_hold(fleet, rounds=10, batch=100)


async def test_one_live_job_for_each_unique_key(fleet: Fleet) -> None:
    """Many enqueue the same few keys while workers run what is enqueued: of each key one job lives at a time."""
    await fleet.start(2)
    answers: list[EnqueuedJob] = []
    rounds = count()

    async def insist() -> None:
        while next(rounds) < 300:
            keys = random.sample([f"key-{number}" for number in range(5)], k=3)
            async with fleet.database.session() as session:
                if random.random() < 0.5:
                    jobs = await enqueue_many(session, effect, [Effect(seconds=0.01)] * len(keys), unique_keys=keys)
                else:
                    jobs = [await enqueue(session, effect, Effect(seconds=0.01), unique_key=keys[0])]
            answers.extend(jobs)

    await asyncio.gather(*(insist() for _ in range(6)))
    created = [job.id for job in answers if job.created]
    await fleet.audit("six clients, five unique keys", created, note=f"{len(answers)} asked for")
    assert {job.id for job in answers} == set(created), "an answer names a job that was never made"
    assert len(created) < len(answers)
    spans = await fleet.fetch(SPANS, effect.name)
    for key in {row["unique_key"] for row in spans}:
        assert most_at_once([(row["began"], row["ended"]) for row in spans if row["unique_key"] == key]) == 1


@pytest.mark.slow
async def test_timed_out_attempt_is_retried(fleet: Fleet) -> None:
    await fleet.start(2)
    accepted = await fleet.enqueue(times_out, *[Trouble(attempts=2, seconds=3600)] * 20)
    figures = await fleet.audit("two attempts time out", accepted)
    assert figures.runs == 3 * len(accepted)
    for ended in await fleet.ended_jobs(accepted):
        assert (ended["attempt"], ended["crash_count"]) == (3, 0)
        assert [error["outcome"] for error in ended["errors"]] == ["timeout", "timeout"]


# How long after the effect of a job its end was written, at most, in seconds.
RECORDED = """
SELECT max(extract(epoch FROM finished_at - at))::float8 FROM ledger JOIN job_history ON id = job_id WHERE kind = $1
"""


@pytest.mark.slow
async def test_open_transaction_delays_no_other_outcome_by_two_seconds(fleet: Fleet) -> None:
    """It holds the keys of jobs that are to follow forty others."""
    await fleet.start(2, JOBS_CONCURRENCY=50)
    keys = [f"held {number}" for number in range(40)]
    free: list[UUID] = []

    async def are_written() -> bool:
        return len(await fleet.ended_jobs(free)) == len(free)

    async with fleet.database.session() as holding:
        await enqueue_many(holding, effect, [Effect()] * len(keys), unique_keys=keys, queue="elsewhere")
        waiting = await fleet.enqueue(leads, *(Followed(key=key) for key in keys))
        await fleet.running(len(keys))
        for _ in range(200):
            free += await fleet.enqueue(counted, Work())
            await asyncio.sleep(0.02)
        await until(are_written, "the others' ends are written", 30)
        assert not await fleet.ended_jobs(waiting)
        await holding.rollback()
    longest = await fleet.value(RECORDED, counted.name)
    note = f"others are written after {longest:.2f} s at most"
    await fleet.audit("forty outcomes wait for a transaction", [*waiting, *free], note=note)
    assert longest < 2
