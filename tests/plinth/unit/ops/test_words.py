"""How the pages say things."""

from datetime import UTC, datetime, timedelta

import pytest

from plinth.jobs.admin.throughput import Minute
from plinth.ops import words
from plinth.ops.overview import HEIGHT, draw


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (185, "3 min 5 s"),
        (3600, "1 h"),
        (90_061, "1 d 1 h"),
        (7261, "2 h 1 min"),
    ],
)
def test_age_is_said_in_its_largest_two_units(seconds: float, said: str) -> None:
    assert words.age(seconds) == said


def test_short_span_has_milliseconds() -> None:
    assert words.span(timedelta(milliseconds=1234)) == "1.234 s"
    assert words.span(timedelta(seconds=75)) == "1 min 15 s"


def test_jobs_are_counted_in_words() -> None:
    assert [words.jobs(number) for number in (0, 1, 1234)] == ["0 jobs", "1 job", "1,234 jobs"]


def test_json_is_masked_and_cut() -> None:
    said = words.masked_json({"password": "hunter2", "text": "x" * 2 * words.MAX_JSON, "ü": 1})
    assert "hunter2" not in said
    assert len(said) < words.MAX_JSON + 100
    assert said.endswith("characters more")
    assert words.masked_json({"ü": 1}) == '{\n  "ü": 1\n}'


def test_graph_scales_to_its_busiest_minute() -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    graph = draw([Minute(start, 3, 0, 1), Minute(start, 0, 0, 0), Minute(start, 1, 1, 0)])
    assert (graph.most, graph.succeeded, graph.cancelled, graph.discarded) == (4, 4, 1, 1)
    assert [(bar.kind, bar.x, bar.y, bar.height) for bar in graph.bars] == [
        ("bad", 0, 75, 25),
        ("good", 0, 0, 75),
        ("other", 20, 75, 25),
        ("good", 20, 50, 25),
    ]
    assert HEIGHT == 100


def test_graph_of_an_hour_without_jobs_is_empty() -> None:
    assert draw([]) == ([], 0, [], 0, 0, 0)
