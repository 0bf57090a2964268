"""Writes outcomes and progress of runs, in batches.

While one batch is being written the next one collects: a single outcome is written at once, a thousand in a few
statements, and no timer delays either. While the database is away outcomes are kept and tried again. They are dropped
when the worker session is lost, since other workers have its jobs then.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from uuid import UUID

import structlog

from plinth.database.engine import DatabaseUnavailableError
from plinth.jobs.context import JobContext, Progress
from plinth.jobs.engine.store import Store
from plinth.jobs.enqueue import Insertion
from plinth.jobs.metrics import LEASES_LOST, UNKNOWN_KIND, of_kind
from plinth.jobs.outcome import Finish, Outcome, Release, Retry, State, error_entry

__all__ = ["Recorder", "RunKey"]

log = structlog.get_logger("plinth.jobs.engine.recorder")

# A job's id and the number of the run: a run that has been replaced may go on beside the next one for a while, even in
# the same worker.
RunKey = tuple[UUID, int]

BATCH = 1000
PROGRESS_SECONDS = 0.5
AWAY_SECONDS = 0.25  # between two attempts while the database is away
LOCKED_SECONDS = 0.25  # until a locked row is tried again
CLASHES = ("40P01", "40001")  # SQLSTATEs: two transactions were in each other's way, and this one has to try again
MAX_CLASHES = 20

Write = Callable[..., Awaitable[Collection[UUID]]]


class Recorder:
    """Writes outcomes and progress in batches.

    `on_written` gets each batch of outcomes once it has committed, `on_lost` each run that has lost its lease.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_written: Callable[[Sequence[Outcome]], None],
        on_lost: Callable[[RunKey], None],
    ) -> None:
        self._store = store
        self._on_written = on_written
        self._on_lost = on_lost
        self._outcomes: list[Outcome] = []
        self._follow_ups: dict[RunKey, list[Insertion]] = {}
        self._kinds: dict[RunKey, str] = {}
        self._progress: dict[RunKey, tuple[JobContext, Progress]] = {}
        self._progress_timer: asyncio.TimerHandle | None = None
        self._batch: list[Outcome] = []
        self._locked: list[Outcome] = []  # their rows were locked; tried again
        self._postponed: set[RunKey] = set()  # of the batch, those whose rows were locked
        self._away = False  # the database is away, and that is logged
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def backlog(self) -> int:
        """Outcomes that are not committed yet."""
        return len(self._outcomes) + len(self._batch) + len(self._locked)

    def pending(self) -> list[RunKey]:
        """The runs whose outcomes are not committed yet."""
        return [_key(outcome) for outcome in (*self._outcomes, *self._batch, *self._locked)]

    def put(self, outcome: Outcome, kind: str, follow_ups: list[Insertion] | None = None) -> None:
        """Queue the outcome of a job for writing, in one transaction with its follow-up jobs."""
        self._outcomes.append(outcome)
        key = _key(outcome)
        self._kinds[key] = kind
        if follow_ups:
            self._follow_ups[key] = follow_ups
        self._idle.clear()
        self._wanted.set()

    def progress(self, ctx: JobContext, progress: Progress) -> None:
        """Queue a run's progress; it is written within `PROGRESS_SECONDS`, and a later report replaces it."""
        self._progress[ctx.id, ctx.run] = (ctx, progress)
        if self._progress_timer is None:
            self._progress_timer = asyncio.get_running_loop().call_later(PROGRESS_SECONDS, self._wanted.set)

    def take(self, ctx: JobContext) -> Progress | None:
        """Remove and return a run's unwritten progress."""
        _, last = self._progress.pop((ctx.id, ctx.run), (ctx, None))
        return last

    async def drained(self) -> None:
        """Wait until all outcomes are committed."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if self._progress_timer is not None:
                self._progress_timer.cancel()
                self._progress_timer = None
            # Progress first, so that a job's last report goes into the history with it.
            await self._write_progress()
            while self._outcomes:
                self._batch, self._outcomes = self._outcomes[:BATCH], self._outcomes[BATCH:]
                self._postponed.clear()
                await self._write_batch()
                written = [outcome for outcome in self._batch if _key(outcome) not in self._postponed]
                self._batch = []
                for outcome in written:
                    self._kinds.pop(_key(outcome), None)
                self._on_written(written)
            if not self._locked:
                self._idle.set()

    async def _write_batch(self) -> None:
        plain = [outcome for outcome in self._batch if _key(outcome) not in self._follow_ups]
        for kind, write in (
            (Finish, self._store.finish),
            (Retry, self._store.retry),
            (Release, self._store.release),
        ):
            if some := [outcome for outcome in plain if isinstance(outcome, kind)]:
                await self._persist(some, write)
        for outcome in self._batch:
            if isinstance(outcome, Finish) and _key(outcome) in self._follow_ups:
                await self._persist([outcome], self._finish_with_follow_ups)
                self._follow_ups.pop(_key(outcome), None)

    async def _persist(self, outcomes: Sequence[Outcome], write: Write) -> None:
        tried = clashes = 0
        while True:
            try:
                done = await write(outcomes)
                missed = [_key(outcome) for outcome in outcomes if outcome.id not in done]
                held = await self._store.held(missed) if missed else set()
                self._away = False
                break
            except DatabaseUnavailableError:
                if not self._away:
                    log.warning("the database is away; outcomes are kept", count=self.backlog)
                self._away = True
                tried += 1
                await asyncio.sleep(AWAY_SECONDS)
            except Exception as error:  # noqa: BLE001 - logged, or tried again
                if len(outcomes) > 1:  # one bad outcome must not fail the others
                    for outcome in outcomes:
                        await self._persist([outcome], write)
                    return
                if _sqlstate(error) in CLASHES and clashes < MAX_CLASHES:
                    clashes += 1
                    await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311
                    continue
                await self._give_up(outcomes[0], error)
                return
        for outcome in outcomes:
            if _key(outcome) in held:
                self._locked.append(outcome)
                self._postponed.add(_key(outcome))
            elif outcome.id not in done and not tried:  # after a retry, the earlier attempt may have committed
                LEASES_LOST.inc()
                log.warning("an outcome came too late; the job was taken away", job_id=str(outcome.id))
        if held:
            asyncio.get_running_loop().call_later(LOCKED_SECONDS, self._try_locked)

    def _try_locked(self) -> None:
        """Queue the outcomes again whose rows were locked."""
        self._outcomes += self._locked
        self._locked = []
        self._wanted.set()

    async def _give_up(self, outcome: Outcome, error: Exception) -> None:
        """Discard a job whose outcome the database refuses: an operator sees why in the dead letter."""
        log.error("an outcome cannot be written", job_id=str(outcome.id), exc_info=error)
        self._follow_ups.pop(_key(outcome), None)
        if isinstance(outcome, Finish) and outcome.state is State.DISCARDED:
            return  # refused as well: the reaper finds the run past its deadline
        entry = error_entry(
            "error", run=outcome.lease, attempt=0, error="What came of this run could not be written.", exception=error
        )
        # A run that was released and ended after all has two outcomes; the first one has removed the kind.
        kind = self._kinds.get(_key(outcome), UNKNOWN_KIND)
        of_kind(kind).finished["discarded"].inc()  # beside the outcome that was counted when the run ended
        await self._persist([Finish(outcome.id, outcome.lease, State.DISCARDED, entry)], self._store.finish)

    async def _finish_with_follow_ups(self, outcomes: Sequence[Finish]) -> set[UUID]:
        (outcome,) = outcomes
        async with self._store.database.session() as session:
            if not await self._store.finish_in(session, outcome):
                return set()
            for follow_up in self._follow_ups[_key(outcome)]:
                await follow_up.execute(session)
        return {outcome.id}

    async def _write_progress(self) -> None:
        words, self._progress = self._progress, {}
        if not words:
            return
        rows = [(ctx.id, ctx.run, word.done, word.total, word.message) for ctx, word in words.values()]
        try:
            missed = words.keys() - await self._store.write_progress(rows)
            lost = missed - await self._store.held(list(missed)) if missed else ()
        except DatabaseUnavailableError:
            return  # the next report will be written
        except Exception:
            log.exception("progress cannot be written")
            return
        for key in lost:
            self._on_lost(key)


def _key(outcome: Outcome) -> RunKey:
    return outcome.id, outcome.lease


def _sqlstate(error: Exception) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None)
