"""Enqueues the jobs of schedules, each slot once in the whole fleet.

There is no leader. Every worker watches the database's clock and takes a slot by moving `last_slot` on, in the
transaction that enqueues the job; a second worker finds it moved. Slots missed while no worker ran are enqueued, up to
the schedule's `catch_up`, the latest ones.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.database.errors import database_reason, sqlstate
from plinth.jobs.doorbell import ring_after_commit
from plinth.jobs.engine.batches import cancel_children
from plinth.jobs.engine.sql import CANCEL_RUNNING, CANCEL_WAITING
from plinth.jobs.enqueue import enqueue_many
from plinth.jobs.outcome import State
from plinth.jobs.schedules import Schedule, schedules

__all__ = ["LOOK", "Scheduler"]

log = structlog.get_logger("plinth.jobs.schedules")

# How often schedules are checked when none is due: the database's clock decides, and may step.
LOOK_SECONDS = 30.0
FAILED_SECONDS = 1.0  # until a slot is tried again that could not be taken
# A slot that another transaction is in the way of is put off: the schedules behind it do not wait for that transaction.
LOCK_TIMEOUT = "SET LOCAL lock_timeout = '100ms'"
LOCK_NOT_AVAILABLE = "55P03"

# One whose expression has changed, or that comes back, begins now: what it would have missed was never due.
DECLARE = """
WITH gone AS (
    UPDATE job_schedule SET retired_at = now() WHERE retired_at IS NULL AND name <> ALL ($1::text[])
)
INSERT INTO job_schedule (name, kind, cron, timezone)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, cron = excluded.cron, timezone = excluded.timezone,
    declared_at = now(), retired_at = NULL,
    last_slot = CASE WHEN job_schedule.retired_at IS NULL
        AND (job_schedule.cron, job_schedule.timezone) = (excluded.cron, excluded.timezone)
        THEN job_schedule.last_slot ELSE GREATEST(job_schedule.last_slot, now()) END
"""
# The live jobs of a schedule's earlier slots.
EARLIER = "SELECT id, state FROM job WHERE kind = $1 AND starts_with(unique_key, $2) FOR UPDATE SKIP LOCKED"
MARK = """
UPDATE job SET slot_at = slot.at FROM unnest($1::uuid[], $2::timestamptz[]) AS slot (id, at) WHERE job.id = slot.id
"""
LOOK = "SELECT name, last_slot, paused_at, now() AS now FROM job_schedule WHERE name = ANY ($1::text[])"


def _taking(wait: str) -> str:
    return f"""
UPDATE job_schedule SET last_slot = due.slot
FROM (
    SELECT name, due.slot FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS due (name, last, slot)
        JOIN job_schedule USING (name)
    WHERE last_slot = due.last AND paused_at IS NULL ORDER BY name FOR UPDATE OF job_schedule {wait}
) AS due
WHERE job_schedule.name = due.name RETURNING due.name
"""  # noqa: S608


# Of many schedules those that no other transaction has; or one, after a wait for that transaction.
TAKE_FREE, TAKE = _taking("SKIP LOCKED"), _taking("")
# Schedules that are taken in one transaction. One by one a thousand took twelve seconds on a busy machine.
TOGETHER = 100


class Due(NamedTuple):
    """A schedule with slots that are due, and its last slot before them."""

    schedule: Schedule
    last: datetime
    slots: list[datetime]


class Scheduler:
    """Enqueues the jobs of this process's schedules."""

    def __init__(self, database: Database, declared: Mapping[str, Schedule] | None = None) -> None:
        self._database = database
        self._schedules = dict(schedules() if declared is None else declared)
        self._declared = False
        self._next_slots: dict[str, tuple[datetime, datetime]] = {}  # by name: the last slot, and the one after it

    async def step(self) -> float:
        """Declare the schedules, the first time, and enqueue what is due. Returns the seconds to wait."""
        if not self._schedules:
            return LOOK_SECONDS
        if not self._declared:
            await self.declare()
            self._declared = True
        return await self.take_due()

    async def declare(self) -> None:
        """Store the schedules for operators. A new one, a changed one and one that comes back begin now."""
        made = self._schedules.values()
        async with self._database.connection() as connection:
            await connection.execute(
                DECLARE,
                [schedule.name for schedule in made],
                [schedule.kind.name for schedule in made],
                [schedule.cron for schedule in made],
                [schedule.timezone for schedule in made],
            )

    async def take_due(self) -> float:
        """Enqueue what is due. Returns the seconds to wait before looking again."""
        due, wait = await self._look()
        if len(due) > 1:
            for group in _groups(due):
                try:
                    await self._take(group, TAKE_FREE)
                except Exception as error:
                    if isinstance(error, DatabaseUnavailableError) and sqlstate(error) != LOCK_NOT_AVAILABLE:
                        raise
                    log.debug("schedules are taken one by one", error=repr(error))
            due, wait = await self._look()
        for one in due:
            try:
                await self._take([one], TAKE)
            except DatabaseUnavailableError as error:
                if sqlstate(error) != LOCK_NOT_AVAILABLE:
                    raise
                log.warning("a slot is put off", schedule=one.schedule.name, reason=database_reason(error))
                wait = min(wait, FAILED_SECONDS)
            except Exception:  # the schedules behind it go on
                log.exception("a slot cannot be taken", schedule=one.schedule.name)
                wait = min(wait, FAILED_SECONDS)
        return wait

    async def _look(self) -> tuple[list[Due], float]:
        """The schedules that are due, and the seconds until another slot is."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(LOOK, list(self._schedules))
        due, wait = [], LOOK_SECONDS
        for number, row in enumerate(rows):
            if number % TOGETHER == 0:
                await asyncio.sleep(0)  # a slot is found in 45 µs: that of 10,000 schedules would hold up the process
            if row["paused_at"] is not None:
                continue
            schedule, last, now = self._schedules[row["name"]], row["last_slot"], row["now"]
            next_slot = self._next_slot(schedule, last)
            if next_slot <= now:
                if slots := schedule.due_slots(last, now):
                    due.append(Due(schedule, last, slots[-1:] if schedule.overlap == "cancel" else slots))
                next_slot = schedule.next_slot(now)
            wait = min(wait, max(0.01, (next_slot - now).total_seconds()))
        return due, wait

    def _next_slot(self, schedule: Schedule, last: datetime) -> datetime:
        """The first slot after the last one that was taken; looked for once."""
        known = self._next_slots.get(schedule.name)
        if known is None or known[0] != last:
            known = self._next_slots[schedule.name] = last, schedule.next_slot(last)
        return known[1]

    async def _take(self, group: Sequence[Due], take: str) -> None:
        """Enqueue the jobs of schedules of one kind, of one schedule if it cancels earlier jobs."""
        names, lasts, to = zip(*((due.schedule.name, due.last, due.slots[-1]) for due in group), strict=True)
        kind = group[0].schedule.kind
        async with self._database.session() as session:
            connection = await session.connection()
            await connection.exec_driver_sql(LOCK_TIMEOUT)
            free = {row.name for row in await connection.exec_driver_sql(take, (names, lasts, to))}
            taken = [due for due in group if due.schedule.name in free]
            if not taken:
                return  # another worker took the slots, or the schedules were paused
            payloads, keys, times = [], [], []
            for schedule, _, slots in taken:
                prefix = f"schedule {schedule.name}"  # a name has no space, so no other begins like this
                if schedule.overlap == "cancel":
                    await self._cancel_earlier(session, kind.name, f"{prefix} ")
                payloads += [schedule.payload] * len(slots)
                keys += [prefix if schedule.overlap == "skip" else f"{prefix} {slot.isoformat()}" for slot in slots]
                times += slots
            jobs = await enqueue_many(session, kind, payloads, unique_keys=keys)
            made = [(job.id, slot) for job, slot in zip(jobs, times, strict=True) if job.created]
            await connection.exec_driver_sql(MARK, tuple(zip(*made, strict=True)) or ((), ()))
        for schedule, _, slots in taken:
            log.info("slots taken", schedule=schedule.name, slots=[slot.isoformat() for slot in slots])

    async def _cancel_earlier(self, session: AsyncSession, kind: str, prefix: str) -> None:
        connection = await session.connection()
        earlier = (await connection.exec_driver_sql(EARLIER, (kind, prefix))).all()
        for job in earlier:
            if job.state == State.RUNNING:
                await connection.exec_driver_sql(CANCEL_RUNNING, (job.id,))
                ring_after_commit(session, cancelled=[job.id])
            else:
                await connection.exec_driver_sql(CANCEL_WAITING, (job.id,))
        await cancel_children(session, [job.id for job in earlier])


def _groups(due: Sequence[Due]) -> Iterator[Sequence[Due]]:
    """Divide what is due into what can be taken together: schedules of one kind that cancel no earlier job."""
    of_kind: dict[str, list[Due]] = {}
    for one in due:
        if one.schedule.overlap == "cancel":
            yield [one]
        else:
            of_kind.setdefault(one.schedule.kind.name, []).append(one)
    for together in of_kind.values():
        for first in range(0, len(together), TOGETHER):
            yield together[first : first + TOGETHER]
