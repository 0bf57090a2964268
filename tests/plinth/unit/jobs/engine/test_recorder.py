"""The recorder writes outcomes even if single rows are locked or refused."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from plinth.aio import cancel_all
from plinth.jobs.claimed import ClaimedJob, Progress
from plinth.jobs.engine.recorder import EndedRun, Recorder, RunKey
from plinth.jobs.engine.store import Store
from plinth.jobs.enqueue import Insertion, Row, Terms
from plinth.jobs.outcome import Finish, Outcome, Release, State
from plinth.testing import until


class SlowStore:
    """A store whose row `locked` is locked once, then refused; releases are slow."""

    retry = None

    def __init__(self, locked: UUID) -> None:
        self.locked = locked
        self.database = self.session_id = None  # steps are written elsewhere
        self.attempts = 0
        self.written: list[Outcome] = []

    async def finish(self, outcomes: Sequence[Finish]) -> set[UUID]:
        for outcome in outcomes:
            if outcome.id == self.locked:
                self.attempts += 1
                if self.attempts == 1:
                    return set()
                if outcome.state is not State.DISCARDED:
                    raise ValueError("refused")
        self.written += outcomes
        return {outcome.id for outcome in outcomes}

    async def release(self, outcomes: Sequence[Release]) -> set[UUID]:
        await asyncio.sleep(0.4)  # longer than the delay before the locked row is tried again
        self.written += outcomes
        return {outcome.id for outcome in outcomes}

    async def held(self, keys: Collection[RunKey]) -> set[RunKey]:
        return {key for key in keys if key[0] == self.locked and self.attempts == 1}


TERMS = Terms("test", "test", 0, None, 1, None, timedelta(0))


def put(recorder: Recorder, outcome: Outcome, follow_ups: Sequence[Insertion] = ()) -> None:
    now = datetime.now(UTC)
    job = ClaimedJob(outcome.id, outcome.lease, "test", "test", 0, None, "{}", 1, 1, now, now)
    recorder.put(job, outcome, follow_ups)


async def test_outcome_of_a_locked_row_is_written_once_when_the_row_is_free() -> None:
    locked, other = uuid4(), uuid4()
    store = SlowStore(locked)
    told: list[UUID] = []

    def on_written(runs: Sequence[EndedRun]) -> None:
        told.extend(run.job.id for run in runs)

    recorder = Recorder(cast(Store, store), on_written=on_written, on_lost=lambda key: None)
    put(recorder, Finish(locked, 1, State.SUCCEEDED))
    put(recorder, Release(other, 1))
    with capture_logs():
        running = asyncio.create_task(recorder.run())
        try:
            async with asyncio.timeout(20):
                await asyncio.wait({running, asyncio.create_task(recorder.drained())}, return_when="FIRST_COMPLETED")
            assert not running.done()
        finally:
            running.cancel()
    assert [outcome.id for outcome in store.written] == [other, locked]
    assert told == [other, locked], "each once, when it is there"


async def test_second_outcome_of_a_run_is_refused_while_the_first_is_written() -> None:
    """The recorder goes on after the refusal."""
    run, later = uuid4(), uuid4()
    store = SlowStore(run)
    store.attempts = 1  # its row is not locked
    recorder = Recorder(cast(Store, store), on_written=lambda runs: None, on_lost=lambda key: None)
    with capture_logs():
        running = asyncio.create_task(recorder.run())
        try:
            put(recorder, Release(run, 1))
            await asyncio.sleep(0.1)
            put(recorder, Finish(run, 1, State.SUCCEEDED))
            put(recorder, Finish(later, 1, State.SUCCEEDED))
            async with asyncio.timeout(20):
                await asyncio.wait({running, asyncio.create_task(recorder.drained())}, return_when="FIRST_COMPLETED")
            assert not running.done()
        finally:
            running.cancel()
    assert later in {outcome.id for outcome in store.written}


async def test_large_results_are_written_few_at_a_time() -> None:
    """After an outage there are many: all in one statement would take longer than a statement may."""
    numbers: list[int] = []

    class CountingStore(SlowStore):
        async def finish(self, outcomes: Sequence[Finish]) -> set[UUID]:
            numbers.append(len(outcomes))
            return {outcome.id for outcome in outcomes}

    recorder = Recorder(cast(Store, CountingStore(uuid4())), on_written=lambda runs: None, on_lost=lambda key: None)
    for _ in range(200):
        put(recorder, Finish(uuid4(), 1, State.SUCCEEDED, result="x" * 65_536))
    running = asyncio.create_task(recorder.run())
    try:
        async with asyncio.timeout(20):
            await recorder.drained()
    finally:
        running.cancel()
    assert sum(numbers) == 200
    assert max(numbers) <= 61


class LockedStore:
    """A store all of whose rows are locked when they are written for the first time."""

    retry = release = database = session_id = None

    def __init__(self) -> None:
        self.locked: set[UUID] = set()
        self.written: list[UUID] = []

    async def finish(self, outcomes: Sequence[Finish]) -> set[UUID]:
        free = [outcome.id for outcome in outcomes if outcome.id in self.locked]
        self.locked |= {outcome.id for outcome in outcomes}
        self.written += free
        return set(free)

    async def finish_with_follow_ups(self, follow_ups: object, outcomes: Sequence[Finish], *, wait: float) -> set[UUID]:
        return await self.finish(outcomes)

    async def held(self, keys: Collection[RunKey]) -> set[RunKey]:
        return set(keys)


@pytest.mark.parametrize("follow_ups", [False, True])
async def test_every_outcome_that_was_put_off_is_written(follow_ups: bool) -> None:
    """However many there are; some were forgotten."""
    store, ids = LockedStore(), [uuid4() for _ in range(135)]
    recorder = Recorder(cast(Store, store), on_written=lambda runs: None, on_lost=lambda key: None)
    running = asyncio.create_task(recorder.run())
    try:
        for number, run_id in enumerate(ids):
            outcome = Finish(run_id, 1, State.SUCCEEDED)
            put(recorder, outcome, [Insertion(TERMS, [])] if follow_ups else [])
            if number % 12 == 0:
                await asyncio.sleep(0.02)
        async with asyncio.timeout(20):
            await recorder.drained()
    finally:
        running.cancel()
    assert sorted(store.written) == sorted(ids)


@pytest.mark.parametrize("calls", [1, 2000])
async def test_thousands_of_follow_ups_delay_no_job_with_a_few(calls: int) -> None:
    """Whether the handler has asked for them one by one or at once."""
    big, small = uuid4(), uuid4()
    begun, small_is_written = asyncio.Event(), asyncio.Event()

    class WritingStore(LockedStore):
        async def finish_with_follow_ups(
            self, follow_ups: object, outcomes: Sequence[Finish], *, wait: float
        ) -> set[UUID]:
            begun.set()
            if big in {outcome.id for outcome in outcomes}:
                await small_is_written.wait()
            else:
                small_is_written.set()
            return {outcome.id for outcome in outcomes}

    recorder = Recorder(cast(Store, WritingStore()), on_written=lambda runs: None, on_lost=lambda key: None)
    rows = [Row(uuid4(), "{}", None) for _ in range(2000 // calls)]
    running = asyncio.create_task(recorder.run())
    try:
        async with asyncio.timeout(20):
            put(recorder, Finish(big, 1, State.SUCCEEDED), [Insertion(TERMS, rows)] * calls)
            await begun.wait()
            put(recorder, Finish(small, 1, State.SUCCEEDED), [Insertion(TERMS, rows[:1])])
            await recorder.drained()
    finally:
        running.cancel()


class SlowReports(SlowStore):
    """A store that writes progress when it is told to."""

    def __init__(self) -> None:
        super().__init__(uuid4())
        self.go_on = asyncio.Event()
        self.reports: list[tuple[UUID, int]] = []

    async def write_progress(self, rows: Sequence[tuple[UUID, int, int, int | None, str | None]]) -> set[RunKey]:
        await self.go_on.wait()
        self.reports += [(row[0], row[2]) for row in rows]
        return {(row[0], row[1]) for row in rows}


async def test_progress_is_written_though_the_completion_that_wrote_it_was_cancelled() -> None:
    store = SlowReports()
    recorder = Recorder(cast(Store, store), on_written=lambda runs: None, on_lost=lambda key: None)
    completes, goes_on, reports = (cast(Any, SimpleNamespace(id=uuid4(), run=1)) for _ in range(3))
    recorder.progress(goes_on, Progress(5, None, None))
    recorder.progress(reports, Progress(6, None, None))
    completing = asyncio.create_task(recorder.complete(completes, cast(Any, None), None))
    await asyncio.sleep(0)
    recorder.progress(reports, Progress(7, None, None))
    completing.cancel()
    await asyncio.wait([completing])

    store.go_on.set()
    running = asyncio.create_task(recorder.run())
    await until(lambda: store.reports)
    await cancel_all([running])
    assert store.reports == [(goes_on.id, 5), (reports.id, 7)]
