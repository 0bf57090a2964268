"""Groups the dead letters by what went wrong, for operators."""

from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.jobs.admin.sql import DEAD_LETTER_GROUPS, MAX_ERROR_BYTES, MAX_GROUPED
from plinth.telemetry.redaction import redact_text

__all__ = ["MAX_GROUPED", "DeadLetters", "group_dead_letters"]

MAX_SAID = 200  # characters of an error in an address


class DeadLetters(NamedTuple):
    """Dead letters of one kind whose last errors are the same. `newest` is an id, and `detail` its error in full."""

    kind: str
    error: str
    number: int
    first: datetime
    last: datetime
    newest: UUID
    detail: str

    @property
    def said(self) -> str:
        """The text of `Selection.error` by which they are found, fit for addresses and forms.

        Addresses stay in histories and forms change line breaks: so it is the digest of an error that holds a secret or
        a line break, or is long.
        """
        error = self.error
        if len(error) <= MAX_SAID and error.isprintable() and redact_text(error) == error:
            return f'"{error}"'
        return f'"sha256:{sha256(error.encode()).hexdigest()}"'


async def group_dead_letters(session: AsyncSession) -> list[DeadLetters]:
    """The groups of the newest dead letters, the largest first, a hundred at most.

    As many are grouped as have `MAX_ERROR_BYTES` of errors, `MAX_GROUPED` at most.
    """
    rows: Any = await (await session.connection()).exec_driver_sql(DEAD_LETTER_GROUPS, (MAX_ERROR_BYTES,))
    return [DeadLetters(*row) for row in rows]
