"""docs/jobs/from-arq.md, typed word for word."""

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest
from httpx import AsyncClient, MockTransport, Response

from app.core.config import Settings
from plinth.database.engine import Database, bind_default_database
from plinth.jobs import State
from plinth.jobs.arq.values import _TEXTS
from plinth.jobs.schedules import schedules
from plinth.testing import Jobs
from tests.support.pages import ROOT, blocks


class TestFromArq:
    """docs/jobs/from-arq.md"""

    async def test_settings_of_the_page_run_and_its_jobs_are_enqueued(
        self, jobs: Jobs, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for registry in ("kinds._kinds", "schedules._schedules", "arq.registry._functions"):
            monkeypatch.setattr(f"plinth.jobs.{registry}", {})
        monkeypatch.setattr("plinth.jobs.hooks._lifespans", [])
        (code,) = blocks("docs/jobs/from-arq.md", "## Register a WorkerSettings", "python")
        (enqueuing,) = blocks("docs/jobs/from-arq.md", "## Enqueue", "python")
        page: dict[str, Any] = {"__name__": "downloads"}
        exec(code, page)
        exec(enqueuing, page)
        assert {name: made.cron for name, made in schedules().items()} == {"cron:tidy": "0 12 9,18 * * *"}
        served = MockTransport(lambda request: Response(200 if request.url.path == "/" else 503, text="hello"))
        page["AsyncClient"] = lambda: AsyncClient(transport=served)

        jobs = type(jobs)(database, Settings.isolated())
        with bind_default_database(database):
            for number, path in enumerate(("", "away"), 1):
                ordering = asyncio.create_task(page["order"](f"https://example.com/{path}"))
                while len(await jobs.waiting()) < number:  # noqa: ASYNC110 - it is the database that changes
                    await asyncio.sleep(0.01)
                ordering.cancel()
            assert await page["order"]("https://example.com/") == 0
        done = await jobs.run_due(within=timedelta(seconds=10))
        assert [job.state for job in done] == [State.SUCCEEDED, State.RETRYABLE]

    def test_values_that_the_page_lists_survive(self) -> None:
        page = (ROOT / "docs/jobs/from-arq.md").read_text()
        (listed,) = re.findall(r"come back as they were: (.*?), and lists", page, re.DOTALL)
        names = set(re.findall(r"`(\w+)`", listed))
        known = {kind.__name__ for kind in _TEXTS}
        assert names == known | {"None", "bool", "int", "float", "str"}
