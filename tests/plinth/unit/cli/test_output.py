"""The progress that commands show to a person who waits."""

import sys

import pytest

from plinth.cli.output import progress
from tests.support.logs import Stderr


@pytest.mark.parametrize("hidden", [False, True], ids=["shown", "hidden"])
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_progress_is_shown_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, terminal: bool, hidden: bool) -> None:
    stderr = Stderr(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress("Jobs", hidden=hidden) as told:
        told(50, 100)
        told(100, 100)
    if terminal and not hidden:
        assert "Jobs" in stderr.getvalue()
        assert "100%" in stderr.getvalue()
    else:
        assert stderr.getvalue() == ""


def test_progress_of_nothing_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stderr(terminal=True)
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress("Jobs"):
        pass
    assert stderr.getvalue() == ""
