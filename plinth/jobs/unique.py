"""How long a unique key is held: while its job waits, while it lives, until one has succeeded, or for a period.

The unique index of live jobs holds a key while its job waits or runs. What holds it longer is a row of `job_key_hold`,
written with the job. Whether the row still holds is asked when the key is wanted again, so the end of a job costs
nothing more.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Literal, NamedTuple, Protocol, TypeVar, get_args
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Unique", "Uniqueness", "held_keys", "insert_holding", "uniqueness"]

Unique = Literal["live", "waiting", "success"]

MAX_PERIOD = 100 * 365 * 86_400  # seconds

# `hold` is free once its period is over, and its job has succeeded or is gone if it is held until then. By the clock:
# a transaction may be long.
_HELD = """(hold.free_at > clock_timestamp() OR hold.until_success AND (
    EXISTS (SELECT FROM job WHERE job.id = hold.job_id)
    OR EXISTS (SELECT FROM job_history WHERE job_history.id = hold.job_id AND job_history.state <> 'succeeded')))"""
HELD = f"""
SELECT key, job_id FROM job_key_hold AS hold WHERE kind = $1 AND key = ANY ($2::text[]) AND {_HELD}
"""  # noqa: S608 - constants of this module, as below
# Holds the keys of jobs that this transaction has inserted, so that no other holds them at the same time. Returns those
# that it could. A row that holds is not locked: the job that it names may end. The keys are stated twice: a planner
# that takes the table for small would otherwise read all of it.
HOLD = f"""
WITH made AS (
    SELECT * FROM unnest($2::text[], $3::uuid[]) AS made (key, job_id)
), taken AS (
    UPDATE job_key_hold AS hold
    SET job_id = made.job_id, free_at = clock_timestamp() + $4::interval, until_success = $5
    FROM made WHERE hold.kind = $1 AND hold.key = made.key AND hold.key = ANY ($2::text[]) AND NOT {_HELD}
    RETURNING hold.key
), new AS (
    INSERT INTO job_key_hold (kind, key, job_id, free_at, until_success)
    SELECT $1, key, job_id, clock_timestamp() + $4::interval, $5 FROM made WHERE key NOT IN (SELECT key FROM taken)
    ORDER BY key ON CONFLICT DO NOTHING RETURNING key
)
SELECT key FROM taken UNION ALL SELECT key FROM new
"""  # noqa: S608
WITHDRAW = "DELETE FROM job WHERE id = ANY ($1::uuid[])"


class Uniqueness(NamedTuple):
    """How long the unique keys of some jobs are held; `seconds`: at least for so long."""

    mode: Unique = "live"
    seconds: float | None = None

    @property
    def waiting(self) -> bool:
        """Whether a key is free once its job's run starts."""
        return self.mode == "waiting"

    @property
    def holds(self) -> bool:
        """Whether a job that has ended may hold a key."""
        return self.mode == "success" or self.seconds is not None


class Keyed(Protocol):
    """A job to insert, with a unique key."""

    @property
    def id(self) -> UUID: ...

    @property
    def unique_key(self) -> str | None: ...


R = TypeVar("R", bound=Keyed)


def uniqueness(mode: Unique, seconds: float | None, *, keyed: bool, replace: bool) -> Uniqueness:
    """Check what `enqueue` was told of unique keys. Raises ValueError if it makes no sense."""
    if mode not in get_args(Unique):
        raise ValueError(f"unique is one of {', '.join(get_args(Unique))}")
    if seconds is not None and not 0 < seconds <= MAX_PERIOD:  # nor is NaN
        raise ValueError(f"unique_for is a number of seconds, {MAX_PERIOD} at most")
    made = Uniqueness(mode, seconds)
    if not keyed and replace:
        raise ValueError("a job without a unique key replaces none")
    if not keyed and made != Uniqueness():
        raise ValueError("unique and unique_for say how long a unique key is held: give one")
    if replace and made.holds:
        raise ValueError("a key that an ended job may hold (unique='success', unique_for) does not go with replace")
    return made


async def held_keys(connection: AsyncConnection, kind: str, keys: Collection[str]) -> dict[str, UUID]:
    """Return the job that holds each of the keys that are held."""
    rows = await connection.exec_driver_sql(HELD, (kind, sorted(keys)))
    return {row.key: row.job_id for row in rows}


async def insert_holding(
    connection: AsyncConnection,
    kind: str,
    unique: Uniqueness,
    rows: Sequence[R],
    insert: Callable[[Sequence[R]], Awaitable[Mapping[str, UUID]]],
) -> dict[str, UUID]:
    """Insert the jobs with keys that are free, and hold these; return the job of each key.

    `insert` inserts the jobs with keys that no live job has, and returns the live job of each key.
    """
    found: dict[str, UUID] = {}
    left = list(rows)
    while left:
        found |= await held_keys(connection, kind, {row.unique_key for row in left if row.unique_key is not None})
        left = [row for row in left if row.unique_key not in found]
        live = await insert(left) if left else {}
        new = {row.id for row in left}
        made = {key: job_id for key, job_id in sorted(live.items()) if job_id in new}
        values = list(made), list(made.values()), timedelta(seconds=unique.seconds or 0), unique.mode == "success"
        kept = {row.key for row in await connection.exec_driver_sql(HOLD, (kind, *values))} if made else set()
        found |= {key: job_id for key, job_id in live.items() if key in kept or key not in made}
        # A job was enqueued and has ended in between, and holds the key.
        left = [row for row in left if row.unique_key not in found]
        if left:
            await connection.exec_driver_sql(WITHDRAW, ([row.id for row in left],))
    return found
