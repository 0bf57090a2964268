"""Dead letters, queues, workers and schedules, for operators.

Functions over a session, in its transaction. What `by` does is recorded in the audit log.
"""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.audit import Actor, record
from plinth.errors import NotFoundError
from plinth.http.schemas import ReadModel
from plinth.jobs.admin.sql import (
    COUNT_DEAD_LETTERS,
    MAX_COUNTED,
    PAUSE_QUEUE,
    PAUSE_SCHEDULE,
    QUEUE_COUNTS,
    RESUME_QUEUE,
    RESUME_SCHEDULE,
    RETRY_DEAD_LETTERS,
    SCHEDULES,
    WORKERS,
)
from plinth.jobs.doorbell import ring_after_commit
from plinth.jobs.enqueue import EnqueuedJob, enqueue
from plinth.jobs.kinds import check_name
from plinth.jobs.schedules import schedules

__all__ = [
    "QueueRead",
    "ScheduleRead",
    "WorkerRead",
    "count_queues",
    "list_schedules",
    "list_workers",
    "pause_queue",
    "pause_schedule",
    "resume_queue",
    "resume_schedule",
    "retry_dead_letters",
    "run_schedule",
]


class QueueRead(ReadModel):
    """A queue. Each number is a lower bound: counting stops at a limit."""

    name: str
    paused: bool
    available: int
    scheduled: int
    retryable: int
    running: int
    oldest_due_age: float | None = Field(
        description="For how many seconds its oldest job has been due; null: none is due."
    )

    @property
    def at_least(self) -> set[str]:
        """The states of which there may be more jobs than were counted."""
        found = {state for state in ("available", "running") if getattr(self, state) >= MAX_COUNTED}
        if self.scheduled + self.retryable >= MAX_COUNTED:  # they are counted together
            found |= {"scheduled", "retryable"}
        return found


class WorkerRead(ReadModel):
    """A worker session. A lost one expired without being closed; it is shown for an hour."""

    id: UUID
    name: str
    version: str
    queues: list[str]
    kinds: list[str]
    concurrency: int
    started_at: datetime
    renewed_at: datetime = Field(description="When it last renewed its session.")
    running: int
    status: Literal["alive", "stopping", "lost"]


class ScheduleRead(ReadModel):
    """A schedule that a worker has declared."""

    name: str
    kind: str
    cron: str
    timezone: str
    last_slot: datetime = Field(description="The last slot that made a job or was skipped.")
    next_slot: datetime | None = Field(description="Null while it is paused, or if this version does not have it.")
    paused_at: datetime | None
    declared_at: datetime


async def retry_dead_letters(
    session: AsyncSession,
    *,
    by: Actor,
    kind: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 1000,
    dry_run: bool = False,
) -> int:
    """Retry discarded jobs, the oldest first, that ended from `since` to before `until`; return how many.

    Jobs whose unique key a live job has are skipped. `dry_run`: only count.
    """
    connection = await session.connection()
    arguments = (kind, since, until, limit)
    if dry_run:
        return int((await connection.exec_driver_sql(COUNT_DEAD_LETTERS, arguments)).scalar_one())
    queues = (await connection.exec_driver_sql(RETRY_DEAD_LETTERS, arguments)).scalars().all()
    ring_after_commit(session, queues=set(queues))
    asked = {"kind": kind, "since": since and since.isoformat(), "until": until and until.isoformat(), "limit": limit}
    await record(session, by, "dead_letters.retry", "dead_letters", **asked, count=len(queues))
    return len(queues)


async def count_queues(session: AsyncSession) -> list[QueueRead]:
    """List every queue that holds a job or is paused.

    Counting stops at 10,000 available and 10,000 running jobs of a queue, and at 10,000 scheduled and retryable jobs of
    a queue and priority. Beyond that a count means "at least", so that a backlog of millions does not make it slow.
    """
    result = await (await session.connection()).exec_driver_sql(QUEUE_COUNTS)
    return [QueueRead.model_validate(row) for row in result]


async def pause_queue(session: AsyncSession, name: str, *, by: Actor) -> None:
    """Pause a queue: no worker claims its jobs until it is resumed. Running jobs go on; jobs can be enqueued.

    Raises:
        ValueError: the name is invalid.
    """
    check_name(name)
    await (await session.connection()).exec_driver_sql(PAUSE_QUEUE, (name,))
    await record(session, by, "queue.pause", f"queue:{name}")


async def resume_queue(session: AsyncSession, name: str, *, by: Actor) -> None:
    """Resume a paused queue; errors as for `pause_queue`."""
    check_name(name)
    await (await session.connection()).exec_driver_sql(RESUME_QUEUE, (name,))
    await record(session, by, "queue.resume", f"queue:{name}")
    ring_after_commit(session, queues=[name])


async def list_workers(session: AsyncSession) -> list[WorkerRead]:
    """List the live workers, and those lost within the last hour."""
    result = await (await session.connection()).exec_driver_sql(WORKERS)
    return [WorkerRead.model_validate(row) for row in result]


async def list_schedules(session: AsyncSession) -> list[ScheduleRead]:
    """List every schedule that a worker has declared, also those of earlier versions of the code."""
    result = await (await session.connection()).exec_driver_sql(SCHEDULES)
    declared = schedules()
    views = []
    for row in result:
        follows = row.paused_at is None and row.name in declared
        next_slot = declared[row.name].next_slot(row.now) if follows else None
        views.append(ScheduleRead.model_validate({**row._asdict(), "next_slot": next_slot}))
    return views


async def pause_schedule(session: AsyncSession, name: str, *, by: Actor) -> None:
    """Pause a schedule: its slots are skipped.

    Raises:
        NotFoundError: no worker has declared such a schedule.
    """
    await _change(session, PAUSE_SCHEDULE, name)
    await record(session, by, "schedule.pause", f"schedule:{name}")


async def resume_schedule(session: AsyncSession, name: str, *, by: Actor) -> None:
    """Resume a schedule from now on; missed slots stay skipped. Errors as for `pause_schedule`."""
    await _change(session, RESUME_SCHEDULE, name)
    await record(session, by, "schedule.resume", f"schedule:{name}")


async def _change(session: AsyncSession, statement: str, name: str) -> None:
    if (await (await session.connection()).exec_driver_sql(statement, (name,))).first() is None:
        raise NotFoundError("There is no such schedule.")


async def run_schedule(session: AsyncSession, name: str, *, by: Actor) -> EnqueuedJob:
    """Enqueue a schedule's job now, in addition to its slots, also while it is paused.

    Raises:
        NotFoundError: this process declares no such schedule.
    """
    schedule = schedules().get(name)
    if schedule is None:
        raise NotFoundError("There is no such schedule.")
    made = await enqueue(session, schedule.kind, schedule.payload)
    await record(session, by, "schedule.run", f"schedule:{name}", job=str(made.id))
    return made
