"""Keeps a batch open while a transaction adds members to it."""

from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.errors import ConflictError

__all__ = ["BatchEndedError", "hold_open"]

# Others may add to it at the same time; what would end it waits, and then finds the new members.
_HOLD = "SELECT id FROM job_batch WHERE id = $1 AND finished_at IS NULL FOR KEY SHARE"


class BatchEndedError(ConflictError):
    """The batch has ended, or there is none."""

    code = "batch_ended"


async def hold_open(session: AsyncSession, batch: UUID) -> None:
    """Keep the batch open until the session's transaction ends.

    Raises:
        BatchEndedError: it has ended, or there is none.
    """
    held = await (await session.connection()).exec_driver_sql(_HOLD, (batch,))
    if held.first() is None:
        raise BatchEndedError("The batch has ended, or there is none: it takes no more jobs.")
