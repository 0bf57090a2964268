"""Bodies and parameters of jobs, and of what operators do with queues, workers and schedules."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from plinth.http.schemas import PageQuery, ReadModel, Text
from plinth.jobs import State

__all__ = [
    "EngineName",
    "JobProgress",
    "JobQuery",
    "JobRead",
    "JobSummary",
    "OperatorJobRead",
    "OperatorRunError",
    "QueueRead",
    "RunError",
    "ScheduleRead",
    "ScheduleRun",
    "WorkerRead",
]

# Of a kind, a queue or a schedule; as `plinth.jobs.kinds.check_name` has it.
EngineName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$")]


class JobQuery(PageQuery):
    """The parameters of a list of jobs."""

    state: list[State] = Field(
        default_factory=list, max_length=len(State), description="Jobs in this state; may be given several times."
    )
    kind: EngineName | None = None
    queue: EngineName | None = None
    owner: Annotated[Text, Field(min_length=1, max_length=255)] | None = Field(
        default=None, description="Jobs of this owner. Other owners than oneself are for operators."
    )


class JobProgress(ReadModel):
    done: int
    total: int | None
    message: str | None


class JobSummary(ReadModel):
    """A job in a list, and in each event of its stream."""

    id: UUID
    kind: str
    queue: str
    state: State
    priority: int = Field(description="Smaller numbers go first.")
    owner: str | None
    attempt: int = Field(description="Attempts so far, the running one included.")
    max_attempts: int
    created_at: datetime
    run_at: datetime = Field(description="Not before this time.")
    started_at: datetime | None = Field(description="When its last run began.")
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    progress: JobProgress | None = Field(description="What its last run has said; null if nothing.")
    error: str | None = Field(description="How the last run that failed has failed.")


class RunError(ReadModel):
    """How a run failed."""

    at: datetime
    run: int = Field(description="Counts all runs.")
    attempt: int = Field(description="Counts the runs that spent an attempt: one whose worker was lost does not.")
    outcome: str = Field(description="error, timeout, invalid_payload, discard, crash or cancelled.")
    error: str


class OperatorRunError(RunError):
    detail: str
    traceback: str


class JobRead(JobSummary):
    """A job, as its owner sees it."""

    errors: list[RunError] = Field(description="The runs that failed, the oldest first; the last 50.")


class OperatorJobRead(JobSummary):
    """A job, as operators see it."""

    errors: list[OperatorRunError]
    payload: dict[str, Any]
    worker: str | None = Field(description="Who runs it.")
    unique_key: str | None
    crash_count: int = Field(description="Workers that were lost while they ran it.")
    run_lease: int = Field(description="Counts all runs.")


class QueueRead(ReadModel):
    """A queue. Each figure means at least so many: counting stops somewhere."""

    name: str
    paused: bool
    available: int
    scheduled: int
    retryable: int
    running: int
    oldest_due_age: float | None = Field(description="For how many seconds its oldest job could run; null: none could.")


class WorkerRead(ReadModel):
    id: UUID
    name: str
    version: str
    queues: list[str]
    kinds: list[str]
    concurrency: int
    started_at: datetime
    renewed_at: datetime = Field(description="When it was last heard of.")
    running: int
    status: Literal["alive", "stopping", "lost"]


class ScheduleRead(ReadModel):
    name: str
    kind: str
    cron: str
    timezone: str
    last_slot: datetime = Field(description="The last slot that was turned into a job, or passed over.")
    next_slot: datetime | None = Field(description="Null while it is paused, or if this version does not have it.")
    paused_at: datetime | None
    declared_at: datetime


class ScheduleRun(ReadModel):
    job_id: UUID
