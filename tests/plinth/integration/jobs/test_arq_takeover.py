"""`take_over`: what waits in arq's Redis goes to the database, once, and stays in Redis where it cannot."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from notes.config import Settings
from plinth.database.engine import Database, bind_default_database
from plinth.jobs import hooks
from plinth.jobs.arq import ArqRedis, register, registry
from plinth.jobs.arq.jobs import Job
from plinth.jobs.arq.registry import known
from plinth.jobs.arq.takeover import CLAIM, Report, client_of, take_over
from tests.plinth.integration.jobs.conftest import Jobs, until, working
from tests.support.arq_queue import put

QUEUE = "arq:queue"
seen: list[Any] = []


async def the_task(ctx: dict[str, Any], *args: Any, **kwargs: Any) -> None:
    seen.append((ctx["job_id"], ctx["job_try"], args, kwargs))


class Unknown:
    """Of no type that survives JSON."""


@pytest.fixture(autouse=True)
async def _arq(monkeypatch: pytest.MonkeyPatch, database: Database) -> AsyncIterator[None]:
    monkeypatch.setattr(registry, "_functions", {})
    monkeypatch.setattr(hooks, "_lifespans", [])
    register({"functions": [the_task]})
    seen.clear()
    with bind_default_database(database):
        yield


async def keys(redis: Redis, what: str = "") -> set[str]:
    """The names of arq's keys, without `arq:` and what they begin with then."""
    found: list[Any] = await redis.keys(f"arq:{what}*")
    return {key.decode().removeprefix(f"arq:{what}") for key in found}


async def rows(jobs: Jobs) -> list[Any]:
    return await jobs.all("SELECT unique_key, state, run_at, payload FROM job ORDER BY run_at, id")


async def test_jobs_keep_their_ids_times_tries_and_order(redis: Redis, database: Database, jobs: Jobs) -> None:
    later = round(time.time()) + 3600
    await put(redis, "third", "the_task", at=later)
    await put(redis, "first", "the_task", 1, at=time.time() - 60, to={"a"})
    await put(redis, "second", "the_task", at=time.time() - 30, first=4)
    await put(redis, "fourth", "the_task", at=later + 1, expires=60_000)
    await redis.set("arq:retry:third", b"2")
    assert await take_over(redis, database, QUEUE) == Report(waiting=4, taken=4)
    assert await keys(redis) == set()
    found = await rows(jobs)
    assert [row["unique_key"] for row in found] == ["first", "second", "third", "fourth"]
    assert [row["state"] for row in found] == ["available", "available", "scheduled", "scheduled"]
    assert found[2]["run_at"] == datetime.fromtimestamp(later, UTC)
    payloads = [row["payload"] for row in found]
    assert (payloads[0]["args"], payloads[0]["kwargs"]) == ([1], {"to": {"$set": ["a"]}})
    assert [payload["job_try"] for payload in payloads] == [None, 4, 3, None]
    assert [payload["expires"] is not None for payload in payloads] == [False, False, False, True]
    expires = datetime.fromisoformat(payloads[3]["expires"]).timestamp()
    assert expires == pytest.approx(later + 61, abs=10)


async def test_what_cannot_be_taken_over_stays_and_is_told(redis: Redis, database: Database, jobs: Jobs) -> None:
    await put(redis, "unknown", "another_task")
    await put(redis, "argument", "the_task", 1, Unknown())
    await put(redis, "x" * 256, "the_task")
    await put(redis, "unreadable", "the_task", dumps=lambda data: b"no pickle")
    await put(redis, "running", "the_task")
    await redis.set("arq:in-progress:running", b"1")
    await put(redis, "expired", "the_task")
    await redis.delete("arq:job:expired")
    await put(redis, "good", "the_task")
    assert await take_over(redis, database, QUEUE) == Report(
        waiting=7,
        taken=1,
        expired=1,
        running=1,
        left={
            "no function 'another_task' is registered": ["unknown"],
            "cannot be kept: 'the_task': argument 2 has a Unknown, which does not survive JSON. Give it in another "
            "form, or give WorkerSettings a job_serializer and a job_deserializer.": ["argument"],
            "cannot be kept: owners and unique keys have 1 to 255 characters, no NUL and no lone surrogate": [
                "x" * 256
            ],
            "cannot be read: UnpicklingError": ["unreadable"],
        },
    )
    assert [row["unique_key"] for row in await rows(jobs)] == ["good"]
    left = {"unknown", "argument", "x" * 256, "unreadable", "running"}
    waiting: list[Any] = await redis.zrange(QUEUE, 0, -1)
    assert {job_id.decode() for job_id in waiting} == await keys(redis, "job:") == left
    assert await keys(redis, "in-progress:") == {"running"}  # arq's workers may have the others


async def test_job_that_had_run_before_the_second_attempt_is_not_there_twice(
    redis: Redis, settings: Settings, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await put(redis, f"job {number}", "the_task", number)

    class Killed(Exception):
        pass

    async def killed_after_the_commit(session: Any, found: Any, report: Any) -> list[str]:
        result = await insert(session, found, report)
        await session.commit()
        raise Killed
        return result

    from plinth.jobs.arq import takeover

    insert = takeover._insert
    with monkeypatch.context() as patch:
        patch.setattr(takeover, "_insert", killed_after_the_commit)
        with pytest.raises(Killed):
            await take_over(redis, database, QUEUE)
    assert await redis.get("arq:in-progress:job 0") == CLAIM
    async with working(settings, *(function.kind for function in known())):
        await until(Job("job 0", ArqRedis()).result_info)
        await until(Job("job 1", ArqRedis()).result_info)
        await until(Job("job 2", ArqRedis()).result_info)
    # And one of the same id has been enqueued since, which is another job.
    async with database.connection() as connection:
        await connection.execute("UPDATE job_history SET finished_at = now() - interval '1 day'")
    assert await ArqRedis().enqueue_job("the_task", _job_id="job 2") is not None
    assert await take_over(redis, database, QUEUE) == Report(waiting=3, already=3)
    assert await keys(redis) == set()
    assert [row["unique_key"] for row in await rows(jobs)] == ["job 2"]
    assert sorted(job_id for job_id, *_ in seen) == ["job 0", "job 1", "job 2"]


async def test_job_whose_id_another_one_has_waits_for_its_end(redis: Redis, database: Database, jobs: Jobs) -> None:
    await put(redis, "backup", "the_task", "from arq")
    await ArqRedis().enqueue_job("the_task", "from here", _job_id="backup")
    report = await take_over(redis, database, QUEUE)
    assert (report.taken, report.left) == (0, {"another job that waits or runs has its id": ["backup"]})
    assert await redis.zcard(QUEUE) == 1
    async with database.connection() as connection:
        await connection.execute("DELETE FROM job")
    assert await take_over(redis, database, QUEUE) == Report(waiting=1, taken=1)


async def test_dry_run_changes_nothing(redis: Redis, database: Database, jobs: Jobs) -> None:
    await put(redis, "one", "the_task")
    await put(redis, "unknown", "another_task")
    before = await keys(redis)
    report = await take_over(redis, database, QUEUE, dry_run=True)
    assert (report.taken, report.left) == (1, {"no function 'another_task' is registered": ["unknown"]})
    assert await keys(redis) == before
    assert await rows(jobs) == []


async def test_two_at_the_same_time_take_each_job_once(redis: Redis, database: Database, jobs: Jobs) -> None:
    await asyncio.gather(*(put(redis, f"{number}", "the_task", number) for number in range(700)))
    told: list[tuple[int, int]] = []
    reports = await asyncio.gather(
        take_over(redis, database, QUEUE, told=lambda done, total: told.append((done, total))),
        take_over(redis, database, QUEUE),
    )
    assert len(await rows(jobs)) == sum(report.taken for report in reports) == 700
    assert await keys(redis) == set()
    assert told == [(500, 700), (700, 700)]


async def test_jobs_of_a_serializer_are_read_with_it(
    redis: Redis, database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_functions", {})
    register(
        {
            "functions": [named_task],
            "queue_name": "mail",
            "job_serializer": lambda data: json.dumps(data).encode(),
            "job_deserializer": json.loads,
        }
    )
    await put(redis, "one", "named_task", 1, queue="mail", dumps=lambda data: json.dumps(data).encode())
    assert await take_over(redis, database, "mail") == Report(waiting=1, taken=1)
    (job,) = await jobs.all("SELECT queue, payload ->> 'packed' AS packed FROM job")
    assert (job["queue"], job["packed"] is not None) == ("mail", True)


async def named_task(ctx: dict[str, Any], number: int) -> None: ...


async def test_client_is_made_of_redissettings(redis: Redis, redis_url: str) -> None:
    from plinth.jobs.arq.connections import RedisSettings

    client = client_of(RedisSettings.from_dsn(redis_url))
    try:
        assert await client.ping()
    finally:
        await client.aclose()
    with pytest.raises(ValueError, match="names sentinels"):
        client_of(_Sentinels())


class _Sentinels:
    sentinel = True
    host = (("one.example.com", 26379),)


async def test_deferred_job_runs_when_its_time_has_come(redis: Redis, settings: Settings, database: Database) -> None:
    await put(redis, "soon", "the_task", at=time.time() + 0.5)
    assert (await take_over(redis, database, QUEUE)).taken == 1
    async with working(settings, *(function.kind for function in known())):
        ended = await until(Job("soon", ArqRedis()).result_info)
    assert ended.start_time - ended.enqueue_time >= timedelta(seconds=0.45)
