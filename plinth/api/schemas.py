"""Bodies and parameters of the platform's endpoints: the caller and jobs."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field, model_validator

from plinth.http.schemas import PageQuery, ReadModel, Text, WriteModel
from plinth.jobs import State
from plinth.jobs.admin.bulk import MAX_JOBS, Selection
from plinth.jobs.kinds import NAME

__all__ = [
    "AuditQuery",
    "AuditRead",
    "BatchRead",
    "BulkAction",
    "BulkPriority",
    "BulkResult",
    "EngineName",
    "JobProgress",
    "JobQuery",
    "JobRead",
    "JobSelection",
    "JobSummary",
    "Me",
    "OperatorJobRead",
    "OperatorRunError",
    "OperatorStepRead",
    "RunError",
    "ScheduleRun",
    "StepRead",
]

# The name of a kind, a queue or a schedule.
EngineName = Annotated[str, Field(pattern=f"^{NAME}$")]


def _check_time(text: str) -> str:
    # Pydantic takes a number for the seconds since 1970, and a date for its midnight.
    if not re.match(r"\d{4}-\d\d-\d\d[Tt ]", text):
        raise ValueError("expected a time such as 2030-01-31T08:00:00Z")
    return text


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:  # in UTC it is before the year 1 or after 9999
        raise ValueError("out of range") from None


# A time that PostgreSQL can compare with.
Moment = Annotated[AwareDatetime, BeforeValidator(_check_time), AfterValidator(_in_utc)]


class Me(ReadModel):
    """The caller, as the token describes it."""

    subject: str
    issuer: str
    scopes: list[str]
    roles: list[str]
    expires_at: datetime


class JobQuery(PageQuery):
    """The parameters of a list of jobs."""

    state: list[State] = Field(
        default_factory=list, max_length=len(State), description="Jobs in this state; may be given several times."
    )
    kind: EngineName | None = None
    queue: EngineName | None = None
    owner: Annotated[Text, Field(min_length=1, max_length=255)] | None = Field(
        default=None, description="Jobs of this owner. Only operators may name another owner than themselves."
    )
    batch: UUID | None = Field(default=None, description="Members of this batch.")


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
    owner: str | None = Field(
        description="The caller's subject; if the issuer is not the first, a tab and the issuer follow."
    )
    attempt: int = Field(description="Attempts so far, the running one included.")
    max_attempts: int
    created_at: datetime
    run_at: datetime = Field(description="Not before this time.")
    started_at: datetime | None = Field(description="When its last run began.")
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    progress: JobProgress | None = Field(description="As reported by its last run; null if it reported none.")
    error: str | None = Field(description="The error of the last run that failed.")
    batch_id: UUID | None = Field(description="The batch that it is a member of.")


_RESULT = "What the job returned, of the type that its code says. Null: nothing, or it has not succeeded."


class RunError(ReadModel):
    """How a run failed."""

    at: datetime
    run: int = Field(description="The number of the run. A later run has a larger one, not always the next.")
    attempt: int = Field(description="Counts the runs that used up an attempt; a run whose worker was lost does not.")
    outcome: str = Field(description="error, timeout, invalid_payload, discard, crash, interrupted or result.")
    error: str


class OperatorRunError(RunError):
    detail: str
    traceback: str


class JobRead(JobSummary):
    """A job as its owner sees it."""

    errors: list[RunError] = Field(description="The last 50 failed runs, the oldest first.")
    result: Any = Field(description=_RESULT)


class OperatorJobRead(JobSummary):
    """A job as operators see it."""

    errors: list[OperatorRunError]
    result: Any = Field(description=_RESULT)
    payload: Any = Field(description="An object, unless SQL has enqueued something else. `…`: nested too deeply.")
    worker: str | None = Field(description="The name of the worker that runs it.")
    unique_key: str | None
    limit_key: str = Field(description="The key of its kind's limit; empty if it has none.")
    crash_count: int = Field(description="How many workers were lost while they ran it.")
    run_lease: int = Field(description="The number of its last run. No count: lost workers and retries raise it too.")


class BatchRead(ReadModel):
    """A batch of jobs, and how far it is."""

    id: UUID
    owner: str | None = Field(description="As of a job.")
    parent_id: UUID | None = Field(description="The job that waits for it: its members are that job's children.")
    on_end_job_id: UUID | None = Field(description="The job that is enqueued when the batch ends.")
    created_at: datetime
    finished_at: datetime | None = Field(description="When its last member had ended.")
    total: int = Field(description="The members that there are so far.")
    live: int = Field(description="Of these, those that have not ended.")
    states: dict[State, int] = Field(
        description="How many members are in each state; once the batch has ended, how many had ended so then."
    )


class StepRead(ReadModel):
    """A step of a job as its owner sees it."""

    name: str
    kind: str = Field(description="step, sleep or event.")
    state: str = Field(description="waiting, done, failed or timed_out.")
    started_at: datetime
    due_at: datetime | None = Field(description="When a sleep or a wait ends.")
    finished_at: datetime | None


class OperatorStepRead(StepRead):
    """A step as operators see it."""

    event: str | None = Field(description="The event that it waits for.")
    result: Any = Field(description="What the step gave, or the event's payload.")
    error: str | None


def _optional(**constraints: Any) -> Any:
    """A field that may be left out, and is not null."""
    return Field(default=None, json_schema_extra=lambda schema: schema.pop("default", None), **constraints)  # type: ignore[arg-type]


_NARROWED = ("ids", "kind", "queue", "owner", "states", "batch")


class JobSelection(WriteModel):
    """The jobs that have all of this: one or more of `ids`, `kind`, `queue`, `owner`, `states` and `batch`."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": [name]} for name in _NARROWED]})

    ids: list[UUID] = _optional(min_length=1, max_length=MAX_JOBS)
    kind: EngineName = _optional(examples=["send_mail"])
    queue: EngineName = _optional(examples=["default"])
    owner: Annotated[Text, Field(min_length=1, max_length=255)] = _optional(examples=["alice"])
    states: list[State] = _optional(min_length=1, max_length=len(State))
    batch: UUID = _optional(description="Members of this batch.")
    limit: int = Field(default=1000, ge=1, le=MAX_JOBS, description="At most so many jobs, the oldest first.")
    dry_run: bool = Field(default=False, description="Only say how many jobs it would be.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(self.selection):
            raise ValueError("say which jobs: by ids, kind, queue, owner, states or batch")
        return self

    @property
    def selection(self) -> Selection:
        """The same for `plinth.jobs.admin.bulk`."""
        return Selection(self.kind, self.queue, self.owner, self.states or (), self.ids or (), self.batch)


class BulkAction(JobSelection):
    """What to do with the jobs.

    cancel: waiting jobs end, running ones are told to. delete: waiting and ended jobs. run_now: those that wait for
    their time.
    """

    action: Literal["cancel", "delete", "run_now"]


class BulkPriority(JobSelection):
    """The priority to set for the jobs that wait."""

    action: Literal["prioritise"]
    priority: int = Field(ge=-32768, le=32767, description="Smaller numbers go first.")


class BulkResult(ReadModel):
    count: int
    dry_run: bool


class ScheduleRun(ReadModel):
    job_id: UUID


class AuditQuery(PageQuery):
    """The parameters of the list of audit records."""

    actor: Annotated[Text, Field(min_length=1, max_length=255)] | None = Field(
        default=None, description="Acts of this subject."
    )
    action: Annotated[Text, Field(min_length=1, max_length=50)] | None = Field(
        default=None, description="Acts of this kind, such as `queue.pause`."
    )
    target: Annotated[Text, Field(min_length=1, max_length=255)] | None = Field(
        default=None, description="Acts on this thing, such as `queue:mail`."
    )
    since: Moment | None = Field(default=None, description="Acts since this time.")


class AuditRead(ReadModel):
    """An act of an operator."""

    id: UUID
    at: datetime
    issuer: str = Field(description="The issuer of the actor's token; `plinth:cli` for a command.")
    subject: str = Field(description="The subject of the actor's token; `cli:user@host` for a command.")
    action: str = Field(description="A thing and a verb, such as `queue.pause`.")
    target: str = Field(description="The kind of the thing and its id, such as `queue:mail`.")
    detail: dict[str, Any]
    request_id: str | None = Field(description="The id of the request; null for a command.")
