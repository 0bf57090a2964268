"""Writes what runs have to say, in batches.

While one batch is on its way to the database the next one collects: a single outcome is written at once, a thousand in
a few statements, and nobody waits for a timer. While the database is away outcomes are kept and tried again, for what
they tell has happened; they are dropped with the session, whose jobs are somebody else's then.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from uuid import UUID

import structlog

from app.core.db import DatabaseUnavailableError
from app.jobs.context import JobContext, Progress
from app.jobs.enqueue import Insertion
from app.jobs.metrics import LEASES_LOST
from app.jobs.outcome import Finish, Outcome, Release, Retry
from app.jobs.store import Store

__all__ = ["Recorder", "RunKey"]

log = structlog.get_logger("app.jobs.recorder")

# A job's id and the number of the run: a run that has been replaced may go on beside the next one for a while, even in
# the same worker.
RunKey = tuple[UUID, int]

BATCH = 1000
PROGRESS_SECONDS = 0.5
AWAY_SECONDS = 0.25  # between two attempts while the database is away


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
        self._progress: dict[RunKey, tuple[JobContext, Progress]] = {}
        self._progress_timer: asyncio.TimerHandle | None = None
        self._batch: list[Outcome] = []
        self._away = False  # the database is, and that has been said
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def backlog(self) -> int:
        """Outcomes that are not committed yet."""
        return len(self._outcomes) + len(self._batch)

    def pending(self) -> list[RunKey]:
        """The runs of those outcomes."""
        return [(outcome.id, outcome.lease) for outcome in (*self._outcomes, *self._batch)]

    def put(self, outcome: Outcome, follow_ups: list[Insertion] | None = None) -> None:
        """Have an outcome written, with the jobs that are to follow it in the same transaction."""
        self._outcomes.append(outcome)
        if follow_ups:
            self._follow_ups[outcome.id, outcome.lease] = follow_ups
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
                await self._write_batch()
                written, self._batch = self._batch, []
                self._on_written(written)
            self._idle.set()

    async def _write_batch(self) -> None:
        plain = [outcome for outcome in self._batch if (outcome.id, outcome.lease) not in self._follow_ups]
        for kind, write in (
            (Finish, self._store.finish),
            (Retry, self._store.retry),
            (Release, self._store.release),
        ):
            if some := [outcome for outcome in plain if isinstance(outcome, kind)]:
                await self._persist(some, write)
        for outcome in self._batch:
            if isinstance(outcome, Finish) and (outcome.id, outcome.lease) in self._follow_ups:
                await self._persist([outcome], self._finish_with_follow_ups)

    async def _persist(self, outcomes: Sequence[Outcome], write: Callable[..., Awaitable[Collection[UUID]]]) -> None:
        tried = False
        while True:
            try:
                done = await write(outcomes)
                self._away = False
                break
            except DatabaseUnavailableError:
                if not self._away:
                    log.warning("the database is away; outcomes are kept", count=self.backlog)
                self._away = tried = True
                await asyncio.sleep(AWAY_SECONDS)
            except Exception:
                # Not to be written, ever: the reaper finds the run past its deadline. The others must not share that.
                log.exception("an outcome cannot be written", count=len(outcomes))
                if len(outcomes) > 1:
                    for outcome in outcomes:
                        await self._persist([outcome], write)
                return
        if not tried:  # an earlier attempt may have been the one that counted
            for outcome in outcomes:
                if outcome.id not in done:
                    LEASES_LOST.inc()
                    log.warning("an outcome came too late: the job had been taken away", job_id=str(outcome.id))

    async def _finish_with_follow_ups(self, outcomes: Sequence[Finish]) -> set[UUID]:
        (outcome,) = outcomes
        key = outcome.id, outcome.lease
        async with self._store.database.session() as session:
            if not await self._store.finish_in(session, outcome):
                del self._follow_ups[key]
                return set()
            for follow_up in self._follow_ups[key]:
                await follow_up.execute(session)
        del self._follow_ups[key]
        return {outcome.id}

    async def _write_progress(self) -> None:
        words, self._progress = self._progress, {}
        if not words:
            return
        rows = [(ctx.id, ctx.run, word.done, word.total, word.message) for ctx, word in words.values()]
        try:
            ours = await self._store.write_progress(rows)
        except DatabaseUnavailableError:
            return  # the next word will do
        except Exception:
            log.exception("progress cannot be written")
            return
        for key in words.keys() - ours:
            self._on_lost(key)
