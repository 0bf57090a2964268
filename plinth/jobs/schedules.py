"""Schedules (periodic jobs): a cron expression says when a job is enqueued. `engine.scheduler` does it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import BaseModel

from plinth.jobs.enqueue import prepare
from plinth.jobs.kinds import JobKind, check_name

__all__ = ["MAX_EXPRESSION", "Schedule", "schedule", "schedules"]

MAX_CATCH_UP = 1000
MAX_EXPRESSION = 100  # characters that the database keeps
# A slot that is later than this was missed: workers look every half minute at least.
ON_TIME_SECONDS = 60.0

Overlap = Literal["queue", "skip", "cancel"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A declared schedule. See `schedule` for the fields."""

    name: str
    kind: JobKind[Any]
    payload: BaseModel
    cron: str
    timezone: str
    catch_up: int
    overlap: Overlap = "queue"

    def next_slot(self, after: datetime) -> datetime:
        """Return the first slot after a time."""
        slots = (slot.astimezone(UTC) for slot in CronSim(self.cron, after.astimezone(ZoneInfo(self.timezone))))
        # In an hour that a clock change repeats, a slot of the first pass is found again.
        return next(slot for slot in slots if slot > after)

    def due_slots(self, last: datetime, now: datetime) -> list[datetime]:
        """Return the slots after `last` up to `now`, oldest first, at most the latest `catch_up`.

        With a `catch_up` of 0: the latest one, if it is on time.
        """
        found: list[datetime] = []
        if self.catch_up == 0:
            last = max(last, now - timedelta(seconds=ON_TIME_SECONDS))
        # Backwards, so that a year without workers costs nothing. The current second counts as reached.
        for slot in CronSim(self.cron, _next_second(now).astimezone(ZoneInfo(self.timezone)), reverse=True):
            at = slot.astimezone(UTC)
            if at <= last or len(found) == max(1, self.catch_up):
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
    overlap: Overlap = "queue",
) -> Schedule:
    """Enqueue a job at each slot of a cron expression (five fields, or six with seconds first).

    Clock changes are handled as in Debian's cron: a job at a fixed time that a change skips runs right after it, and a
    job at a time that comes twice runs once.

    Args:
        kind: what to enqueue, with `payload`.
        cron: the expression, of 100 characters at most.
        name: the kind's, unless several schedules share a kind.
        timezone: an IANA name; the expression means that zone's wall clock.
        catch_up: how many of the latest slots missed while no worker ran are enqueued. 0: none that is a minute late.
        overlap: what a slot does while the job of an earlier one waits or runs. `queue` enqueues another, `skip` none,
            `cancel` asks the earlier one to end and enqueues another.

    Raises:
        ValueError: the expression, the zone or the name is invalid, or the name is taken; or the payload does not
            survive JSON.
        TypeError: the payload is not of the kind's model.
    """
    name = name or kind.name
    check_name(name)
    prepare(kind, [payload])
    if name in _schedules:
        raise ValueError(f"{name!r} is the name of two schedules")
    if not 0 <= catch_up <= MAX_CATCH_UP:
        raise ValueError(f"{name}: catch_up is 0 to {MAX_CATCH_UP}")
    if overlap not in get_args(Overlap):
        raise ValueError(f"{name}: overlap is one of {', '.join(get_args(Overlap))}")
    if len(cron) > MAX_EXPRESSION:
        raise ValueError(
            f"{name}: a cron expression has {MAX_EXPRESSION} characters at most: write ranges, steps or names"
        )
    try:
        next(CronSim(cron, datetime.now(ZoneInfo(timezone))))
    except (CronSimError, StopIteration) as error:
        raise ValueError(f"{name}: {cron!r} is not a cron expression with a slot ({error})") from None
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{name}: there is no time zone {timezone!r}") from error
    made = Schedule(name, kind, payload, cron, timezone, catch_up, overlap)
    _schedules[name] = made
    return made


def schedules() -> Mapping[str, Schedule]:
    """Return every schedule that this process declares, by name."""
    return MappingProxyType(_schedules)


def _next_second(time: datetime) -> datetime:
    return time.replace(microsecond=0) + timedelta(seconds=1)
