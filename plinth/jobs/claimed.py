"""A claimed job, and the progress that its run reports."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

__all__ = ["ClaimedJob", "Progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    done: int
    total: int | None
    message: str | None


class ClaimedJob(NamedTuple):
    """A job claimed by this worker. `lease` is the number of the run, `attempt` the number of the attempt.

    `trace_context`: the W3C headers of the trace it was enqueued in; `suspect`: two workers were lost that ran it;
    `unreadable`: so many workers could not read its payload; `slot_at`: the slot of its schedule, if it has one;
    `batch_id`: the batch that it is a member of.
    """

    id: UUID
    lease: int
    kind: str
    queue: str
    priority: int
    owner: str | None
    payload: str
    attempt: int
    max_attempts: int
    run_at: datetime
    started_at: datetime
    trace_context: dict[str, str] | None = None
    suspect: bool = False
    unreadable: int = 0
    slot_at: datetime | None = None
    batch_id: UUID | None = None
