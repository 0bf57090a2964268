"""docs/websockets.md, typed word for word."""

import re

from plinth.api.websockets import FIRST_MESSAGE_SECONDS
from plinth.http.websockets import LIFETIME_SECONDS, MAX_OPEN, MAX_OPEN_EACH
from tests.support.pages import ROOT, copy_of_the_project

PAGE = ROOT / "docs/websockets.md"


def test_the_page_works_as_it_stands() -> None:
    with copy_of_the_project() as copy:
        files = copy.type(PAGE)
        copy.run("ruff", "check", "--no-cache", *files)
        copy.run("ruff", "format", "--no-cache", "--check", *files)
        copy.run("importlinter.cli", "lint", "--no-cache")
        copy.run(
            "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", "tests/integration/api/test_live.py"
        )


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    text = re.sub(r"\s+", " ", PAGE.read_text())
    assert f"It has {FIRST_MESSAGE_SECONDS:.0f} seconds to come" in text
    assert f"After {LIFETIME_SECONDS / 60:.0f} minutes each WebSocket ends" in text
    assert f"| WebSockets of one caller in a process | {MAX_OPEN_EACH} |" in text
    assert f"| WebSockets in a process | {MAX_OPEN}, " in text
