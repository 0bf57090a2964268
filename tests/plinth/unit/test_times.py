"""Times and ages as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from plinth.times import read_duration, read_moment


def test_duration_is_a_number_and_a_unit() -> None:
    assert read_duration("1.5h") == timedelta(minutes=90)
    assert read_duration("3d") == timedelta(days=3)
    assert [read_duration(text) for text in ("3", "d", "3 d", "-1h", "1w")] == [None] * 5


def test_moment_is_a_time_or_an_age() -> None:
    assert read_moment("2030-01-31T08:00") == datetime(2030, 1, 31, 8, tzinfo=UTC)
    assert read_moment("2030-01-31T08:00+02:00") == datetime(2030, 1, 31, 6, tzinfo=UTC)
    before, read, after = datetime.now(UTC), read_moment("2h"), datetime.now(UTC)
    assert before <= read + timedelta(hours=2) <= after


@pytest.mark.parametrize("text", ["", "yesterday", "2030-13-01", "999999999d", "0001-01-01T00:00+14:00"])
def test_what_is_neither_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time such as 2030-01-31T08:00"):
        read_moment(text)


def test_age_is_that_at_a_given_time() -> None:
    now = datetime(2030, 1, 31, 8, tzinfo=UTC)
    assert read_moment("2h", now=now) == datetime(2030, 1, 31, 6, tzinfo=UTC)
    assert read_moment("2030-01-01", now=now) == datetime(2030, 1, 1, tzinfo=UTC)
