"""Enqueues the jobs of schedules, each slot once in the whole fleet.

There is no leader. Every worker watches the database's clock and takes a slot by moving `last_slot` on, in the
transaction that enqueues the job; a second worker finds it moved. Slots missed while no worker ran are enqueued, up to
the schedule's `catch_up`, the latest ones.
"""

from collections.abc import Mapping
from datetime import datetime

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
TAKE = """
UPDATE job_schedule SET last_slot = $3 WHERE name = $1 AND last_slot = $2 AND paused_at IS NULL RETURNING name
"""


class Scheduler:
    """Enqueues the jobs of this process's schedules."""

    def __init__(self, database: Database, declared: Mapping[str, Schedule] | None = None) -> None:
        self._database = database
        self._schedules = dict(schedules() if declared is None else declared)
        self._declared = False

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
        async with self._database.connection() as connection:
            rows = await connection.fetch(LOOK, list(self._schedules))
        wait = LOOK_SECONDS
        for row in rows:
            if row["paused_at"] is not None:
                continue
            schedule = self._schedules[row["name"]]
            if slots := schedule.due_slots(row["last_slot"], row["now"]):
                try:
                    await self._take(schedule, row["last_slot"], slots)
                except DatabaseUnavailableError as error:
                    if sqlstate(error) != LOCK_NOT_AVAILABLE:
                        raise
                    log.warning("a slot is put off", schedule=schedule.name, reason=database_reason(error))
                    wait = min(wait, FAILED_SECONDS)
                except Exception:  # the schedules behind it go on
                    log.exception("a slot cannot be taken", schedule=schedule.name)
                    wait = min(wait, FAILED_SECONDS)
            due_in = (schedule.next_slot(row["now"]) - row["now"]).total_seconds()
            wait = min(wait, max(0.01, due_in))
        return wait

    async def _take(self, schedule: Schedule, last: datetime, slots: list[datetime]) -> None:
        async with self._database.session() as session:
            connection = await session.connection()
            await connection.exec_driver_sql(LOCK_TIMEOUT)
            taken = await connection.exec_driver_sql(TAKE, (schedule.name, last, slots[-1]))
            if taken.first() is None:
                return  # another worker took the slot, or the schedule was paused
            prefix = f"schedule {schedule.name}"  # a name has no space, so no other begins like this
            if schedule.overlap == "cancel":
                slots = slots[-1:]
                await self._cancel_earlier(session, schedule.kind.name, f"{prefix} ")
            keys = [prefix if schedule.overlap == "skip" else f"{prefix} {slot.isoformat()}" for slot in slots]
            jobs = await enqueue_many(session, schedule.kind, [schedule.payload] * len(slots), unique_keys=keys)
            made = [(job.id, slot) for job, slot in zip(jobs, slots, strict=True) if job.created]
            ids, times = [job_id for job_id, _ in made], [slot for _, slot in made]
            await connection.exec_driver_sql(MARK, (ids, times))
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
