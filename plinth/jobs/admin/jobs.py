"""Lists, shows, cancels and retries jobs, for owners and operators.

Functions over a session, in its transaction. `owner`: only that owner's jobs exist; None means an operator:
all exist. `by`: what acts; as an operator, on a job that is not its own, the act is recorded in the audit log.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

from sqlalchemy import DateTime, Row, Select, String, Text, cast, func, literal_column, null, select, text, union_all
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.audit import Actor, record
from plinth.errors import ConflictError, NotFoundError
from plinth.jobs.admin.payloads import read_payload
from plinth.jobs.admin.sql import ERROR_HAS, RETRY_ENDED
from plinth.jobs.batch_end import end_batches
from plinth.jobs.claimed import Progress
from plinth.jobs.doorbell import ring_after_commit
from plinth.jobs.engine.batches import cancel_children
from plinth.jobs.engine.sql import CANCEL_RUNNING, CANCEL_WAITING
from plinth.jobs.enqueue import EnqueuedJob, Insertion
from plinth.jobs.kinds import kinds
from plinth.jobs.outcome import ErrorEntry, State
from plinth.jobs.owner_limit import make_room
from plinth.jobs.tables import Job, JobHistory, WorkerSession

__all__ = [
    "JobFilters",
    "JobView",
    "end_of_search",
    "enqueue_by_hand",
    "get_job",
    "list_jobs",
    "request_cancel",
    "retry_job",
    "summaries",
]


@dataclass(frozen=True, slots=True)
class JobView:
    """A snapshot of a job, live or ended.

    `finished_at` is set once it has ended, `cancel_requested_at` and `worker` (its name) only while it is alive.
    `payload`: a dictionary, unless SQL has enqueued something else. `result`: what its handler returned.
    `trace_context`: the trace that it was enqueued in, as W3C headers.
    """

    id: UUID
    kind: str
    queue: str
    state: State
    priority: int
    owner: str | None
    payload: Any
    attempt: int
    max_attempts: int
    crash_count: int
    run_lease: int
    created_at: datetime
    run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    progress_done: int | None
    progress_total: int | None
    progress_message: str | None
    errors: list[ErrorEntry]
    worker: str | None
    unique_key: str | None
    limit_key: str
    batch_id: UUID | None
    trace_context: dict[str, str] | None
    result: Any

    @property
    def progress(self) -> Progress | None:
        """The last progress report, if there is one."""
        if self.progress_done is None:
            return None
        return Progress(self.progress_done, self.progress_total, self.progress_message)

    @property
    def error(self) -> str | None:
        """The error of the last failed run, as its owner may see it."""
        return self.errors[-1]["error"] if self.errors else None

    def summary(self) -> "JobView":
        """The same without its payload and its result, and with its last error only."""
        return replace(self, payload={}, errors=self.errors[-1:], result=None)


async def get_job(session: AsyncSession, job_id: UUID, *, owner: str | None = None) -> JobView:
    """Return a job, live or ended.

    Raises:
        NotFoundError: there is none of that id, or it is not `owner`'s.
    """
    # One statement, so one snapshot: a job that ends meanwhile is in one table or the other.
    branches = [_select(table).where(table.id == job_id, *_owned(table, owner)) for table in _TABLES]
    row = (await (await session.connection()).execute(union_all(*branches))).first()
    if row is None:
        raise NotFoundError("There is no such job.")
    return _view(row)


async def summaries(session: AsyncSession, ids: Sequence[UUID]) -> list[JobView]:
    """Return the summaries of those jobs that exist."""
    branches = [_select(table, errors=_last_error(table), **_WITHOUT).where(table.id.in_(ids)) for table in _TABLES]
    return [_view(row) for row in await (await session.connection()).execute(union_all(*branches))]


class JobFilters(TypedDict, total=False):
    """What narrows a list of jobs. Ids carry the time they were made at: `first` is the oldest that is listed."""

    owner: str | None
    states: Sequence[State]
    kind: str | None
    queue: str | None
    batch: UUID | None
    first: UUID | None
    before: UUID | None


async def list_jobs(
    session: AsyncSession,
    *,
    limit: int = 50,
    payloads: bool = False,
    error: str | None = None,
    **filters: Unpack[JobFilters],
) -> list[JobView]:
    """List jobs, live or ended, the newest (by id) first, with their last error only.

    Without `payloads`, which may be large, as results are, each has an empty one and no result. `error` is that of
    `plinth.jobs.admin.bulk.Selection`: no index helps to find it, so bound it by `first`, as `search` does.
    """
    without = {} if payloads else _WITHOUT
    said = [] if error is None else [text(ERROR_HAS.format(text=":said")).bindparams(said=error)]
    branches = [
        # Each table by itself, along its index: only rows of the page are read.
        _select(table, errors=_last_error(table), **without)
        .where(*conditions, *said)
        .order_by(table.id.desc())
        .limit(limit)
        for table, conditions in _narrowed(**filters)
    ]
    found = union_all(*branches).subquery()
    page = select(found).order_by(found.c.id.desc()).limit(limit)
    return [_view(row) for row in await (await session.connection()).execute(page)]


async def end_of_search(
    session: AsyncSession, *, jobs: int, error_bytes: int, **filters: Unpack[JobFilters]
) -> tuple[UUID, int] | None:
    """Where a search through the newest jobs ends: the last job's id, and how many they are; None: it reads them all.

    It reads `jobs` jobs, or fewer where their errors, as they are stored, come to `error_bytes` first.
    """
    branches = [
        select(table.id, func.pg_column_size(table.errors).label("size"))
        .where(*conditions)
        .order_by(table.id.desc())
        .limit(jobs)
        for table, conditions in _narrowed(**filters)
    ]
    found = union_all(*branches).subquery()
    newest = found.c.id.desc()
    place = func.row_number().over(order_by=newest).label("place")
    size = func.sum(found.c.size).over(order_by=newest).label("size")
    placed = select(found.c.id, place, size).subquery()
    last = select(placed.c.id, placed.c.place).where((placed.c.place == jobs) | (placed.c.size >= error_bytes))
    row = (await (await session.connection()).execute(last.order_by(placed.c.place).limit(1))).one_or_none()
    return None if row is None else (row.id, row.place)


def _narrowed(
    *,
    owner: str | None = None,
    states: Sequence[State] = (),
    kind: str | None = None,
    queue: str | None = None,
    batch: UUID | None = None,
    first: UUID | None = None,
    before: UUID | None = None,
) -> Iterator[tuple[Any, list[Any]]]:
    """The tables that can hold such jobs, each with its conditions."""
    for table, in_state in _places(states):
        conditions = [*in_state, *_owned(table, owner)]
        for column, value in ((table.kind, kind), (table.queue, queue), (table.batch_id, batch)):
            if value is not None:
                conditions.append(column == value)
        if first is not None:
            conditions.append(table.id >= first)
        if before is not None:
            conditions.append(table.id < before)
        yield table, conditions


def _places(states: Sequence[State]) -> Iterator[tuple[Any, list[Any]]]:
    """The tables that hold jobs of these states, each with its condition on them."""
    if not states:
        yield from ((table, []) for table in _TABLES)
        return
    live, ended = _TABLES
    if wanted := [state.value for state in states if not state.terminal]:
        yield live, [live.state.in_(wanted)]
    # Each by itself and written out: so the planner walks the index of a state by its ids, and does not read on and on
    # for a few dead letters behind a million jobs that succeeded.
    for state in sorted({state for state in states if state.terminal}):
        yield ended, [ended.state == literal_column(f"'{state}'")]


async def request_cancel(
    session: AsyncSession, job_id: UUID, *, owner: str | None = None, by: Actor | None = None
) -> JobView:
    """Cancel a job, with the children that it waits for: at once if it waits, through its worker if it runs.

    Returns its new state.

    Raises:
        NotFoundError: as for `get_job`.
        ConflictError: it has ended, and not as cancelled.
    """
    state, _ = await _lock(session, job_id, owner)
    if state in (State.SUCCEEDED, State.DISCARDED):
        raise ConflictError(f"The job has ended: it is {state}.", code="job_ended")
    connection = await session.connection()
    if state is State.RUNNING:
        await connection.exec_driver_sql(CANCEL_RUNNING, (job_id,))
        ring_after_commit(session, cancelled=[job_id])
    elif state is not State.CANCELLED:
        await connection.exec_driver_sql(CANCEL_WAITING, (job_id,))
    await cancel_children(session, [job_id])
    job = await _acted(session, "job.cancel", job_id, by if owner is None else None)
    await end_batches(session, [] if job.batch_id is None else [job.batch_id])
    return job


async def retry_job(
    session: AsyncSession, job_id: UUID, *, owner: str | None = None, by: Actor | None = None
) -> JobView:
    """Make a discarded or cancelled job available again with all its attempts; its errors are kept.

    Raises:
        NotFoundError: as for `get_job`.
        ConflictError: it has not ended, or it has succeeded; or a live job of its kind has its unique key.
        TooManyJobsError: `owner` has as many jobs of this kind to be done as one may have. Operators have no limit.
    """
    state, kind = await _lock(session, job_id, owner)
    if state not in (State.CANCELLED, State.DISCARDED):
        raise ConflictError(f"Only cancelled and discarded jobs can be retried: it is {state}.", code="job_not_failed")
    if owner is not None and kind in kinds():
        await make_room(session, kinds()[kind], owner)
    result = await (await session.connection()).exec_driver_sql(RETRY_ENDED, (job_id,))
    queue = result.scalar_one_or_none()
    if queue is None:
        raise ConflictError("Another job with the same unique key is still to be done.", code="unique_key_taken")
    ring_after_commit(session, queues=[queue])
    return await _acted(session, "job.retry", job_id, by if owner is None else None)


async def enqueue_by_hand(session: AsyncSession, insertion: Insertion, *, by: Actor) -> EnqueuedJob:
    """Enqueue the one job of `insertion`, as an operator does."""
    (job,) = await insertion.execute(session)
    await record(session, by, "job.enqueue", f"job:{job.id}", kind=insertion.terms.kind, created=job.created)
    return job


async def _acted(session: AsyncSession, action: str, job_id: UUID, by: Actor | None) -> JobView:
    """Return the job as it is after an act, and record the act if it is an operator's."""
    job = await get_job(session, job_id)
    if by is not None:
        await record(session, by, action, f"job:{job_id}", kind=job.kind, owner=job.owner)
    return job


async def _lock(session: AsyncSession, job_id: UUID, owner: str | None) -> tuple[State, str]:
    """Lock a job until the transaction ends and return its state and kind. Raises NotFoundError."""
    connection = await session.connection()
    while True:
        for table in _TABLES:
            # The owner is in the WHERE: waiting for another owner's job would show that it exists.
            owned = (table.id == job_id, *_owned(table, owner))
            statement = select(table.state, table.kind).where(*owned).with_for_update()
            if (found := (await connection.execute(statement)).one_or_none()) is not None:
                return State(found.state), found.kind
        # It does not exist, which this raises, or it moved from the second table to the first between the two queries.
        await get_job(session, job_id, owner=owner)


# Any: to mypy a column is a value of its type.
_TABLES: tuple[Any, Any] = (Job, JobHistory)
_COMMON = [
    field.name
    for field in fields(JobView)
    if field.name not in ("finished_at", "cancel_requested_at", "worker", "result")
]

_NO_RESULT: Any = cast(null(), JSONB)
# Instead of what may be large.
_WITHOUT: dict[str, Any] = {"payload": literal_column("'{}'", Text), "result": _NO_RESULT}


def _last_error(table: Any) -> Any:
    return func.jsonb_path_query_array(table.errors, cast("$[last]", JSONPATH))


def _select(table: Any, **instead: Any) -> Select[Any]:
    """Select the same columns from both tables; null for those that a table lacks, and others `instead` of some."""
    instead = {"payload": cast(table.payload, Text), **instead}  # `_view` reads it
    columns: list[Any] = [instead.get(name, getattr(table, name)).label(name) for name in _COMMON]
    never = cast(null(), DateTime(timezone=True))
    if table is JobHistory:
        no_worker, result = cast(null(), String), instead.get("result", table.result)
        columns += [table.finished_at, never.label("cancel_requested_at"), no_worker.label("worker")]
        return select(*columns, result.label("result"))
    columns += [never.label("finished_at"), table.cancel_requested_at, col(WorkerSession.name).label("worker")]
    columns.append(_NO_RESULT.label("result"))
    return select(*columns).outerjoin(WorkerSession, col(WorkerSession.id) == table.session_id)


def _owned(table: Any, owner: str | None) -> list[Any]:
    return [] if owner is None else [table.owner == owner]


def _view(row: Row[Any]) -> JobView:
    values = row._asdict()
    return JobView(**values | {"state": State(values["state"]), "payload": read_payload(values["payload"])})
