"""Takes over what waits in a queue of arq: into the database, and out of Redis once that is committed.

It may be killed at any moment and run again. A job that it has taken over is known again by its id and the time at
which it was enqueued, also when it has ended since.
"""

import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.audit import Actor, record
from plinth.database.engine import Database
from plinth.jobs.arq.calls import Call
from plinth.jobs.arq.registry import known, named
from plinth.jobs.enqueue import Insertion, prepare
from plinth.jobs.follow_ups import merged
from plinth.jobs.kinds import UnknownKindError
from plinth.redis import Redis

__all__ = ["Report", "client_of", "take_over"]

BATCH = 500  # jobs in a transaction
# arq's worker starts no job that has this key, and gives its own another value. The time is for a run that was killed
# after its commit: arq's workers leave its jobs alone until it is run again.
CLAIM, CLAIM_SECONDS = b"plinth", 3600
# arq lets a job expire a day after its time unless `_expires` says otherwise. Here it then has no such limit.
DEFAULT_EXPIRY, ABOUT = timedelta(days=1), timedelta(minutes=1)
LATER = datetime(9000, 1, 1, tzinfo=UTC)  # of jobs that are not due, until `SET_TIMES`

SET_TIMES = """
UPDATE job SET run_at = due.at FROM unnest($1::uuid[], $2::timestamptz[]) AS due (id, at) WHERE job.id = due.id
"""
# Read after the jobs were inserted: one that ended before that is seen in the history.
SAME_ID = """
SELECT id, unique_key, payload ->> 'enqueue_time' AS enqueued FROM job
WHERE kind = ANY ($1::text[]) AND unique_key = ANY ($2::text[])
UNION ALL
SELECT id, unique_key, payload ->> 'enqueue_time' FROM job_history
WHERE kind = ANY ($1::text[]) AND unique_key = ANY ($2::text[])
"""
DELETE = "DELETE FROM job WHERE id = ANY ($1::uuid[])"


@dataclass
class Report:
    """What has become of the jobs of the queue. `left`: the ids of those that stay in Redis, by the reason.

    `already`: an earlier run had taken them over; `expired`: their time was over, and Redis has dropped what they call;
    `gone`: arq's workers ended them meanwhile; `running`: arq's workers run them, so they stay.
    """

    waiting: int = 0
    taken: int = 0
    already: int = 0
    expired: int = 0
    gone: int = 0
    running: int = 0
    left: dict[str, list[str]] = field(default_factory=dict)


class _Left(Exception):
    """The job stays in Redis, for this reason."""


class _Found(NamedTuple):
    """A job as Redis has it."""

    id: str
    payload: bytes | None
    expires_in: int  # milliseconds; below 0: never
    tries: bytes | None
    score: float | None


class _Taken(NamedTuple):
    """A job to be inserted."""

    id: str
    call: Call
    due: datetime
    insertion: Insertion


def client_of(settings: Any) -> Redis:
    """Make a client from arq's RedisSettings. Raises ValueError if they name sentinels."""
    if getattr(settings, "sentinel", False):
        raise ValueError("RedisSettings names sentinels: give the address of Redis itself")
    return Redis(
        host=settings.host,
        port=settings.port,
        unix_socket_path=settings.unix_socket_path,
        db=settings.database,
        username=settings.username,
        password=settings.password,
        ssl=settings.ssl,
    )


async def take_over(
    redis: Redis,
    database: Database,
    queue: str,
    *,
    by: Actor | None = None,
    dry_run: bool = False,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Take over the jobs that wait in a queue of arq now, the first to run first.

    Each keeps its id, as its unique key, its time and the number of its tries. Reading them unpickles them, unless
    WorkerSettings has a deserializer: that runs what a client of that Redis has written.

    Args:
        redis: arq's, without `decode_responses`.
        queue: its name in arq.
        by: the operator in whose name it is recorded.
        dry_run: only read and count them.
        told: called with how many are done, and of how many.

    Raises:
        redis.exceptions.RedisError, DatabaseUnavailableError: run it again.
    """
    waiting: list[Any] = await redis.zrange(queue, 0, -1)
    ids = [job_id.decode() for job_id in waiting]
    report = Report(waiting=len(ids))
    reader = _Reader(queue)
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        await _take_batch(redis, database, queue, batch, reader, report, by=by, dry_run=dry_run)
        told(start + len(batch), len(ids))
    return report


async def _take_batch(
    redis: Redis,
    database: Database,
    queue: str,
    ids: list[str],
    reader: "_Reader",
    report: Report,
    *,
    by: Actor | None,
    dry_run: bool,
) -> None:
    free = await _claim(redis, ids, dry_run=dry_run)
    report.running += len(ids) - len(free)
    jobs: list[_Taken] = []
    remove: list[str] = []
    for found in await _read(redis, queue, free):
        if found.score is None:
            report.gone += 1
        elif found.payload is None:
            report.expired += 1
            remove.append(found.id)
        else:
            try:
                jobs.append(reader.read(found, found.payload, found.score))
            except _Left as error:
                report.left.setdefault(str(error), []).append(found.id)
    if dry_run:
        report.taken += len(jobs)
        return
    # If the commit fails the claims stay: it may have been done for all that.
    before = report.taken
    async with database.session() as session:
        remove += await _insert(session, jobs, report)
        if by is not None and report.taken > before:
            await record(session, by, "jobs.import_arq", "jobs", queue=queue, count=report.taken - before)
    async with redis.pipeline(transaction=True) as pipe:
        if remove:
            pipe.zrem(queue, *remove)
            pipe.delete(*(f"arq:{what}:{job_id}" for job_id in remove for what in ("job", "retry")))
        if free:
            pipe.delete(*(f"arq:in-progress:{job_id}" for job_id in free))
        await pipe.execute()


async def _claim(redis: Redis, ids: list[str], *, dry_run: bool) -> list[str]:
    """Keep arq's workers from starting the jobs; return those that none of them runs."""
    async with redis.pipeline(transaction=False) as pipe:
        for job_id in ids:
            key = f"arq:in-progress:{job_id}"
            if not dry_run:
                pipe.set(key, CLAIM, nx=True, ex=CLAIM_SECONDS)
            pipe.get(key)
        answers = await pipe.execute()
    claims = answers if dry_run else answers[1::2]
    return [job_id for job_id, claim in zip(ids, claims, strict=True) if claim in (CLAIM, None)]


async def _read(redis: Redis, queue: str, ids: list[str]) -> Iterable[_Found]:
    async with redis.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.get(f"arq:job:{job_id}")
            pipe.pttl(f"arq:job:{job_id}")
            pipe.get(f"arq:retry:{job_id}")
            pipe.zscore(queue, job_id)
        answers = await pipe.execute()
    return [_Found(job_id, *answers[4 * number : 4 * number + 4]) for number, job_id in enumerate(ids)]


class _Reader:
    """Reads jobs of one queue, as its WorkerSettings has them written."""

    def __init__(self, queue: str) -> None:
        codecs = [function.source.codec for function in known() if function.source.queue_name == queue]
        self._load: Any = next((codec.deserializer for codec in codecs if codec.deserializer), pickle.loads)

    def read(self, found: _Found, payload: bytes, score: float) -> _Taken:
        """Make the job to insert of one that was found. Raises _Left."""
        try:
            data = self._load(payload)
            name, args, kwargs, first = data["f"], data["a"], data["k"], data["t"] or 1
            enqueued = _time(data["et"])
        except Exception as error:
            raise _Left(f"cannot be read: {type(error).__name__}") from error
        try:
            function = named(name)
        except UnknownKindError:
            raise _Left(f"no function {name!r} is registered") from None
        try:
            due, now = _time(score), datetime.now(UTC)
            expires = now + timedelta(milliseconds=found.expires_in) if found.expires_in >= 0 else None
            if expires is not None and abs(expires - due - DEFAULT_EXPIRY) < ABOUT:
                expires = None
            tries = max(int(found.tries or 0) + 1, first)
            call = function.source.codec.call(
                name,
                args,
                kwargs,
                job_id=found.id,
                job_try=tries if tries > 1 else None,
                enqueue_time=enqueued,
                due=due,
                expires=expires,
            )
            run_at = LATER if due > now else None
            return _Taken(found.id, call, due, prepare(function.kind, [call], unique_keys=[found.id], run_at=run_at))
        except (
            Exception
        ) as error:  # a time that there is not, an argument that does not survive, an id that is too long
            raise _Left(f"cannot be kept: {error}") from error


async def _insert(session: AsyncSession, jobs: Sequence[_Taken], report: Report) -> list[str]:
    """Insert jobs in the session's transaction; return those that are in the database then, and may leave Redis."""
    if not jobs:
        return []
    made: dict[str, UUID] = {}
    for insertion in merged([job.insertion for job in jobs]):
        answers = await insertion.execute(session)
        made |= {row.unique_key: job.id for row, job in zip(insertion.rows, answers, strict=True) if row.unique_key}
    new = {row.unique_key: row.id for job in jobs for row in job.insertion.rows if made[job.id] == row.id}
    connection = await session.connection()
    kinds = sorted({job.insertion.terms.kind for job in jobs})
    same = await connection.exec_driver_sql(SAME_ID, (kinds, [job.id for job in jobs]))
    earlier = {(row.unique_key, row.enqueued) for row in same if row.id not in new.values()}
    done, doubled, times = [], [], {}
    for job in jobs:
        before = (job.id, job.call.model_dump(mode="json")["enqueue_time"]) in earlier
        if job.id in new and before:
            doubled.append(new[job.id])
        elif job.id in new and job.insertion.terms.run_at == LATER:
            times[new[job.id]] = job.due
        if before:
            report.already += 1
        elif job.id in new:
            report.taken += 1
        else:
            report.left.setdefault("another job that waits or runs has its id", []).append(job.id)
            continue
        done.append(job.id)
    await connection.exec_driver_sql(SET_TIMES, (list(times), list(times.values())))
    await connection.exec_driver_sql(DELETE, (doubled,))
    return done


def _time(milliseconds: float) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
