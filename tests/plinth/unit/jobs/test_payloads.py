"""Payloads that only SQL can enqueue are read as far as Python holds them."""

import json

import pytest

from plinth.jobs.admin.payloads import MAX_LEVELS, read_payload


@pytest.mark.parametrize("value", [{"n": 1, "s": 'a "[" \\ {', "x": [1.5, None, True, -2]}, [], "x", 7, None])
def test_payload_is_read_as_it_is(value: object) -> None:
    assert read_payload(json.dumps(value)) == value


@pytest.mark.parametrize("levels", [MAX_LEVELS + 1, 255, 5000, 100_000])
def test_what_is_nested_too_deeply_is_left_out(levels: int) -> None:
    inner = f"{'[' * levels}1{']' * levels}"
    found = read_payload(f'{{"before": "]}}\\"{{", "deep": {inner}, "after": [1]}}')
    assert (found["before"], found["after"]) == (']}"{', [1])
    depth, here = 1, found["deep"]
    while here != "…":
        depth, (here,) = depth + 1, here
    assert depth == MAX_LEVELS


def test_what_stands_beside_a_value_that_is_left_out_is_kept() -> None:
    levels = MAX_LEVELS - 1
    found = read_payload(f"{'[' * levels}" + '{"a": 1, "b": {"c": [[]]}, "d": "{"}' + f"{']' * levels}")
    for _ in range(levels):
        (found,) = found
    assert found == {"a": 1, "b": "…", "d": "{"}


def test_number_that_python_does_not_read_is_left_out() -> None:
    assert read_payload(f'{{"long": -1{"0" * 5000}, "n": 7, "text": "{"1" * 5000}"}}') == {
        "long": "…",
        "n": 7,
        "text": "1" * 5000,
    }
