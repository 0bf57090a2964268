"""Writes what runs have to say, in batches.

While one batch is on its way to the database the next one collects: a single outcome is written at once, a thousand in
a few statements, and nobody waits for a timer. While the database is away outcomes are kept and tried again, for what
they tell has happened; they are dropped with the session, whose jobs are somebody else's then.
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
LOCKED_SECONDS = 0.25  # until a row that somebody had locked is tried again
CLASHES = ("40P01", "40001")  # SQLSTATEs: two transactions were in each other's way, and this one has to try again
MAX_CLASHES = 20

Write = Callable[..., Awaitable[Collection[UUID]]]


class Recorder:
    """`on_written` gets each batch of outcomes once it has committed, `on_lost` each run whose lease was lost."""

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
        self._locked: list[Outcome] = []  # to be tried again
        self._postponed: set[RunKey] = set()  # those of the batch
        self._away = False  # the database is, and that has been said
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def backlog(self) -> int:
        """Outcomes that are not committed yet."""
        return len(self._outcomes) + len(self._batch) + len(self._locked)

    def pending(self) -> list[RunKey]:
        """The runs of those outcomes."""
        return [_key(outcome) for outcome in (*self._outcomes, *self._batch, *self._locked)]

    def put(self, outcome: Outcome, kind: str, follow_ups: list[Insertion] | None = None) -> None:
        """Have the outcome of a job of that kind written, in one transaction with the jobs that are to follow it."""
        self._outcomes.append(outcome)
        key = _key(outcome)
        self._kinds[key] = kind
        if follow_ups:
            self._follow_ups[key] = follow_ups
        self._idle.clear()
        self._wanted.set()

    def progress(self, ctx: JobContext, progress: Progress) -> None:
        """Have a run's progress written within `PROGRESS_SECONDS`. Of several words the last one counts."""
        self._progress[ctx.id, ctx.run] = (ctx, progress)
        if self._progress_timer is None:
            self._progress_timer = asyncio.get_running_loop().call_later(PROGRESS_SECONDS, self._wanted.set)

    def take(self, ctx: JobContext) -> Progress | None:
        """The last word of a run that has not been written yet; it will not be written then."""
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
            # Progress first: what a job has said last goes with it into the history.
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
            except Exception as error:  # noqa: BLE001 - it is told, or tried again
                if len(outcomes) > 1:  # the others must not share the fate of one
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
            elif outcome.id not in done and not tried:  # else an earlier attempt may have been the one that counted
                LEASES_LOST.inc()
                log.warning("an outcome came too late: the job had been taken away", job_id=str(outcome.id))
        if held:
            asyncio.get_running_loop().call_later(LOCKED_SECONDS, self._try_locked)

    def _try_locked(self) -> None:
        """Once more, with the outcomes whose rows somebody had locked."""
        self._outcomes += self._locked
        self._locked = []
        self._wanted.set()

    async def _give_up(self, outcome: Outcome, error: Exception) -> None:
        """What cannot be written, ever, is told in a dead letter instead: an operator sees why, and nothing is lost."""
        log.error("an outcome cannot be written", job_id=str(outcome.id), exc_info=error)
        self._follow_ups.pop(_key(outcome), None)
        if isinstance(outcome, Finish) and outcome.state is State.DISCARDED:
            return  # not even that: the reaper finds the run past its deadline
        entry = error_entry(
            "error", run=outcome.lease, attempt=0, error="What came of this run could not be written.", exception=error
        )
        # A run that was given back and ended after all has two outcomes; the first one took the kind along.
        kind = self._kinds.get(_key(outcome), UNKNOWN_KIND)
        of_kind(kind).finished["discarded"].inc()  # besides what the run was counted as
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
            return  # the next word will do
        except Exception:
            log.exception("progress cannot be written")
            return
        for key in lost:
            self._on_lost(key)


def _key(outcome: Outcome) -> RunKey:
    return outcome.id, outcome.lease


def _sqlstate(error: Exception) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None)
