"""A worker as `plinth worker` starts it, with the kinds of the fault tests, and with a fault of its own if asked for.

    python -m tests.plinth.faults.worker [--schedule] [--clock SECONDS] [--margin SECONDS] [--without …]

Settings come from the environment. `--without` takes a part of the engine out, to prove that a test notices.
"""

import argparse
import datetime as dt
import os
import signal
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import uvloop

import tests.plinth.faults.kinds as kinds
from notes.config import Settings
from plinth.jobs import schedule
from plinth.jobs.engine import sql as statements
from plinth.jobs.engine import store
from plinth.jobs.engine.batches import Batches
from plinth.jobs.engine.heartbeat import Heartbeat
from plinth.jobs.engine.runner import Runner
from plinth.jobs.engine.store import Reaped, Store
from plinth.jobs.engine.worker import run_worker
from plinth.jobs.outcome import Finish, Release
from plinth.telemetry.logging import configure_logging

CATCH_UP = 100


def without_fence() -> None:
    """A run completes its job without the lease, even when another run has it by now."""
    for name in ("FINISH", "FINISH_HERE"):
        fenced = getattr(statements, name)
        unfenced = fenced.replace(statements._FENCE, "job.id = run.id AND $3::uuid IS NOT NULL")
        assert unfenced != fenced
        setattr(store, name, unfenced)


def without_heartbeat() -> None:
    """The session is never renewed."""
    Heartbeat.start = lambda self: None  # type: ignore[method-assign]


def without_reaper() -> None:
    """No reaper looks for lost runs."""

    async def reap(self: Store, *, max_crashes: int) -> list[Reaped]:
        return []

    Store.reap = reap  # type: ignore[method-assign]


def without_release() -> None:
    """A worker that ends gives nothing back."""

    async def release(self: Store, runs: Sequence[Release]) -> set[UUID]:
        return {run.id for run in runs}

    async def close_session(self: Store) -> None:
        pass

    Store.release, Store.close_session = release, close_session  # type: ignore[method-assign]


def without_hearing() -> None:
    """The worker does not hear that it has lost its session: the fence alone is left."""
    Runner._lose = lambda self: None  # type: ignore[method-assign]


def without_finish() -> None:
    """The worker dies as it is about to write down that runs have ended."""

    async def finish(self: Store, outcomes: Sequence[Finish]) -> Collection[UUID]:
        os.kill(os.getpid(), signal.SIGKILL)
        return set()

    async def finish_in(self: Store, session: Any, outcome: Finish) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return False

    Store.finish, Store.finish_in = finish, finish_in  # type: ignore[method-assign, assignment]


def without_batches() -> None:
    """The worker dies as it is about to end a batch."""

    async def end(self: Batches, batches: Sequence[UUID]) -> Collection[UUID]:
        if batches:
            os.kill(os.getpid(), signal.SIGKILL)
        return ()

    Batches._end = end  # type: ignore[method-assign]


WITHOUT = {
    "batches": without_batches,
    "fence": without_fence,
    "heartbeat": without_heartbeat,
    "reaper": without_reaper,
    "release": without_release,
    "hearing": without_hearing,
    "finish": without_finish,
}


def set_clock(seconds: float) -> None:
    """Put this process's clock forward by so many seconds, or back. The monotonic clock stays, as it does in life."""
    skew = dt.timedelta(seconds=seconds)
    time_, time_ns = time.time, time.time_ns

    class Skewed(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return dt.datetime.now(tz) + skew

    time.time = lambda: time_() + seconds
    time.time_ns = lambda: time_ns() + round(seconds * 1e9)
    for name, module in sys.modules.items():
        if name.partition(".")[0] in ("cronsim", "plinth") and getattr(module, "datetime", None) is dt.datetime:
            module.datetime = Skewed  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--without", action="append", choices=WITHOUT, default=[])
    parser.add_argument("--schedule", action="store_true", help="declare a schedule with a slot for every second")
    parser.add_argument("--clock", type=float, default=0.0, help="put the clock forward by so many seconds")
    parser.add_argument("--margin", type=float, help="seconds after its time limit at which a run is taken away")
    arguments = parser.parse_args()
    for part in arguments.without:
        WITHOUT[part]()
    if arguments.schedule:
        schedule(kinds.slot, kinds.Nothing(), cron="* * * * * *", catch_up=CATCH_UP)
    if arguments.margin is not None:
        store.DEADLINE_MARGIN = dt.timedelta(seconds=arguments.margin)
    if arguments.clock:
        set_clock(arguments.clock)
    settings = Settings(_env_file=None)  # a developer's own file has no say in tests
    configure_logging(settings)
    uvloop.run(run_worker(settings, queues=None, concurrency=None, host="127.0.0.1"))


if __name__ == "__main__":
    main()
