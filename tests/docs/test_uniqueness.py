"""docs/jobs/uniqueness.md: its example does what it says, and its table names the modes that there are."""

import re
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest

from app.core.config import Settings
from plinth.database.engine import Database
from plinth.jobs import State
from plinth.jobs.unique import Unique
from plinth.testing import Jobs
from tests.support.pages import ROOT, blocks

PAGE = "docs/jobs/uniqueness.md"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the page's module."""
    monkeypatch.setattr("plinth.jobs.kinds._kinds", {})
    (code,) = blocks(PAGE, "## Write it", "python")
    names: dict[str, Any] = {"__name__": "reports"}
    exec(code, names)
    return names


@pytest.fixture
def queue(database: Database, page: dict[str, Any]) -> Jobs:
    return Jobs(database, Settings.isolated(), registered={"reports.draw": page["draw"]})


async def test_example_makes_the_runs_that_the_page_promises(
    page: dict[str, Any], queue: Jobs, database: Database
) -> None:
    account = uuid4()
    async with database.session() as session:
        for _ in range(3):
            await page["account_changed"](session, account)
        assert [await page["account_opened"](session, account) for _ in range(3)] == [True, False, False]
        (closed,) = {await page["account_closed"](session, account) for _ in range(3)}
    assert isinstance(closed, UUID)
    assert len(await queue.waiting()) == 3
    ended = await queue.run_due()
    assert [job.state for job in ended] == [State.SUCCEEDED] * 2  # the changes have five seconds
    async with database.session() as session:
        assert not await page["account_opened"](session, account)
        assert await page["account_closed"](session, account) != closed


def test_page_names_the_modes_that_there_are() -> None:
    text = (ROOT / PAGE).read_text()
    assert {*re.findall(r'unique="(\w+)"', text)} == {*get_args(Unique)}
