"""The slots of schedules.

`tests/plinth/integration/jobs/test_schedules.py` tests that each is taken once.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from plinth.jobs import JobContext, Schedule, job, schedule
from plinth.jobs import kinds as kinds_module
from plinth.jobs import schedules as schedules_module
from plinth.jobs.kinds import JobKind

ZONES = ["UTC", "Europe/Zurich", "America/New_York", "Australia/Lord_Howe"]


class Payload(BaseModel):
    n: int = 0


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> JobKind[Payload]:
    monkeypatch.setattr(kinds_module, "_kinds", {})
    monkeypatch.setattr(schedules_module, "_schedules", {})

    @job("test.tick")
    async def tick(ctx: JobContext, payload: Payload) -> None: ...

    return tick


def forward(made: Schedule, start: datetime, end: datetime) -> list[datetime]:
    """The slots after `start` up to `end`, found one after the other."""
    slots = []
    slot = made.next_slot(start)
    while slot <= end:
        slots.append(slot)
        slot = made.next_slot(slot)
    return slots


class TestSlots:
    @pytest.mark.parametrize("zone", ZONES)
    @pytest.mark.parametrize("cron", ["*/10 * * * *", "30 2 * * *", "0 3 * * *", "15,45 1-3 * * *", "5 */6 * * SUN"])
    @pytest.mark.parametrize("start", [datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 10, 20, tzinfo=UTC)])
    def test_due_slots_are_complete_and_unique_across_clock_changes(
        self, kind: JobKind[Payload], zone: str, cron: str, start: datetime
    ) -> None:
        """`due_slots`, called every 47 minutes, finds what a forward search finds."""
        made = schedule(kind, Payload(), cron=cron, timezone=zone, catch_up=1000)
        end = start + timedelta(days=32)
        taken: list[datetime] = []
        last = start
        now = start
        while now < end:
            now += timedelta(minutes=47, seconds=13)
            due = made.due_slots(last, now)
            taken += due
            last = due[-1] if due else last
        assert taken == forward(made, start, now)
        assert len(taken) == len(set(taken))

    def test_slot_at_a_time_that_a_clock_change_skips_is_due_once(self, kind: JobKind[Payload]) -> None:
        made = schedule(kind, Payload(), cron="30 2 * * *", timezone="Europe/Zurich")
        slots = forward(made, datetime(2026, 3, 27, 12, tzinfo=UTC), datetime(2026, 3, 30, 12, tzinfo=UTC))
        assert [slot.strftime("%d %H:%M") for slot in slots] == ["28 01:30", "29 01:00", "30 00:30"]

    def test_slot_at_a_time_that_a_clock_change_repeats_is_due_once(self, kind: JobKind[Payload]) -> None:
        made = schedule(kind, Payload(), cron="30 2 * * *", timezone="Europe/Zurich")
        slots = forward(made, datetime(2026, 10, 23, 12, tzinfo=UTC), datetime(2026, 10, 26, 12, tzinfo=UTC))
        assert [slot.strftime("%d %H:%M") for slot in slots] == ["24 00:30", "25 00:30", "26 01:30"]

    def test_latest_missed_slots_are_caught_up(self, kind: JobKind[Payload]) -> None:
        made = schedule(kind, Payload(), cron="* * * * *", catch_up=3)
        now = datetime(2026, 6, 1, 12, 0, 30, 500, tzinfo=UTC)
        due = made.due_slots(datetime(2020, 1, 1, tzinfo=UTC), now)
        assert [slot.strftime("%H:%M:%S") for slot in due] == ["11:58:00", "11:59:00", "12:00:00"]

    def test_slot_is_due_from_its_exact_time(self, kind: JobKind[Payload]) -> None:
        made = schedule(kind, Payload(), cron="* * * * *")
        slot = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
        before = slot - timedelta(minutes=1)
        assert made.due_slots(before, slot - timedelta(microseconds=1)) == []
        assert made.due_slots(before, slot) == [slot]
        assert made.due_slots(slot, slot + timedelta(seconds=59)) == []

    def test_without_catching_up_a_slot_is_due_for_a_minute(self, kind: JobKind[Payload]) -> None:
        made = schedule(kind, Payload(), cron="0 * * * *", catch_up=0)
        slot = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
        last = slot - timedelta(hours=7)
        assert made.due_slots(last, slot + timedelta(seconds=59)) == [slot]
        assert made.due_slots(last, slot + timedelta(seconds=61)) == []
        assert made.due_slots(slot, slot + timedelta(seconds=1)) == []


class TestDeclaration:
    def test_payload_that_does_not_survive_json_is_refused(self, kind: JobKind[Payload]) -> None:
        class Secret(Payload):
            password: SecretStr = SecretStr("x")

        with pytest.raises(ValueError, match="does not come back from JSON"):
            schedule(kind, Secret(), cron="* * * * *")

    def test_schedule_has_the_name_of_its_kind_unless_it_has_its_own(self, kind: JobKind[Payload]) -> None:
        assert schedule(kind, Payload(), cron="* * * * *").name == "test.tick"
        assert schedule(kind, Payload(), cron="* * * * *", name="another").name == "another"
        with pytest.raises(ValueError, match="name of two schedules"):
            schedule(kind, Payload(), cron="* * * * *")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"cron": "* * * *"}, "not a cron expression"),
            ({"cron": "61 * * * *"}, "not a cron expression"),
            ({"cron": "0 0 30 2 *"}, "not a cron expression"),
            ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "no time zone"),
            ({"cron": "* * * * *", "timezone": "../etc"}, "no time zone"),
            ({"cron": "* * * * *", "catch_up": -1}, "catch_up is 0 to 1000"),
            ({"cron": "* * * * *", "overlap": "replace"}, "overlap is one of queue, skip, cancel"),
            ({"cron": "* * * * *", "name": "a b"}, "is not a name"),
            # The database keeps no longer one: declared with the others, it stopped them all.
            ({"cron": ",".join(map(str, range(60))) + " * * * *"}, "has 100 characters at most"),
        ],
    )
    def test_invalid_schedule_is_refused(self, kind: JobKind[Payload], options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            schedule(kind, Payload(), **options)

    def test_schedule_with_a_payload_of_another_model_is_refused(self, kind: JobKind[Payload]) -> None:
        class Other(BaseModel):
            pass

        with pytest.raises(TypeError, match="takes a Payload, not a Other"):
            schedule(kind, Other(), cron="* * * * *")
