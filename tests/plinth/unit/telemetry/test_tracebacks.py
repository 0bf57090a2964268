"""Tracebacks of exceptions that Python cannot show."""

from typing import Any, cast

from plinth.jobs.outcome import error_entry
from plinth.telemetry.tracebacks import traceback_of


def raised(error: SyntaxError | ValueError) -> Exception:
    try:
        raise error
    except (SyntaxError, ValueError) as caught:
        return caught


def without_a_place() -> Exception:
    return raised(SyntaxError("odd", ("file", 1, cast(Any, "no offset"), "text")))


def test_traceback_is_pythons() -> None:
    text = traceback_of(raised(ValueError("a value")))
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("ValueError: a value\n")


def test_traceback_of_an_exception_that_cannot_be_shown_has_its_frames_and_its_type() -> None:
    text = traceback_of(without_a_place())
    assert "in raised" in text
    assert text.endswith("SyntaxError\n")


def test_a_run_of_a_job_may_fail_with_such_an_exception() -> None:
    entry = error_entry("error", run=1, attempt=1, exception=without_a_place())
    assert entry["error"] == "SyntaxError"
    assert "in raised" in entry["traceback"]
