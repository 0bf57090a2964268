"""The pages of `docs/jobs/`, typed word for word."""

import itertools
import re
import subprocess
import sys
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from app.core.config import Settings
from plinth.cli import main
from plinth.database.engine import Database
from plinth.jobs import State
from plinth.jobs.context import MAX_WAIT
from plinth.jobs.events import MAX_PAYLOAD
from plinth.jobs.results import MAX_RESULT
from plinth.jobs.steps import MAX_NAME, MAX_STEPS
from plinth.testing import Jobs
from tests.support.pages import ROOT, blocks


class TestJobs:
    """docs/jobs/start.md, handlers.md, schedules.md, operators.md"""

    def test_job_and_schedule_of_the_jobs_page_can_be_registered(self) -> None:
        job, _ = blocks("docs/jobs/start.md", "## Write a job", "python")
        (plain,) = blocks("docs/jobs/handlers.md", "## Write a handler as a plain function", "python")
        (hooks,) = blocks("docs/jobs/handlers.md", "## Hooks: code around each run, and on discard", "python")
        (schedule,) = blocks("docs/jobs/schedules.md", "# Schedules", "python")
        code = f"{job}\n{schedule}\nclass Report(BaseModel): ...\n{plain}\n{hooks}"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

    def test_every_command_of_the_jobs_page_exists(self) -> None:
        (listing,) = blocks("docs/jobs/operators.md", "## Operate jobs: list, retry, cancel, pause", "sh")
        for line in listing.splitlines():
            command = line.split("#")[0].split()[1:]
            words = list(itertools.takewhile(lambda word: word.islower() and not word.startswith("-"), command))[:2]
            helped = CliRunner().invoke(main, [*words, "--help"])
            assert helped.exit_code == 0, line
            for option in (word for word in command if word.startswith("--")):
                assert option in helped.output, line

    def test_every_setting_of_the_jobs_page_exists_with_its_default(self) -> None:
        (table,) = re.findall(r"## Settings\n.*", (ROOT / "docs/jobs/operators.md").read_text(), re.DOTALL)
        rows = re.findall(r"^\| `([A-Z_]+)` \| `?([^|`]+?)`? \|", table, re.MULTILINE)
        assert {name for name in Settings.model_fields if name.startswith("JOBS_")} <= {name for name, _ in rows}
        for name, default in rows:
            value = getattr(Settings.isolated(), name)
            assert default == (",".join(value) if isinstance(value, tuple) else f"{value:g}"), name


class TestSteps:
    """docs/jobs/steps.md"""

    async def test_job_of_the_steps_page_runs_to_its_end(
        self, jobs: Jobs, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("plinth.jobs.kinds._kinds", {})
        (code,) = blocks("docs/jobs/steps.md", "## Write a job with steps", "python")
        (emitting,) = blocks("docs/jobs/steps.md", "## Wait for an event", "python")
        page: dict[str, Any] = {"__name__": "orders"}
        exec(code, page)
        mails: list[str] = []
        page["mail"] = lambda order, text: mails.append(text)
        order = page["Order"](order_id=uuid4(), total=3)
        jobs = type(jobs)(database, Settings.isolated())

        assert (await jobs.perform(page["fulfil"], order)).state is State.SCHEDULED
        async with database.session() as session:
            exec(
                f"async def tell(session, order_id):\n    {emitting.splitlines()[0]}\n    {emitting.splitlines()[2]}",
                page,
            )
            await page["tell"](session, order.order_id)
        (asleep,) = await jobs.run_due()
        assert (asleep.state, mails) == (State.SCHEDULED, ["Your parcel parcel-7 is on its way."])
        assert await jobs.run_due(within=timedelta(days=6)) == []
        (done,) = await jobs.run_due(within=timedelta(days=7))
        assert (done.state, done.attempt, mails[1:]) == (State.SUCCEEDED, 1, ["Are you content?"])

    def test_limits_of_the_steps_page_are_those_of_the_code(self) -> None:
        page = (ROOT / "docs/jobs/steps.md").read_text()
        assert f"| steps of a job | {MAX_STEPS:,} |" in page
        assert f"{MAX_RESULT // 1024} KiB of JSON" in page
        assert MAX_RESULT == MAX_PAYLOAD
        assert f"| the name of a step, of an event | {MAX_NAME} characters |" in page
        assert MAX_WAIT // (366 * 86_400) == 10
