"""Durable jobs: the hot table, the history, and what workers and operators say of them.

`job` holds what is still to be done, so it stays small whatever has been done before; a job that has ended moves to
`job_history` in the statement that ends it. Jobs are written by the statements of `plinth.jobs` alone; a service reads
them through the view `job_status`.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import DDL, JSON, BigInteger, CheckConstraint, Index, SmallInteger, String, Text, event, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field

from plinth.database.tables import PlatformTable, UtcDateTime
from plinth.database.uuid7 import uuid7
from plinth.jobs.sql_interface import CREATE_ENQUEUE, CREATE_JOB_STATUS

# SQLite, used in unit tests only, has neither.
_Json: Any = JSONB().with_variant(JSON(), "sqlite")
_Names: Any = ARRAY(String(100)).with_variant(JSON(), "sqlite")

_OWNED = text("owner IS NOT NULL")
_FAILED = text("state <> 'succeeded'")
_IN_BATCH = text("batch_id IS NOT NULL")
_WAITING_OWNED = text("state = 'available' AND owner IS NOT NULL AND limit_key = ''")

CLAIM_ORDER = ("queue", "kind", "limit_key", "priority", "run_at", "id")

# For rows from elsewhere, such as triggers: what no worker could read.
CHECKS = {
    "run_at": "run_at >= '1900-01-01 UTC' AND run_at < '10000-01-01 UTC'",
    "errors": "jsonb_typeof(errors) = 'array'",
    "max_attempts": "max_attempts >= 1",
    "trace_context": (
        "trace_context IS NULL OR COALESCE(jsonb_typeof(trace_context -> 'traceparent') = 'string', false)"
    ),
}

# Every row of the hot table is written two or three times and then deleted. Free room in each page keeps new versions
# near (HOT updates), and autovacuum runs by number of dead rows: a share of the table would let too many pile up.
HOT_TABLE = {
    "fillfactor": 70,
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 2000,
    "autovacuum_vacuum_cost_delay": 0,
    "autovacuum_analyze_scale_factor": 0,
    "autovacuum_analyze_threshold": 5000,
}


class _JobColumns(PlatformTable):
    """The columns that `job` and `job_history` share, in this order."""

    id: UUID = Field(default=None, primary_key=True, sa_column_kwargs={"server_default": uuid7()})
    kind: str = Field(sa_type=String(100))
    queue: str = Field(sa_type=String(100))
    priority: int = Field(sa_type=SmallInteger)
    # The `owner` of the principal it was made for, if any.
    owner: str | None = Field(default=None, nullable=True, sa_type=String(255))
    payload: dict[str, Any] = Field(sa_type=_Json)
    unique_key: str | None = Field(default=None, nullable=True, sa_type=String(255))
    max_attempts: int = Field(sa_type=SmallInteger)
    # Attempts that count: a run that was released, or lost with its worker, does not.
    attempt: int = Field(default=0, sa_type=SmallInteger, sa_column_kwargs={"server_default": "0"})
    crash_count: int = Field(default=0, sa_type=SmallInteger, sa_column_kwargs={"server_default": "0"})
    # The number of the run, which fences every write: a run with an older number has been replaced. It is no count of
    # runs: a release, a lost worker and a retry raise it too.
    run_lease: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": "0"})
    created_at: datetime = Field(
        default=None, nullable=False, sa_type=UtcDateTime, sa_column_kwargs={"server_default": func.now()}
    )
    run_at: datetime = Field(sa_type=UtcDateTime)
    started_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)
    progress_done: int | None = Field(default=None, nullable=True, sa_type=BigInteger)
    progress_total: int | None = Field(default=None, nullable=True, sa_type=BigInteger)
    progress_message: str | None = Field(default=None, nullable=True, sa_type=Text)
    # One entry for each failed run, the oldest first. See `plinth.jobs.outcome.ErrorEntry`.
    errors: list[Any] = Field(default_factory=list, sa_type=_Json, sa_column_kwargs={"server_default": "[]"})
    # The trace it was enqueued in, as W3C headers: `traceparent` and, if there was one, `tracestate`.
    trace_context: dict[str, str] | None = Field(default=None, nullable=True, sa_type=_Json)
    # The slot of the schedule that it was made for, if any.
    slot_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)
    # The key of its kind's limit; empty: it has no limit.
    limit_key: str = Field(default="", sa_type=String(255), sa_column_kwargs={"server_default": ""})
    # The claim frees its unique key.
    unique_while_waiting: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    # The batch that it is a member of, if any. No foreign key: it would lock the batch's row for each member.
    batch_id: UUID | None = Field(default=None, nullable=True)


class Job(_JobColumns, table=True):
    """A live job: waiting or running."""

    __tablename__ = "job"
    __table_args__ = (
        # For the claim: by queue, kind and key in order of priority and due time.
        Index("ix_job_claim", *CLAIM_ORDER, postgresql_where=text("state = 'available'")),
        # For the sweep: the due ones of each queue and priority.
        Index(
            "ix_job_due", "queue", "priority", "run_at", postgresql_where=text("state IN ('scheduled', 'retryable')")
        ),
        # For the claim in turn: by owner.
        Index("ix_job_turn", "owner", "priority", "run_at", "id", postgresql_where=_WAITING_OWNED),
        Index("ix_job_running", "session_id", postgresql_where=text("state = 'running'")),
        # For limits: the running ones of each key.
        Index("ix_job_running_key", "kind", "limit_key", postgresql_where=text("state = 'running' AND limit_key > ''")),
        Index(
            "uq_job_kind_unique_key",
            "kind",
            "unique_key",
            unique=True,
            postgresql_where=text("unique_key IS NOT NULL"),
        ),
        Index("ix_job_owner_id", "owner", "id", postgresql_where=_OWNED),
        Index("ix_job_batch_id", "batch_id", "id", postgresql_where=_IN_BATCH),
        *(CheckConstraint(check, name).ddl_if("postgresql") for name, check in CHECKS.items()),
        {"postgresql_with": HOT_TABLE},
    )

    state: str = Field(sa_type=String(20))
    # The worker session. No foreign key: it would lock the session's row for each of its jobs.
    session_id: UUID | None = Field(default=None, nullable=True)
    # After this a run counts as hung, even if its worker is alive.
    deadline_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)
    cancel_requested_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)


class JobHistory(_JobColumns, table=True):
    """An ended job. Discarded ones are the dead letters, which can be retried."""

    __tablename__ = "job_history"
    __table_args__ = (
        # For the pruning: the oldest of each state and kind.
        Index("ix_job_history_prune", "state", "kind", "finished_at"),
        # For the dead letters: how many, and those of a time.
        Index("ix_job_history_dead", "finished_at", postgresql_where=text("state = 'discarded'")),
        # Lists of those that failed, which may stand behind millions that did not.
        Index("ix_job_history_failed", "state", "id", postgresql_where=_FAILED),
        Index("ix_job_history_failed_kind", "state", "kind", "id", postgresql_where=_FAILED),
        Index("ix_job_history_owner_id", "owner", "id", postgresql_where=_OWNED),
        Index("ix_job_history_kind_id", "kind", "id"),
        Index("ix_job_history_queue_id", "queue", "id"),
        # With the state, so that the ends of a large batch are counted in the index alone.
        Index(
            "ix_job_history_batch_id",
            "batch_id",
            "id",
            postgresql_include=["state"],
            postgresql_where=_IN_BATCH,
        ),
        # Rows are inserted at the end and pruned at the beginning: vacuum early.
        {"postgresql_with": {"autovacuum_vacuum_scale_factor": 0.02, "autovacuum_vacuum_insert_scale_factor": 0.05}},
    )

    state: str = Field(sa_type=String(20))
    finished_at: datetime = Field(sa_type=UtcDateTime)
    # What the handler returned.
    result: Any = Field(default=None, nullable=True, sa_type=_Json)


class JobKeyHold(PlatformTable, table=True):
    """A unique key that is held longer than its job lives; `plinth.jobs.unique` says until when."""

    __tablename__ = "job_key_hold"
    __table_args__ = (
        Index("ix_job_key_hold_job_id", "job_id"),
        Index("ix_job_key_hold_free_at", "free_at", postgresql_where=text("NOT until_success")),
    )

    kind: str = Field(primary_key=True, sa_type=String(100))
    key: str = Field(primary_key=True, sa_type=String(255))
    # The last job that was enqueued with the key. No foreign key: it moves to the history.
    job_id: UUID
    free_at: datetime = Field(sa_type=UtcDateTime)
    # Held beyond that time while the job has not succeeded.
    until_success: bool


class JobBatch(PlatformTable, table=True):
    """Jobs that were enqueued together, and what is enqueued when none of them is live any more."""

    __tablename__ = "job_batch"
    __table_args__ = (
        # The open ones are at its end.
        Index("ix_job_batch_finished_at_id", "finished_at", "id"),
        Index("ix_job_batch_parent_id", "parent_id", postgresql_where=text("finished_at IS NULL")),
        Index("ix_job_batch_on_end_id", "on_end_id", postgresql_where=text("on_end_id IS NOT NULL")),
    )

    id: UUID = Field(primary_key=True)
    owner: str | None = Field(default=None, nullable=True, sa_type=String(255))
    # The job that waits for it: its members are that job's children.
    parent_id: UUID | None = Field(default=None, nullable=True)
    # The id of the job that is enqueued at the end, and its kind, queue, priority, max_attempts, payload and
    # trace_context.
    on_end_id: UUID | None = Field(default=None, nullable=True)
    on_end: dict[str, Any] | None = Field(default=None, nullable=True, sa_type=_Json)
    created_at: datetime = Field(sa_type=UtcDateTime, sa_column_kwargs={"server_default": func.now()})
    finished_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)
    # How many members ended so, counted when the batch ended.
    succeeded: int | None = Field(default=None, nullable=True)
    cancelled: int | None = Field(default=None, nullable=True)
    discarded: int | None = Field(default=None, nullable=True)


class JobStep(PlatformTable, table=True):
    """A step of a job: what it has done, or what it waits for. It is deleted with the job."""

    __tablename__ = "job_step"
    __table_args__ = (Index("ix_job_step_event", "event", postgresql_where=text("state = 'waiting'")),)

    # No foreign key: the job moves to the history.
    job_id: UUID = Field(primary_key=True)
    name: str = Field(primary_key=True, sa_type=String(255))
    kind: str = Field(sa_type=String(20))  # step, sleep, event
    state: str = Field(sa_type=String(20))  # waiting, done, failed, timed_out
    result: Any = Field(default=None, nullable=True, sa_type=_Json)
    error: str | None = Field(default=None, nullable=True, sa_type=Text)
    # The event that it waits for.
    event: str | None = Field(default=None, nullable=True, sa_type=String(255))
    # When the sleep or the wait ends.
    due_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)
    started_at: datetime = Field(sa_type=UtcDateTime, sa_column_kwargs={"server_default": func.now()})
    finished_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)


class JobStart(PlatformTable, table=True):
    """How many jobs with a key started at a time, for limits of starts."""

    __tablename__ = "job_start"
    __table_args__ = (Index("ix_job_start_at", "at"),)

    kind: str = Field(primary_key=True, sa_type=String(100))
    limit_key: str = Field(primary_key=True, sa_type=String(255))
    at: datetime = Field(primary_key=True, sa_type=UtcDateTime)
    starts: int


class JobEvent(PlatformTable, table=True):
    """An event that was emitted. The first of a name is kept."""

    __tablename__ = "job_event"
    __table_args__ = (Index("ix_job_event_emitted_at", "emitted_at"),)

    name: str = Field(primary_key=True, sa_type=String(255))
    payload: Any = Field(default=None, nullable=True, sa_type=_Json)
    emitted_at: datetime = Field(sa_type=UtcDateTime, sa_column_kwargs={"server_default": func.now()})


for _statement in (CREATE_JOB_STATUS, CREATE_ENQUEUE):
    _create = DDL(_statement.replace("%", "%%"))  # type: ignore[no-untyped-call]
    event.listen(PlatformTable.metadata, "after_create", _create.execute_if(dialect="postgresql"))


class WorkerSession(PlatformTable, table=True):
    """A worker session: one run of a worker process. Its heartbeat moves `expires_at` on."""

    __tablename__ = "worker_session"

    id: UUID = Field(default=None, primary_key=True, sa_column_kwargs={"server_default": uuid7()})
    name: str = Field(sa_type=String(255))
    version: str = Field(sa_type=String(100))
    queues: list[str] = Field(sa_type=_Names)
    kinds: list[str] = Field(sa_type=_Names)
    concurrency: int
    started_at: datetime = Field(sa_type=UtcDateTime, sa_column_kwargs={"server_default": func.now()})
    renewed_at: datetime = Field(sa_type=UtcDateTime, sa_column_kwargs={"server_default": func.now()})
    expires_at: datetime = Field(sa_type=UtcDateTime)
    stopping: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})


class JobQueue(PlatformTable, table=True):
    """A paused queue. Queues without a row are served."""

    __tablename__ = "job_queue"

    name: str = Field(primary_key=True, sa_type=String(100))
    paused_at: datetime = Field(sa_type=UtcDateTime, sa_column_kwargs={"server_default": func.now()})


class JobSchedule(PlatformTable, table=True):
    """A declared schedule and its last slot."""

    __tablename__ = "job_schedule"

    name: str = Field(primary_key=True, sa_type=String(100))
    kind: str = Field(sa_type=String(100))
    cron: str = Field(sa_type=String(100))
    timezone: str = Field(sa_type=String(100))
    # The last slot that was enqueued or skipped. A worker takes a slot by moving it on.
    last_slot: datetime = Field(sa_type=UtcDateTime, sa_column_kwargs={"server_default": func.now()})
    paused_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)
    declared_at: datetime = Field(sa_type=UtcDateTime, sa_column_kwargs={"server_default": func.now()})
    # When a worker came that does not declare it any more.
    retired_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)


class Duty(PlatformTable, table=True):
    """A duty that one process of the fleet performs for all while it renews `expires_at`."""

    __tablename__ = "duty"

    name: str = Field(primary_key=True, sa_type=String(100))
    holder: UUID
    expires_at: datetime = Field(sa_type=UtcDateTime)
