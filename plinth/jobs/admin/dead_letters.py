"""Groups the dead letters by what went wrong, for operators."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.jobs.admin.sql import DEAD_LETTER_GROUPS, MAX_GROUPED

__all__ = ["MAX_GROUPED", "DeadLetters", "group_dead_letters"]


class DeadLetters(NamedTuple):
    """Dead letters of one kind whose last errors are the same. `newest` is an id, and `detail` its error in full."""

    kind: str
    error: str
    number: int
    first: datetime
    last: datetime
    newest: UUID
    detail: str


async def group_dead_letters(session: AsyncSession) -> list[DeadLetters]:
    """The groups of the newest `MAX_GROUPED` dead letters, the largest first, a hundred at most."""
    rows: Any = await (await session.connection()).exec_driver_sql(DEAD_LETTER_GROUPS)
    return [DeadLetters(*row) for row in rows]
