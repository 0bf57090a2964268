"""Fleets for the fault tests, and the table of their figures at the end of the session."""

import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from notes.config import Settings
from plinth.embedded.postgres import Postgres
from plinth.testing.servers import Servers, scratch_folder
from tests.plinth.faults.figures import PROPERTY, Figures, table
from tests.plinth.faults.fleet import Fleet


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--figures", type=Path, help="write the fault tests' figures to this file, as JSON")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    rows: list[dict[str, Any]] = [
        figures
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, figures in report.user_properties
        if name == PROPERTY
    ]
    if not rows:
        return
    rows.sort(key=lambda row: row["fault"])
    terminalreporter.section("faults")
    for line in table(rows):
        terminalreporter.write_line(line)
    if path := config.getoption("--figures", None):
        path.write_text(json.dumps(rows, indent=2) + "\n")


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[Figures], None]:
    """Takes figures to the table."""
    return lambda figures: request.node.user_properties.append((PROPERTY, figures.as_dict()))


@pytest.fixture
async def fleet(
    fresh_database_url: str, redis_url: str, tmp_path: Path, report: Callable[[Figures], None]
) -> AsyncIterator[Fleet]:
    """A fleet without workers yet, on the servers that all tests share."""
    async with Fleet(fresh_database_url, redis_url, tmp_path, report) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def breakable() -> Iterator[Servers]:
    """Servers that a test may break; this PostgreSQL writes to the disk what it says it has written."""
    with scratch_folder() as folder:
        servers = Servers(folder, Settings)
        servers.postgres = Postgres(folder / "durable", log=folder / "postgresql.log", durable=True)
        try:
            servers.start()
            yield servers
        finally:
            servers.postgres.stop(signal.SIGQUIT)  # a clean shutdown would write what no test reads
            servers.stop()


@pytest.fixture
async def breakable_fleet(
    breakable: Servers, tmp_path: Path, report: Callable[[Figures], None]
) -> AsyncIterator[Fleet]:
    """A fleet without workers yet, on servers that may be broken."""
    url = breakable.clone(f"fresh_{uuid4().hex}")
    async with Fleet(url, breakable.redis.url(), tmp_path, report) as fleet:
        yield fleet
