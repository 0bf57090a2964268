"""Shows a batch of jobs, for its owner and operators."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.errors import NotFoundError
from plinth.jobs.outcome import State

__all__ = ["BatchView", "get_batch"]

# One statement, so one snapshot. When the batch has ended, the counts of its end stand in its row.
_BATCH = """
SELECT id, owner, parent_id, on_end_id AS on_end_job_id, created_at, finished_at, CASE
    WHEN finished_at IS NOT NULL
    THEN jsonb_build_object('succeeded', succeeded, 'cancelled', cancelled, 'discarded', discarded)
    ELSE (SELECT jsonb_object_agg(state, number) FROM (
        SELECT state, count(*) AS number FROM job WHERE batch_id = job_batch.id GROUP BY state
        UNION ALL
        SELECT state, count(*) FROM job_history WHERE batch_id = job_batch.id GROUP BY state) AS counted)
    END AS states
FROM job_batch WHERE id = $1 AND ($2::text IS NULL OR owner = $2)
"""


@dataclass(frozen=True, slots=True)
class BatchView:
    """A snapshot of a batch.

    `states`: how many members are in each state; once the batch has ended, how many had ended so then. `parent_id`: the
    job whose children they are. `on_end_job_id`: the job that is enqueued when the batch ends.
    """

    id: UUID
    owner: str | None
    parent_id: UUID | None
    on_end_job_id: UUID | None
    created_at: datetime
    finished_at: datetime | None
    states: dict[State, int]

    @property
    def total(self) -> int:
        """The members, live or ended."""
        return sum(self.states.values())

    @property
    def live(self) -> int:
        """The members that are waiting or running."""
        return sum(number for state, number in self.states.items() if not state.terminal)


async def get_batch(session: AsyncSession, batch_id: UUID, *, owner: str | None = None) -> BatchView:
    """Return a batch.

    Raises:
        NotFoundError: there is none of that id, or it is not `owner`'s.
    """
    row = (await (await session.connection()).exec_driver_sql(_BATCH, (batch_id, owner))).one_or_none()
    if row is None:
        raise NotFoundError("There is no such batch.")
    values = row._asdict()
    found = values.pop("states") or {}
    return BatchView(**values, states={state: found.get(state.value, 0) for state in State})
