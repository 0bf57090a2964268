"""The limit on the jobs of a kind that one owner may have to be done: `max_per_owner` of `@job`.

It holds at every door by which a caller gets a job done, `enqueue` and a retry, also of requests at the same time.
Operators and follow-ups of jobs are free of it; what they add counts for the owner's next job.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.errors import ConflictError
from plinth.jobs.kinds import JobKind

__all__ = ["TooManyJobsError", "make_room"]

# A statement of its own: the count must see what the transaction before has committed.
_LOCK = "SELECT pg_advisory_xact_lock($1)"
# The owner's jobs that are waiting or running, and the keys for which no job is made, because there is a live one.
_COUNT = """
SELECT (SELECT count(*) FROM job WHERE owner = $1 AND kind = $2) AS live,
    (SELECT count(*) FROM job WHERE kind = $2 AND unique_key = ANY ($3::text[])) AS taken
"""


class TooManyJobsError(ConflictError):
    """An owner has as many jobs of a kind to be done as one may have."""

    code = "too_many"


async def make_room(
    session: AsyncSession, kind: JobKind[Any], owner: str, number: int = 1, *, unique_keys: Sequence[str] = ()
) -> None:
    """Check that `owner` may have so many jobs more, and let no other transaction add one before this one has ended.

    Raises:
        TooManyJobsError: it may not.
    """
    if kind.max_per_owner is None:
        return
    connection = await session.connection()
    name = f"{kind.name}\0{owner}".encode()
    lock = int.from_bytes(blake2b(name, digest_size=8, person=b"max_per_owner").digest(), signed=True)
    await connection.exec_driver_sql(_LOCK, (lock,))
    counted = (await connection.exec_driver_sql(_COUNT, (owner, kind.name, list(unique_keys)))).one()
    if counted.live + number - counted.taken > kind.max_per_owner and number > counted.taken:
        raise TooManyJobsError(
            f"You may have {kind.max_per_owner} jobs {kind.name} to be done. Wait until one of them has ended."
        )
