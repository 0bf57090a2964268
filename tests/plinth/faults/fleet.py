"""A fleet of workers, each a process, on a database of its own; and the books, which tell whether it kept its promise.

Times are the database's, whose clock every process sees.
"""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

from pydantic import BaseModel

from plinth.database.engine import Database
from plinth.jobs import JobKind, State, enqueue_many
from plinth.jobs.doorbell import DOORBELL, doorbell_for
from plinth.redis.client import close_redis, open_redis
from plinth.redis.keys import key_prefix
from tests.plinth.faults.figures import Figures
from tests.plinth.faults.kinds import TABLES
from tests.support.forked import Forked
from tests.support.notes import ROOT, settings_with

__all__ = ["Fleet", "Member", "until"]

POLL = 0.05  # seconds

# Lost workers are found out in seconds, and connections are few: several fleets share one server.
SETTINGS = {
    "ENVIRONMENT": "test",
    "LOG_LEVEL": "WARNING",
    "LOG_FORMAT": "json",
    "METRICS_PORT": "0",
    "DB_POOL_SIZE": "4",
    "JOBS_SESSION_TIMEOUT": "2",
    "JOBS_SHUTDOWN_GRACE": "5.2",
}

# Runs that have begun and have not ended, as far as the database knows.
RUNNING = "FROM job JOIN run_log ON job_id = id AND run = run_lease WHERE state = 'running'"
# The longest time from the loss of a worker, or from its SIGTERM, to the next run of a job that it had in its hands:
# one of which it had begun a run, and which was then neither done nor begun by anybody else.
RECOVERY = """
SELECT max(again.at - $2::timestamptz) FROM run_log AS mine, LATERAL (
    SELECT at FROM run_log WHERE job_id = mine.job_id AND run > mine.run ORDER BY run LIMIT 1) AS again
WHERE mine.worker = $1 AND mine.at <= $2 AND again.at > $2
"""


async def until(condition: Callable[[], Awaitable[bool]], what: str, within: float) -> None:
    """Wait until something is so. Raises AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(POLL)


class Member:
    """A worker's process."""

    def __init__(self, process: Forked, log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.log = log
        self.lost_at: datetime | None = None  # when it was killed, or asked to end

    async def ended(self, within: float = 30.0) -> None:
        async def has_ended() -> bool:
            return not self.process.running

        await until(has_ended, f"worker {self.pid} ends", within)

    def lines(self, message: str) -> list[dict[str, Any]]:
        """Of its log, the lines with that message."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == message]


class Fleet:
    """`without` names parts of the engine that its workers do without: see `tests.plinth.faults.worker`."""

    def __init__(self, database_url: str, redis_url: str, folder: Path, report: Callable[[Figures], None]) -> None:
        self.without: Sequence[str] = ()
        self.members: list[Member] = []
        # Part of the doorbell's channel, which is one for all databases of a Redis.
        self.name = f"faults-{uuid4().hex[:12]}"
        self._folder = folder
        self._report = report
        self._addresses = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "PROJECT_NAME": self.name}
        settings = settings_with(**self._addresses)
        self.channel = f"{key_prefix(settings)}:jobs"
        self.redis = open_redis(settings)
        self.doorbell = doorbell_for(settings, self.redis)
        self.database = Database(settings, session_info={DOORBELL: self.doorbell})

    async def __aenter__(self) -> Self:
        await self.execute(TABLES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for member in self.members:
            member.process.kill()
        await self.doorbell.aclose()
        await close_redis(self.redis)
        await self.database.aclose()

    # --- workers ---

    async def start(self, count: int = 1, *flags: str, wait: bool = True, **settings: object) -> list[Member]:
        """Start so many workers; with `wait` they are at work when this returns."""
        values = SETTINGS | self._addresses | {name: str(value) for name, value in settings.items()}
        without = [part for name in self.without for part in ("--without", name)]
        members = []
        for _ in range(count):
            log = self._folder / f"worker-{len(self.members)}.log"
            module = ("tests.plinth.faults.worker", *without, *flags)
            process = Forked(*module, folder=ROOT, env={**os.environ, **values}, stdout=log, stderr=log)
            members.append(Member(process, log))
        self.members += members
        if wait:
            await self.ready(members)
        return members

    async def ready(self, members: Sequence[Member]) -> None:
        """Wait until these workers are at work."""

        async def are_at_work() -> bool:
            for member in members:
                assert member.process.running, member.log.read_text()
            names = {row["name"] for row in await self.fetch("SELECT name FROM worker_session")}
            return all(f"{os.uname().nodename}:{member.pid}" in names for member in members)

        await until(are_at_work, "the workers are at work", 30)

    async def kill(self, member: Member) -> None:
        """SIGKILL."""
        member.lost_at = await self.now()
        member.process.kill()

    async def stop(self, member: Member, within: float = 30.0) -> None:
        """SIGTERM, and wait for its end."""
        member.lost_at = await self.now()
        member.process.send(signal.SIGTERM)
        await member.ended(within)
        assert member.process.exit_code == 0, member.log.read_text()

    # --- jobs ---

    async def enqueue(self, kind: JobKind[Any], *payloads: BaseModel, **options: Any) -> list[UUID]:
        """Enqueue a job for each payload, in one transaction; their ids, once that has committed."""
        async with self.database.session() as session:
            jobs = await enqueue_many(session, kind, payloads, **options)
        return [job.id for job in jobs]

    # --- the books ---

    async def execute(self, sql: str) -> None:
        async with self.database.connection() as connection:
            await connection.execute(sql)

    async def fetch(self, sql: str, *arguments: object) -> list[Any]:
        async with self.database.connection() as connection:
            return list(await connection.fetch(sql, *arguments))

    async def value(self, sql: str, *arguments: object) -> Any:
        async with self.database.connection() as connection:
            return await connection.fetchval(sql, *arguments)

    async def now(self) -> datetime:
        now: datetime = await self.value("SELECT clock_timestamp()")
        return now

    async def running(self, count: int = 1, *, member: Member | None = None, within: float = 20.0) -> None:
        """Wait until at least so many runs have begun that have had no effect yet, with this worker or in all."""

        async def begun() -> bool:
            found: int = await self.value(
                f"SELECT count(*) {RUNNING} AND ($1::int IS NULL OR worker = $1)", member and member.pid
            )
            return found >= count

        await until(begun, f"{count} jobs run", within)

    async def busy(self) -> list[Member]:
        """The workers that are running something, once there are any.

        The runs of killed workers may hold all places of the jobs that are left, until they are reaped.
        """
        found: list[Member] = []

        async def any_busy() -> bool:
            pids = {row["worker"] for row in await self.fetch(f"SELECT worker {RUNNING}")}
            found[:] = (member for member in self.members if member.pid in pids and member.process.running)
            return bool(found)

        await until(any_busy, "a worker is busy", 20)
        return found

    async def all_done(self, within: float = 60.0) -> None:
        """Wait until no job is left to do."""

        async def nothing_left() -> bool:
            return not await self.value("SELECT EXISTS (SELECT FROM job)")

        await until(nothing_left, "every job has ended", within)

    async def recovery(self) -> float | None:
        """The longest time, in seconds, from the loss of a worker until a job that it had was begun anew."""
        lost = [member for member in self.members if member.lost_at is not None]
        times = [await self.value(RECOVERY, member.pid, member.lost_at) for member in lost]
        return max((time.total_seconds() for time in times if time is not None), default=None)

    async def audit(
        self,
        fault: str,
        accepted: Collection[UUID],
        *,
        within: float = 60.0,
        discarded: Collection[UUID] = (),
        recovery: float | None = None,
        note: str = "",
    ) -> Figures:
        """Wait for the end of all jobs, then hold the books against each other.

        Every accepted job has had its effect, and once; but for those in `discarded`, which ended so and had none.
        Nothing else has had any. Reports the figures.
        """
        assert len(set(accepted)) == len(accepted)
        await self.all_done(within)
        effects: Mapping[UUID, int] = Counter(row["job_id"] for row in await self.fetch("SELECT job_id FROM ledger"))
        history = {
            row["id"]: row for row in await self.fetch("SELECT id, state, crash_count, run_lease FROM job_history")
        }
        expected = set(accepted) - set(discarded)
        figures = Figures(
            fault,
            jobs=len(accepted),
            effects=sum(effects.values()),
            lost=len(expected - effects.keys()),
            doubled=sum(count > 1 for count in effects.values()),
            runs=await self.value("SELECT count(*) FROM run_log"),
            taken_back=sum(row["crash_count"] for row in history.values()),
            recovery=await self.recovery() if recovery is None else recovery,
            note=note,
        )
        self._report(figures)
        assert figures.lost == 0, figures
        assert figures.doubled == 0, figures
        assert effects.keys() == expected, "something took effect that was never accepted, or was discarded"
        for job_id in accepted:
            state = State.DISCARDED if job_id in discarded else State.SUCCEEDED
            assert history[job_id]["state"] == state, dict(history[job_id])
        return figures

    async def ended_jobs(self, ids: Collection[UUID]) -> list[Any]:
        """Their records in the history."""
        return await self.fetch("SELECT * FROM job_history WHERE id = ANY ($1::uuid[]) ORDER BY id", list(ids))
