"""Acts on many jobs at once: retry, cancel, delete, run now, set the priority. For operators.

Functions over a session, in its transaction. What `by` does is recorded in the audit log, with how many it was.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.audit import Actor, record
from plinth.database.uuid7 import first_uuid7
from plinth.jobs.admin.bulk_sql import (
    CANCEL_MANY,
    COUNT_MANY,
    COUNT_RETRY_MANY,
    DELETE_MANY,
    PRIORITISE_MANY,
    RETRY_MANY,
    RUN_NOW_MANY,
)
from plinth.jobs.batch_end import end_batches
from plinth.jobs.doorbell import ring_after_commit
from plinth.jobs.engine.batches import cancel_children
from plinth.jobs.outcome import State
from plinth.telemetry.redaction import redact_text

__all__ = ["MAX_JOBS", "Action", "Selection", "act_on_many"]

MAX_JOBS = 10_000  # in one transaction
# In the audit log: ids, and characters of the text in an error.
MAX_NAMED = 100
MAX_SAID = 100

Action = Literal["cancel", "delete", "run_now", "prioritise", "retry"]


class Selection(NamedTuple):
    """Which jobs to act on: those that match every field. A field that is None or empty matches every job.

    `since` and `until` bound when they were made. `error` is a part of what an error of theirs says or, in double
    quotes, the whole of the last one or its SHA-256 digest: `"sha256:…"`.
    """

    kind: str | None = None
    queue: str | None = None
    owner: str | None = None
    states: Sequence[State] = ()
    ids: Sequence[UUID] = ()
    batch: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    error: str | None = None

    @property
    def bounds(self) -> tuple[UUID | None, UUID | None]:
        """`since` and `until` as ids, which carry the time they were made at."""
        since, until = (None if at is None else first_uuid7(at) for at in (self.since, self.until))
        return since, until


# The states of the jobs that an action is for: it passes over all others.
STATES: dict[Action, tuple[State, ...]] = {
    "cancel": (State.SCHEDULED, State.AVAILABLE, State.RETRYABLE, State.RUNNING),
    "delete": tuple(state for state in State if state is not State.RUNNING),
    "run_now": (State.SCHEDULED, State.RETRYABLE),
    "prioritise": (State.SCHEDULED, State.AVAILABLE, State.RETRYABLE),
    "retry": (State.CANCELLED, State.DISCARDED),
}

_STATEMENTS: dict[Action, str] = {
    "cancel": CANCEL_MANY,
    "delete": DELETE_MANY,
    "run_now": RUN_NOW_MANY,
    "prioritise": PRIORITISE_MANY,
    "retry": RETRY_MANY,
}


async def act_on_many(
    session: AsyncSession,
    action: Action,
    selection: Selection,
    *,
    by: Actor,
    priority: int | None = None,
    limit: int = 1000,
    dry_run: bool = False,
) -> int:
    """Act on the selected jobs, the oldest first, `limit` at most; return how many.

    Cancel: waiting jobs end, running ones are told to. Delete: waiting and ended jobs with their steps, and no running
    one. Both cancel the children that the jobs wait for. Run now: jobs that wait for their time. Prioritise: jobs that
    wait, to `priority`. Retry: cancelled and discarded jobs, unless a live job has their unique key. Jobs that another
    transaction has locked are passed over. `dry_run`: only count.

    Raises:
        ValueError: nothing is selected, the limit is not 1 to `MAX_JOBS`, or the priority is not there or out of range.
    """
    if not any(selection):
        raise ValueError("say which jobs: by id, kind, queue, owner, state, batch, time or error")
    if not 1 <= limit <= MAX_JOBS:
        raise ValueError(f"the limit is 1 to {MAX_JOBS}")
    if (action == "prioritise") != (priority is not None) or not -32768 <= (priority or 0) <= 32767:
        raise ValueError("to prioritise takes a priority of -32768 to 32767, and nothing else does")
    states = [state for state in STATES[action] if not selection.states or state in selection.states]
    ids = list(selection.ids) or None
    chosen = (selection.kind, selection.queue, selection.owner, limit, ids, selection.batch)
    narrowed = (*selection.bounds, selection.error)
    arguments: tuple[object, ...] = ([state.value for state in states], *chosen, *narrowed)
    connection = await session.connection()
    if dry_run:
        count = COUNT_RETRY_MANY if action == "retry" else COUNT_MANY
        return int((await connection.exec_driver_sql(count, arguments)).scalar_one())
    if priority is not None:
        arguments = (*arguments, priority)
    jobs = (await connection.exec_driver_sql(_STATEMENTS[action], arguments)).all()
    ring_after_commit(session, queues={job.queue for job in jobs}, cancelled=[job.id for job in jobs if job.running])
    if action in ("cancel", "delete"):
        await cancel_children(session, [job.id for job in jobs])
        await end_batches(session, {job.batch_id for job in jobs if job.batch_id is not None})
    ids_named = [*map(str, selection.ids[:MAX_NAMED])]
    asked = selection._asdict() | {"states": list(selection.states), "ids": ids_named}
    asked |= {name: asked[name] and str(asked[name]) for name in ("batch", "since", "until")}
    asked |= {"error": selection.error and redact_text(selection.error)[:MAX_SAID]}
    asked |= {"priority": priority, "limit": limit}
    await record(session, by, f"jobs.{action}", "jobs", **asked, count=len(jobs))
    return len(jobs)
