"""Runs the statements of steps for one worker session, and those of events."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.engine import Database
from plinth.jobs.engine.step_sql import EVENT, KEEP_STEP_HERE, KEEP_STEPS, STEPS, TIME_OUT
from plinth.jobs.steps import KeptStep, StoredStep

__all__ = ["StepStore"]


class StepStore:
    """Reads and writes steps in the name of a worker session."""

    def __init__(self, database: Database, session_id: UUID) -> None:
        self._database = database
        self._session_id = session_id

    async def stored(self, job_id: UUID) -> list[StoredStep]:
        """Read all steps of a job."""
        return [StoredStep._make(row) for row in await self._fetch(STEPS, job_id)]

    async def keep(self, steps: Sequence[KeptStep]) -> set[tuple[UUID, str]]:
        """Write steps. Returns (job's id, name) of those whose run still holds its job."""
        return {(row[0], row[1]) for row in await self._fetch(KEEP_STEPS, *self._arguments(steps))}

    async def keep_in(self, session: AsyncSession, step: KeptStep) -> bool:
        """Write a step in the session's transaction; whether its run still holds its job."""
        connection = await session.connection()
        result = await connection.exec_driver_sql(KEEP_STEP_HERE, self._arguments([step]))
        return result.first() is not None

    async def event(self, name: str) -> str | None:
        """Read the payload of an event, as JSON. None: it has not been emitted."""
        rows = await self._fetch(EVENT, name)
        return (rows[0][0] or "null") if rows else None

    async def time_out(self, job_id: UUID, lease: int, name: str) -> bool:
        """End a wait whose time is over. False: its event came first."""
        return bool(await self._fetch(TIME_OUT, job_id, lease, self._session_id, name))

    def _arguments(self, steps: Sequence[KeptStep]) -> tuple[Any, ...]:
        ids, leases = [step.job_id for step in steps], [step.lease for step in steps]
        columns = [(step.name, step.kind, step.state, step.result, step.error, step.seconds) for step in steps]
        return (ids, leases, self._session_id, *([*column] for column in zip(*columns, strict=True)))

    async def _fetch(self, statement: str, *arguments: Any) -> list[Any]:
        async with self._database.connection() as connection:
            rows: list[Any] = await connection.fetch(statement, *arguments)
        return rows
