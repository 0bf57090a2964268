"""A worker that was taken for dead comes back, or one that lives looks dead. One run counts, and it is the newest."""

import signal
import time

import httpx
import pytest

from tests.plinth.faults.fleet import Fleet
from tests.plinth.faults.kinds import Effect, Trouble, Work, blocking, effect, hangs, plain, stubborn


async def frozen_and_thawed(fleet: Fleet, *, returns: bool, deaf: bool) -> None:
    """A worker is frozen until its job runs elsewhere, and then goes on while that run is still at work.

    `returns`: the handler just returns, else it ends with `ctx.complete`. `deaf`: the worker does not hear that its
    session is lost, so that nothing but the fence stands between the stale run and the books.
    """
    without = list(fleet.without)
    fleet.without = [*without, *(["hearing"] if deaf else [])]
    (stale,) = await fleet.start(1)
    fleet.without = without
    accepted = await fleet.enqueue(plain if returns else stubborn, Work(seconds=1))
    await fleet.running(1, member=stale)
    stale.process.send(signal.SIGSTOP)
    stale.lost_at = await fleet.now()
    (fresh,) = await fleet.start(1)
    # The second run takes as long as the first one, and has just begun: the stale one's time is over, and it goes on.
    await fleet.running(1, member=fresh)
    stale.process.send(signal.SIGCONT)
    how = ("handler returns" if returns else "before complete()") + (", worker deaf" if deaf else "")
    await fleet.audit(f"frozen and thawed: {how}", accepted)
    booked = await fleet.fetch("SELECT run FROM ledger")
    (ended,) = await fleet.ended_jobs(accepted)
    # Lease 1: the first run. 2: it was taken away. 3: the second run.
    assert [row["run"] for row in booked] == [3], "the stale run took effect"
    assert (ended["run_lease"], ended["attempt"]) == (3, 1)
    # A worker that hears of its lost session says that it has not crashed, if the job has not ended by then.
    assert ended["crash_count"] in ((1,) if deaf else (0, 1))
    if deaf and returns:
        assert stale.lines("an outcome came too late; the job was taken away")


async def test_stale_run_that_completes_has_no_effect(fleet: Fleet) -> None:
    await frozen_and_thawed(fleet, returns=False, deaf=False)


@pytest.mark.slow
async def test_stale_run_that_returns_has_no_effect(fleet: Fleet) -> None:
    await frozen_and_thawed(fleet, returns=True, deaf=False)


@pytest.mark.slow
@pytest.mark.parametrize("returns", [False, True])
async def test_stale_run_of_an_unaware_worker_has_no_effect(fleet: Fleet, returns: bool) -> None:
    await frozen_and_thawed(fleet, returns=returns, deaf=True)


async def a_blocked_event_loop(fleet: Fleet) -> None:
    """A job stops the event loop for longer than a session lives without a heartbeat; another worker looks on."""
    await fleet.start(2)
    accepted = await fleet.enqueue(blocking, Work(seconds=4))
    figures = await fleet.audit("a job blocks the event loop", accepted, within=15)
    assert figures.runs == 1, "the job was taken away from a living worker"
    assert figures.taken_back == 0


@pytest.mark.slow
async def test_blocked_event_loop_does_not_lose_the_job(fleet: Fleet) -> None:
    await a_blocked_event_loop(fleet)


@pytest.mark.slow
async def test_liveness_fails_only_after_the_event_loop_was_blocked_for_long(fleet: Fleet) -> None:
    (worker,) = await fleet.start(1, LOG_LEVEL="INFO")
    (line,) = worker.lines("liveness and metrics")
    accepted = await fleet.enqueue(blocking, Work(seconds=20))
    await fleet.running(1)
    began = time.monotonic()
    seen: list[tuple[float, int]] = []
    async with httpx.AsyncClient(base_url=line["address"], timeout=2) as client:
        while time.monotonic() - began < 18:
            seen.append((time.monotonic() - began, (await client.get("/livez")).status_code))
    figures = await fleet.audit("a job blocks the event loop, for long", accepted)
    assert (figures.runs, figures.taken_back) == (1, 0)
    assert {status for at, status in seen if at < 13} == {200}
    assert {status for at, status in seen if at > 16} == {503}


class TestHangingRuns:
    """A run does not end at its time limit, and does not listen when it is cancelled."""

    @pytest.mark.slow
    async def test_hanging_run_is_taken_away_at_its_deadline(self, fleet: Fleet) -> None:
        await fleet.start(2, "--margin", "0.5")
        accepted = await fleet.enqueue(hangs, *[Trouble(seconds=3600)] * 3)
        await fleet.audit("a handler hangs", accepted)
        for ended in await fleet.ended_jobs(accepted):
            assert (ended["attempt"], ended["crash_count"], ended["run_lease"]) == (2, 0, 3)
            assert [error["outcome"] for error in ended["errors"]] == ["timeout"]

    @pytest.mark.slow
    async def test_hanging_run_may_overlap_its_successor_in_the_same_worker(self, fleet: Fleet) -> None:
        await fleet.start(1, "--margin", "0.5")
        accepted = await fleet.enqueue(hangs, *[Trouble(seconds=3)] * 3)
        bystanders = await fleet.enqueue(effect, *[Effect(seconds=0.1)] * 3)
        await fleet.audit("a handler hangs, one worker", accepted + bystanders)
        for ended in await fleet.ended_jobs(accepted):
            assert ended["run_lease"] == 3
            assert [error["outcome"] for error in ended["errors"]] == ["timeout"]
