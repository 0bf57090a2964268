"""A blocked event loop is detected from another thread."""

import asyncio

import pytest

from plinth.health import loop_watch
from plinth.health.loop_watch import STUCK_SECONDS, TICK_SECONDS, TOLD_SECONDS, LoopWatch


class Clock:
    """A clock that moves only by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loop_watch, "monotonic", clock)
    return clock


class TestLoopWatch:
    async def test_blocked_event_loop_is_reported_as_stuck(self, clock: Clock) -> None:
        watch = LoopWatch()
        with watch.running():
            assert watch.alive
            # This test never yields to the loop.
            clock.now += STUCK_SECONDS - 0.01
            assert watch.alive
            clock.now += 0.01
            assert not watch.alive

    async def test_event_loop_that_runs_again_is_alive_again(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loop_watch, "TICK_SECONDS", 0.0)
        watch = LoopWatch()
        with watch.running():
            clock.now += STUCK_SECONDS
            assert not watch.alive
            await _turns()
            assert watch.alive
        clock.now += STUCK_SECONDS
        await _turns()
        assert not watch.alive, "it goes on after its stop"


class TestLag:
    async def test_event_loop_on_schedule_has_no_lag(self, clock: Clock) -> None:
        watch = LoopWatch()
        clock.now += 60  # the time before the loop starts
        with watch.running():
            assert watch.lag == 0
            clock.now += TICK_SECONDS
            assert watch.lag == 0

    async def test_lag_grows_while_the_event_loop_is_blocked(self, clock: Clock) -> None:
        watch = LoopWatch()
        with watch.running():
            for seconds in (1.0, 30.0, 600.0):
                clock.now += seconds
                assert watch.lag == pytest.approx(clock.now - 1000 - TICK_SECONDS)

    async def test_largest_lag_is_reported_long_enough_to_be_scraped(self, clock: Clock) -> None:
        watch = LoopWatch()

        def turn(after: float) -> float:
            clock.now += after
            watch._timer.cancel()
            watch._tick()
            return watch.lag

        with watch.running():
            assert turn(TICK_SECONDS + 3) == 3
            assert turn(TICK_SECONDS + 1) == 3
            later = [turn(TICK_SECONDS) for _ in range(round(2 * TOLD_SECONDS / TICK_SECONDS))]
            told = later.count(3)
            assert later == [3] * told + [0] * (len(later) - told)
            assert TOLD_SECONDS <= (1 + told) * TICK_SECONDS < 2 * TOLD_SECONDS


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
