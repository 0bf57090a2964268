"""Lists the steps of a job, for owners and operators."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

__all__ = ["StepView", "list_steps"]

# A sleep is over by the clock: no run has to end it.
_STEPS = """
SELECT name, kind,
    CASE WHEN kind = 'sleep' AND state = 'waiting' AND due_at <= now() THEN 'done' ELSE state END AS state,
    event, CASE WHEN octet_length(result::text) > $3::int
        THEN to_jsonb(octet_length(result::text) || ' bytes') ELSE result END AS result,
    error, started_at, due_at,
    COALESCE(finished_at, CASE WHEN kind = 'sleep' AND due_at <= now() THEN due_at END) AS finished_at
FROM (SELECT * FROM job_step WHERE job_id = $1 ORDER BY started_at DESC, name DESC LIMIT $2) AS newest
ORDER BY started_at, name
"""


@dataclass(frozen=True, slots=True)
class StepView:
    """A step of a job. `kind` is step, sleep or event; `state` waiting, done, failed or timed_out.

    `due_at`: when a sleep or a wait ends. `event`: what it waits for, or waited for. `result` is what the step gave, or
    the event's payload.
    """

    name: str
    kind: str
    state: str
    event: str | None
    result: Any
    error: str | None
    started_at: datetime
    due_at: datetime | None
    finished_at: datetime | None


async def list_steps(
    session: AsyncSession, job_id: UUID, *, newest: int | None = None, longest: int | None = None
) -> list[StepView]:
    """List the steps of a job, live or ended, in the order in which they began.

    `newest`: so many at most. `longest`: of a result with more bytes of JSON, `result` says only how many.
    """
    rows = await (await session.connection()).exec_driver_sql(_STEPS, (job_id, newest, longest))
    return [StepView(**row._asdict()) for row in rows]
