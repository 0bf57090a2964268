"""The fault tests fail when a part of the engine is missing: each runs here without one."""

from collections.abc import Awaitable, Callable

import pytest

from tests.plinth.faults.figures import Figures
from tests.plinth.faults.fleet import Fleet
from tests.plinth.faults.test_killed_workers import killed_in_mid_job
from tests.plinth.faults.test_restarts import rolling_restarts
from tests.plinth.faults.test_stale_runs import a_blocked_event_loop, frozen_and_thawed

Scenario = Callable[[Fleet], Awaitable[None]]

MUTATIONS: dict[str, tuple[str, Scenario, str]] = {
    "the completion is not fenced": (
        "fence",
        lambda fleet: frozen_and_thawed(fleet, returns=False, deaf=False),
        "the stale run took effect",
    ),
    "the completion by the engine is not fenced": (
        "fence",
        lambda fleet: frozen_and_thawed(fleet, returns=True, deaf=True),
        "the stale run took effect",
    ),
    # The job is taken away from each run, again and again.
    "no heartbeat": ("heartbeat", a_blocked_event_loop, "not within 15 s: every job has ended"),
    "no reaper": (
        "reaper",
        lambda fleet: killed_in_mid_job(fleet, rounds=1, batch=50, within=10),
        "not within 10 s: every job has ended",
    ),
    "no release": (
        "release",
        lambda fleet: rolling_restarts(fleet, rounds=1, seconds=2.0, jobs=6),
        "a restart has cost an attempt",
    ),
}


@pytest.fixture
def report() -> Callable[[Figures], None]:
    """The table is for the engine as it is."""
    return lambda figures: None


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_fault_tests_fail_without_a_part_of_the_engine(fleet: Fleet, mutation: str) -> None:
    without, scenario, complaint = MUTATIONS[mutation]
    fleet.without = [without]
    with pytest.raises(AssertionError, match=complaint):
        await scenario(fleet)
