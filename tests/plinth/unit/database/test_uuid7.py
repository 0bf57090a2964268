"""Ids sort by the time they were made."""

import time
from datetime import UTC, datetime, timedelta

from plinth.database.uuid7 import first_uuid7, python_uuid7


class TestPythonUuid7:
    def test_python_uuid7_makes_version_7_uuids(self) -> None:
        made = python_uuid7()
        assert (made.version, made.variant) == (7, "specified in RFC 4122")

    def test_python_uuid7_contains_the_time_in_milliseconds(self) -> None:
        before = time.time_ns() // 1_000_000
        made = python_uuid7()
        after = time.time_ns() // 1_000_000
        assert before <= made.int >> 80 <= after

    def test_later_uuids_sort_later_and_none_repeats(self) -> None:
        made = []
        for _ in range(200):
            made.append(python_uuid7())
            time.sleep(0.000_002)
        assert len(set(made)) == len(made)
        assert [i.int >> 64 for i in made] == sorted(i.int >> 64 for i in made)

    def test_first_id_of_a_time_is_before_those_made_then(self) -> None:
        before, made, after = datetime.now(UTC), python_uuid7(), datetime.now(UTC) + timedelta(milliseconds=1)
        assert first_uuid7(before) <= made < first_uuid7(after)
        assert first_uuid7(datetime(1900, 1, 1, tzinfo=UTC)).int == 0
