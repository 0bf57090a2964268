"""Clocks that are wrong, and clocks that are put forward and back. Only the database's time counts."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest

from plinth.jobs.schedules import Schedule
from tests.plinth.faults.fleet import Fleet, until
from tests.plinth.faults.kinds import Effect, Nothing, Trouble, effect, fails, slot

HOUR = 3600
# Seconds between the time a job was to run at and the time its first run began.
LATENESS = """
SELECT extract(epoch FROM min(at) - $2::timestamptz)::float8 FROM run_log WHERE job_id = ANY ($1::uuid[])
GROUP BY job_id
"""
# Seconds between a run of a job and the next one.
PAUSES = """
SELECT extract(epoch FROM second.at - first.at)::float8 FROM run_log AS first
JOIN run_log AS second ON second.job_id = first.job_id AND second.run = first.run + 1
WHERE first.job_id = ANY ($1::uuid[])
"""


@pytest.mark.slow
async def test_times_follow_the_database_though_worker_clocks_are_wrong(fleet: Fleet) -> None:
    """One worker is five hours fast and one five hours slow; times, retries and schedules are the database's."""
    await fleet.start(1, "--schedule", "--clock", str(5 * HOUR))
    await fleet.start(1, "--schedule", "--clock", str(-5 * HOUR))
    began = await fleet.now()
    due = began + timedelta(seconds=1)
    at_once = await fleet.enqueue(effect, *[Effect()] * 50)
    at_its_time = await fleet.enqueue(effect, *[Effect()] * 50, run_at=due)
    delayed = await fleet.enqueue(effect, *[Effect()] * 50, delay=1)
    failing = await fleet.enqueue(fails, *[Trouble()] * 50)

    async def some_slots() -> bool:
        return bool(await fleet.value("SELECT count(*) >= 3 FROM slot_log"))

    await until(some_slots, "three slots are taken", 20)
    await fleet.execute("UPDATE job_schedule SET paused_at = now()")
    ended = await fleet.now()
    await fleet.all_done()
    slots = [row["id"] for row in await fleet.fetch("SELECT id FROM job_history WHERE kind = 'faults.slot'")]
    await fleet.audit("clocks five hours fast and slow", at_once + at_its_time + delayed + failing + slots)

    async def seconds_late(ids: list[UUID], since: datetime) -> list[float]:
        return [row[0] for row in await fleet.fetch(LATENESS, ids, since)]

    assert all(0 <= late < 5 for late in await seconds_late(at_once, began))
    assert all(0 <= late < 5 for late in await seconds_late(at_its_time, due))
    assert all(1 <= late < 6 for late in await seconds_late(delayed, began))
    pauses = [row[0] for row in await fleet.fetch(PAUSES, failing)]
    assert len(pauses) == len(failing)
    assert max(pauses) < 5
    # Full jitter spreads fifty of them over the whole second.
    assert max(pauses) - min(pauses) > 0.5
    taken = [row["to_slot"] for row in await fleet.fetch("SELECT to_slot FROM slot_log ORDER BY to_slot")]
    assert [after - before for before, after in pairwise(taken)] == [timedelta(seconds=1)] * (len(taken) - 1)
    assert began - timedelta(seconds=5) < taken[0] <= taken[-1] <= ended
    assert len(slots) == len(taken)


def zurich(cron: str) -> Schedule:
    return Schedule("test", slot, Nothing(), cron, "Europe/Zurich", catch_up=1000)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# From noon before a change of the clock until midnight after it: 01:00 UTC on both days.
CHANGES = {
    "forward": (utc("2027-03-27T12:00"), utc("2027-03-29T00:00")),
    "back": (utc("2027-10-30T12:00"), utc("2027-11-01T00:00")),
}
CRONS = [
    "30 2 * * *",
    "0 2 * * *",
    "59 2 * * *",
    "0 3 * * *",
    "0,30 2 * * *",
    "15 1,2,3 * * *",
    "30 1-3 * * *",
    "*/15 * * * *",
    "0 * * * *",
    "*/20 2 * * *",
    "10 */2 * * *",
    "30 2 * * 7",
    "30 2 31 10 *",
    "0 0 2 * * *",
    "0 30 2 * * *",
    "*/30 59 * * * *",
]


@pytest.mark.parametrize("cron", CRONS)
@pytest.mark.parametrize("change", CHANGES)
class TestClockChanges:
    """The next slot, to wait for, and the slots that are due are found in two ways: they are the same slots."""

    def forwards(self, schedule: Schedule, after: datetime, until: datetime) -> list[datetime]:
        found = []
        while (after := schedule.next_slot(after)) <= until:
            found.append(after)
            assert len(found) < 1000
        return found

    def test_next_slots_equal_due_slots_across_a_clock_change(self, change: str, cron: str) -> None:
        begin, end = CHANGES[change]
        slots = zurich(cron).due_slots(begin, end)
        assert self.forwards(zurich(cron), begin, end) == slots
        assert all(earlier < later for earlier, later in pairwise(slots))

    def test_frequent_checks_find_the_same_slots_as_one_check(self, change: str, cron: str) -> None:
        begin, end = CHANGES[change]
        found: list[datetime] = []
        last = now = begin
        while now < end:
            now = min(now + timedelta(minutes=7, seconds=13), end)
            if due := zurich(cron).due_slots(last, now):
                found += due
                last = due[-1]
        assert found == zurich(cron).due_slots(begin, end)

    def test_next_slot_is_never_in_the_past_across_a_clock_change(self, change: str, cron: str) -> None:
        now, end = CHANGES[change]
        while now < end:
            assert zurich(cron).next_slot(now) > now
            now += timedelta(minutes=7, seconds=13)


@pytest.mark.parametrize(
    ("cron", "change", "expected"),
    [
        ("30 2 * * *", "forward", ["2027-03-28T01:00"]),  # there is no half past two: right after it, at three
        ("30 3 * * *", "forward", ["2027-03-28T01:30"]),
        ("30 1 * * 7", "forward", ["2027-03-28T00:30"]),
        ("30 2 * * *", "back", ["2027-10-31T00:30"]),  # half past two comes twice, and counts once
        ("30 3 * * *", "back", ["2027-10-31T02:30"]),
        ("0 * * * *", "back", [f"2027-10-31T{hour:02}:00" for hour in range(24)]),  # each hour that passes
        ("0 * * * *", "forward", [f"2027-03-28T{hour:02}:00" for hour in range(24)]),
    ],
)
def test_slots_on_the_day_of_a_clock_change(cron: str, change: str, expected: list[str]) -> None:
    begin, end = CHANGES[change]
    day = begin.date() + timedelta(days=1)
    assert [at for at in zurich(cron).due_slots(begin, end) if at.date() == day] == [utc(text) for text in expected]
