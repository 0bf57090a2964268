"""Ends batches whose last member has ended, and cancels the children of cancelled jobs."""

from collections.abc import Collection, Iterable, Sequence
from uuid import UUID

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.engine import Database, DatabaseUnavailableError, TransactionConflictError
from plinth.jobs.batch_end import end_batches
from plinth.jobs.doorbell import ring_after_commit
from plinth.jobs.engine.batch_sql import CANCEL_MEMBERS, CHILDREN, ORPHANS, OVER, OVER_AMONG
from plinth.jobs.engine.lane import Lane

__all__ = ["Batches", "cancel_children"]

log = structlog.get_logger("plinth.jobs.engine.batches")

LOOKS = 100  # batches in one statement
# Seconds that ending a batch waits for another transaction before it is put off.
LOCK_TIMEOUT = 0.05


class Batches:
    """The batches whose members this worker ends."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.lane: Lane[UUID] = Lane(self._look, size=LOOKS, again=LOOKS)

    def look_at(self, batches: Iterable[UUID | None]) -> None:
        """End those of the batches that have no live member, soon. Call it after the commit that ended members."""
        for batch in set(batches):
            if batch is not None:
                self.lane.put(batch)

    async def tend(self) -> None:
        """End batches that lost workers left behind, and cancel the children of jobs that were cancelled or deleted.

        Raises:
            DatabaseUnavailableError: the database is away.
        """
        async with self._database.connection() as connection:
            over = [row["id"] for row in await connection.fetch(OVER)]
            orphans = [row["parent_id"] for row in await connection.fetch(ORPHANS)]
        self.look_at(over)
        if orphans:
            async with self._database.session() as session:
                await cancel_children(session, orphans)

    async def _look(self, batches: Sequence[UUID]) -> Collection[UUID]:
        """End batches; returns those that are put off. What else goes wrong is left to `tend`."""
        batches = list(dict.fromkeys(batches))  # each chunk of outcomes names those of its members
        try:
            async with self._database.connection() as connection:
                over = [row["id"] for row in await connection.fetch(OVER_AMONG, batches)]
        except DatabaseUnavailableError:
            return batches
        except Exception:
            log.exception("batches cannot be looked at")
            return ()
        return await self._end(over)

    async def _end(self, batches: Sequence[UUID]) -> Collection[UUID]:
        if not batches:
            return ()
        try:
            async with self._database.session() as session:
                await (await session.connection()).exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT:g}s'")
                await end_batches(session, batches)
        except Exception as error:
            if len(batches) > 1:  # one must not fail or delay the others
                return [again for batch in batches for again in await self._end([batch])]
            if isinstance(error, DatabaseUnavailableError | TransactionConflictError):
                return batches
            log.exception("a batch cannot be ended", batch_id=str(batches[0]))
        return ()


async def cancel_children(session: AsyncSession, jobs: Collection[UUID]) -> None:
    """Cancel the children that these jobs wait for, and theirs, in the session's transaction."""
    connection = await session.connection()
    parents = list(jobs)
    while parents:
        found = await connection.exec_driver_sql(CHILDREN, (parents,))
        if not (batches := [row.id for row in found]):
            return
        members = (await connection.exec_driver_sql(CANCEL_MEMBERS, (batches,))).all()
        ring_after_commit(session, cancelled=[member.id for member in members if member.running])
        # What ends such a batch may wait for its parent, which is locked here. No job waits for the batch any more.
        await end_batches(session, batches, wait=False)
        parents = [member.id for member in members]
