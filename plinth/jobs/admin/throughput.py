"""Counts the jobs that ended in each minute of the last hour, for operators."""

from datetime import datetime
from typing import NamedTuple

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.jobs.admin.sql import ENDED_BY_MINUTE, MAX_ENDED

__all__ = ["MAX_ENDED", "Minute", "last_hour"]


class Minute(NamedTuple):
    """How many jobs ended in a minute, by state."""

    at: datetime
    succeeded: int
    cancelled: int
    discarded: int


async def last_hour(session: AsyncSession) -> list[Minute]:
    """The last sixty minutes, the oldest first; the last one is not over.

    Counting stops at `MAX_ENDED` jobs of a kind, a state and a minute, so that a busy fleet does not make it slow.
    """
    rows = await (await session.connection()).exec_driver_sql(ENDED_BY_MINUTE)
    return [Minute(row.at, row.succeeded, row.cancelled, row.discarded) for row in rows]
