"""How the pages say things."""

import json
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
    said = words.masked_json({"password": "hunter2", "text": "x " * words.MAX_JSON, "ü": 1})
    assert "hunter2" not in said
    assert len(said) < words.MAX_JSON + 100
    assert said.endswith("… and more")
    assert words.masked_json({"ü": 1}) == '{\n  "ü": 1\n}'


@pytest.mark.parametrize(
    "value",
    [
        ["token: " + "a" * 20] * 100_000,
        {f"key{number}": [] for number in range(200_000)},
        "password = x, " * 200_000,
        [[[0] * 1000] * 1000],
    ],
)
def test_only_the_beginning_of_a_large_value_is_masked(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0

    def redact(event: dict[str, object]) -> None:
        nonlocal seen
        seen = len(json.dumps(event))

    monkeypatch.setattr(words, "redact", redact)
    assert words.masked_json(value).endswith("… and more")
    assert seen < 4 * words.MAX_JSON


def test_text_is_not_cut_within_a_secret() -> None:
    said = words.masked_json("x " * (words.MAX_JSON // 2 - 100) + "postgresql://olga:hunter2" + "x" * 9000 + "@db")
    assert "hunter2" not in said


def test_what_is_nested_deeply_is_left_out() -> None:
    value: object = "the bottom"
    for _ in range(5000):
        value = [value]
    assert "…" in words.masked_json(value)


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
