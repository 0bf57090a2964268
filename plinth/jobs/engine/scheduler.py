"""Enqueues the jobs of schedules, each slot once in the whole fleet.

There is no leader. Every worker watches the database's clock and takes a slot by moving `last_slot` on, in the
transaction that enqueues the job; a second worker finds it moved. Slots missed while no worker ran are enqueued, up to
the schedule's `catch_up`, the latest ones.
"""

from collections.abc import Mapping
from datetime import datetime

import structlog

from plinth.database.engine import Database
from plinth.jobs.enqueue import enqueue_many
from plinth.jobs.schedules import Schedule, schedules

__all__ = ["LOOK", "Scheduler"]

log = structlog.get_logger("plinth.jobs.schedules")

# How often schedules are checked when none is due: the database's clock decides, and may step.
LOOK_SECONDS = 30.0

DECLARE = """
INSERT INTO job_schedule (name, kind, cron, timezone)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, cron = excluded.cron, timezone = excluded.timezone,
    declared_at = now()
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
        """Store the schedules for operators. A new one begins now; a changed expression keeps the last slot."""
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
                await self._take(schedule, row["last_slot"], slots)
            due_in = (schedule.next_slot(row["now"]) - row["now"]).total_seconds()
            wait = min(wait, max(0.01, due_in))
        return wait

    async def _take(self, schedule: Schedule, last: datetime, slots: list[datetime]) -> None:
        async with self._database.session() as session:
            connection = await session.connection()
            taken = await connection.exec_driver_sql(TAKE, (schedule.name, last, slots[-1]))
            if taken.first() is None:
                return  # another worker took the slot, or the schedule was paused
            await enqueue_many(session, schedule.kind, [schedule.payload] * len(slots))
        log.info("slots taken", schedule=schedule.name, slots=[slot.isoformat() for slot in slots])
