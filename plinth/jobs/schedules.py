"""Schedules (periodic jobs): a cron expression enqueues a job at each slot, once in the whole fleet.

There is no leader. Every worker watches the database's clock and takes a slot by moving `last_slot` on, in the
transaction that enqueues the job; a second worker finds it moved. Slots missed while no worker ran are enqueued, up to
the schedule's `catch_up`, the latest ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from cronsim import CronSim, CronSimError
from pydantic import BaseModel

from plinth.database.engine import Database
from plinth.jobs.enqueue import enqueue_many
from plinth.jobs.kinds import JobKind, check_name

__all__ = ["Schedule", "Scheduler", "schedule", "schedules"]

log = structlog.get_logger("plinth.jobs.schedules")

MAX_CATCH_UP = 1000
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


@dataclass(frozen=True, slots=True)
class Schedule:
    """A declared schedule. See `schedule` for the fields."""

    name: str
    kind: JobKind[Any]
    payload: BaseModel
    cron: str
    timezone: str
    catch_up: int

    def next_slot(self, after: datetime) -> datetime:
        """Return the first slot after a time."""
        slots = (slot.astimezone(UTC) for slot in CronSim(self.cron, after.astimezone(ZoneInfo(self.timezone))))
        # In an hour that a clock change repeats, a slot of the first pass is found again.
        return next(slot for slot in slots if slot > after)

    def due_slots(self, last: datetime, now: datetime) -> list[datetime]:
        """Return the slots after `last` up to `now`, oldest first, at most the latest `catch_up`."""
        found: list[datetime] = []
        # Backwards, so that a year without workers costs nothing. The current second counts as reached.
        for slot in CronSim(self.cron, _next_second(now).astimezone(ZoneInfo(self.timezone)), reverse=True):
            at = slot.astimezone(UTC)
            if at <= last or len(found) == self.catch_up:
                break
            if at <= now:
                found.append(at)
        return found[::-1]


_schedules: dict[str, Schedule] = {}


def schedule(
    kind: JobKind[Any],
    payload: BaseModel,
    *,
    cron: str,
    name: str | None = None,
    timezone: str = "UTC",
    catch_up: int = 1,
) -> Schedule:
    """Enqueue a job at each slot of a cron expression (five fields, or six with seconds first).

    Clock changes are handled as in Debian's cron: a job at a fixed time that a change skips runs right after it, and a
    job at a time that comes twice runs once.

    Args:
        kind: what to enqueue, with `payload`.
        cron: the expression.
        name: the kind's, unless several schedules share a kind.
        timezone: an IANA name; the expression means that zone's wall clock.
        catch_up: how many of the latest slots missed while no worker ran are enqueued.

    Raises:
        ValueError: the expression, the zone or the name is invalid, or the name is taken.
        TypeError: the payload is not of the kind's model.
    """
    name = name or kind.name
    check_name(name)
    if not isinstance(payload, kind.payload):
        raise TypeError(f"{kind.name} takes a {kind.payload.__name__}, not a {type(payload).__name__}")
    if name in _schedules:
        raise ValueError(f"{name!r} is the name of two schedules")
    if not 1 <= catch_up <= MAX_CATCH_UP:
        raise ValueError(f"{name}: catch_up is 1 to {MAX_CATCH_UP}")
    try:
        next(CronSim(cron, datetime.now(ZoneInfo(timezone))))
    except (CronSimError, StopIteration) as error:
        raise ValueError(f"{name}: {cron!r} is not a cron expression with a slot ({error})") from None
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{name}: there is no time zone {timezone!r}") from error
    made = Schedule(name, kind, payload, cron, timezone, catch_up)
    _schedules[name] = made
    return made


def schedules() -> Mapping[str, Schedule]:
    """Return every schedule that this process declares, by name."""
    return MappingProxyType(_schedules)


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


def _next_second(time: datetime) -> datetime:
    return time.replace(microsecond=0) + timedelta(seconds=1)
