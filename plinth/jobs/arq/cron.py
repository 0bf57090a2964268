"""arq's `cron`, and the cron expression of what it says."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from plinth.jobs.arq.worker import Duration, imported, seconds
from plinth.jobs.schedules import MAX_EXPRESSION

__all__ = ["CronJob", "cron", "expression", "falls_on", "zone_name"]

Numbers = Collection[int] | int | None

WEEKDAYS = ("mon", "tues", "wed", "thurs", "fri", "sat", "sun")
# Of the fields, in the order of a cron expression.
RANGES = {
    "second": range(60),
    "minute": range(60),
    "hour": range(24),
    "day": range(1, 32),
    "month": range(1, 13),
    "weekday": range(7),
}


@dataclass
class CronJob:
    """A function that runs at certain times. `cron` explains the fields."""

    name: str
    coroutine: Callable[..., Any]
    month: Numbers
    day: Numbers
    weekday: Numbers | str
    hour: Numbers
    minute: Numbers
    second: Numbers
    microsecond: int
    run_at_startup: bool
    unique: bool
    job_id: str | None
    timeout_s: float | None
    keep_result_s: float | None
    keep_result_forever: bool | None
    max_tries: int | None


def cron(
    coroutine: Any,
    *,
    name: str | None = None,
    month: Numbers = None,
    day: Numbers = None,
    weekday: Numbers | str = None,
    hour: Numbers = None,
    minute: Numbers = None,
    second: Numbers = 0,
    microsecond: int = 123_456,
    run_at_startup: bool = False,
    unique: bool = True,
    job_id: str | None = None,
    timeout: Duration | None = None,
    keep_result: Duration | None = 0,
    keep_result_forever: bool | None = False,
    max_tries: int | None = 1,
) -> CronJob:
    """Have a function run at the times that fit each field: a number, a set of numbers, or None for any.

    Args:
        coroutine: a coroutine function, or the dotted path of one.
        name: `cron:` and the function's own if there is none.
        weekday: 0 for Monday to 6, or `mon`, `tues`, `wed`, `thurs`, `fri`, `sat`, `sun`.
        microsecond: not looked at; workers look for due jobs every second.
        run_at_startup: run it as well when a worker starts.
        unique: True. Each time is taken once in the whole fleet; `register` refuses False.
        job_id: a time at which an earlier job of it still waits or runs is passed over.
        timeout, keep_result, keep_result_forever, max_tries: as for `func`.

    Raises:
        RuntimeError: it is no coroutine function.
        ImportError: there is no such path.
    """
    found = imported(coroutine)
    name = name or f"cron:{coroutine if isinstance(coroutine, str) else found.__qualname__}"
    times = (month, day, weekday, hour, minute, second, microsecond)
    limits = (seconds(timeout), seconds(keep_result), keep_result_forever, max_tries)
    return CronJob(name, found, *times, run_at_startup, unique, job_id, *limits)


def expression(job: CronJob) -> str:
    """Return the cron expression, of six fields. It leaves out the weekday where there is a day: see `falls_on`.

    Raises:
        ValueError: a field has a number that is none of it, or the expression is too long.
    """
    fields = {name: _numbers(job, name) for name in RANGES}
    if fields["day"] and fields["weekday"]:
        fields["weekday"] = None  # cron would take either, and arq takes both
    if fields["weekday"]:
        fields["weekday"] = sorted((number + 1) % 7 for number in fields["weekday"])  # cron begins with Sunday
    text = " ".join("*" if numbers is None else _field(numbers) for numbers in fields.values())
    if len(text) > MAX_EXPRESSION:
        raise ValueError(f"{job.name}: its times are too many for a cron expression: {text}")
    return text


def falls_on(job: CronJob, slot: datetime, zone: str) -> bool:
    """Whether the time of a slot is on a weekday of the job."""
    weekdays = _numbers(job, "weekday")
    return weekdays is None or slot.astimezone(ZoneInfo(zone)).weekday() in weekdays


def zone_name(zone: tzinfo | None) -> str:
    """Return the name of a time zone; UTC for None.

    Raises:
        ValueError: it has none.
    """
    if zone is None:
        return "UTC"
    if name := getattr(zone, "key", None) or getattr(zone, "zone", None):  # ZoneInfo's, pytz's
        return str(name)
    offset = zone.utcoffset(None)
    if offset == timedelta():
        return "UTC"
    if offset is None or offset % timedelta(hours=1):
        raise ValueError(f"{zone!r} is no time zone with a name: write timezone = ZoneInfo(…)")
    return f"Etc/GMT{-int(offset / timedelta(hours=1)):+d}"  # whose signs are the other way round


def _numbers(job: CronJob, name: str) -> list[int] | None:
    """The numbers of a field, in order; None for any."""
    given = getattr(job, name)
    if isinstance(given, str) and name == "weekday" and given.lower() in WEEKDAYS:
        given = WEEKDAYS.index(given.lower())
    if given is None:
        return None
    numbers = [given] if isinstance(given, int) else given
    if isinstance(numbers, str) or not numbers or not all(number in RANGES[name] for number in numbers):
        raise ValueError(f"{job.name}: {given!r} is no {name} of a cron job")
    return None if set(numbers) == set(RANGES[name]) else sorted(set(numbers))


def _field(numbers: list[int]) -> str:
    """Numbers as a field of a cron expression, in short."""
    first, last = numbers[0], numbers[-1]
    step = numbers[1] - first if len(numbers) > 2 else 0
    if step and numbers == list(range(first, last + 1, step)):
        return f"{first}-{last}" + (f"/{step}" if step > 1 else "")
    return ",".join(map(str, numbers))
