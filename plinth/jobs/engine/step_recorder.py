"""Writes the steps of runs, in batches."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.errors import DatabaseUnavailableError, TransactionConflictError
from plinth.jobs.engine.lane import Lane
from plinth.jobs.engine.step_store import StepStore
from plinth.jobs.outcome import LeaseLost
from plinth.jobs.steps import KeptStep

__all__ = ["StepRecorder"]

log = structlog.get_logger("plinth.jobs.engine.recorder")

BATCH = 1000
AWAY_SECONDS = 0.25  # between two attempts while the database is away
# Of the seconds that a cancelled handler has to end: what a step has done is to be kept all the same.
LAST_SECONDS = 1.0


class StepRecorder:
    """Reads and writes steps for the runs of a worker session.

    `held` tells which runs still hold their jobs. `rows` is held while rows of running jobs are locked.
    """

    def __init__(
        self,
        store: StepStore,
        *,
        held: Callable[[Sequence[tuple[UUID, int]]], Awaitable[set[tuple[UUID, int]]]],
        rows: asyncio.Lock,
    ) -> None:
        self._store = store
        self._held = held
        self._away = False  # the database is away, and that is logged
        self._rows = rows
        self._lane: Lane[KeptStep] = Lane(
            self._write, size=BATCH, again=BATCH, measure=lambda step: len(step.result or "")
        )
        self.stored = store.stored
        self.event = store.event
        self.time_out = store.time_out

    async def keep(self, step: KeptStep) -> None:
        """Write a step. Raises LeaseLost if another run has taken over."""
        self._lane.put(step)
        try:
            await asyncio.shield(step.kept)
        except asyncio.CancelledError:
            await asyncio.wait([step.kept], timeout=LAST_SECONDS)
            raise

    async def keep_in(self, session: AsyncSession, step: KeptStep) -> None:
        """Write a step in the session's transaction. Raises LeaseLost if another run has taken over."""
        if not await self._store.keep_in(session, step):
            raise LeaseLost

    async def run(self) -> None:
        """Write, for ever."""
        await self._lane.run()

    async def _write(self, steps: Sequence[KeptStep]) -> list[KeptStep]:
        while True:
            try:
                async with self._rows:
                    done = await self._store.keep(steps)
                missed = [step for step in steps if (step.job_id, step.name) not in done]
                held = await self._held([(step.job_id, step.lease) for step in missed]) if missed else set()
                break
            except DatabaseUnavailableError as error:
                if not self._away:
                    log.warning("steps cannot be written; they are kept", count=len(self._lane), reason=error.reason)
                self._away = True
                await asyncio.sleep(AWAY_SECONDS)
            except TransactionConflictError:
                return list(steps)  # tried again: what the steps have done is done
            except Exception as error:  # noqa: BLE001 - it is the step's own
                if len(steps) > 1:
                    return [again for step in steps for again in await self._write([step])]
                if not steps[0].kept.done():
                    steps[0].kept.set_exception(error)
                return []
        self._away = False
        again = []
        for step in steps:
            if step.kept.done():  # cancelled
                continue
            if (step.job_id, step.name) in done:
                step.kept.set_result(None)
            elif (step.job_id, step.lease) in held:
                again.append(step)
            else:
                step.kept.set_exception(LeaseLost())
        return again
