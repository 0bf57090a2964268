"""docs/sizing.md: what is computed there follows from what was measured, and from the service's limits."""

import math
import re

import pytest

from plinth.jobs.admin.watch import MAX_WATCHERS, MAX_WATCHERS_EACH
from plinth.settings import PlatformSettings
from tests.support.pages import ROOT

PAGE = (ROOT / "docs/sizing.md").read_text()
BUSY = 0.6
MIX = {"one item": 0.5, "a page of 50 items": 0.3, "a new item": 0.2}
JOB, JOB_OF_DATABASE = 5.04, 0.03  # ms
# Of an API pod beside its pool, of a worker, and what is left: for the migration and for people.
OF_API, OF_WORKER, OTHERS = 1, 4, 6


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose first heading that is."""
    (table,) = re.findall(rf"^\| {heading} \|.*\n\|[ -:|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


@pytest.mark.parametrize("row", rows("Requests a second"), ids=lambda row: row[0])
def test_pods_and_connections_follow_from_the_cost_of_requests(row: list[str]) -> None:
    requests, jobs, pods, workers, cores, connections = (int(cell.replace(",", "")) for cell in row)
    costs = {name: (float(api), float(database)) for name, api, database in rows("Requests")}
    api, database = (sum(costs[name][place] * share for name, share in MIX.items()) / 1000 for place in (0, 1))
    assert pods == max(2, math.ceil(requests * api / BUSY))
    assert workers == max(1, math.ceil(jobs * JOB / 1000 / BUSY))
    assert cores == math.ceil((requests * database + jobs * JOB_OF_DATABASE / 1000) / BUSY)
    settings = PlatformSettings.isolated()
    pool = settings.DB_POOL_SIZE + settings.DB_MAX_OVERFLOW
    assert connections == 2 * (pods * (pool + OF_API) + workers * (pool + OF_WORKER)) + OTHERS


def test_limits_of_streams_are_the_code_s() -> None:
    assert f"one of {MAX_WATCHERS} places in its process, and one of {MAX_WATCHERS_EACH} of its caller" in PAGE
