"""arq's `Job`: the state, the result and the end of a job."""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

from plinth.errors import ConflictError, NotFoundError
from plinth.jobs.admin.jobs import request_cancel
from plinth.jobs.arq.access import Access
from plinth.jobs.arq.calls import Call, SerializationError, milliseconds
from plinth.jobs.arq.registry import Registered, known
from plinth.jobs.arq.worker import JobExecutionFailed
from plinth.jobs.outcome import State

__all__ = ["Job", "JobDef", "JobResult", "JobStatus", "ResultNotFound", "SerializationError"]

# The history's column `result` is read where it has one.
FIND = """
SELECT id, kind, queue, state, attempt, payload::text AS payload, run_at, created_at, started_at, finished_at,
    result::text AS result, error
FROM (
    SELECT id, kind, queue, state, attempt, payload, run_at, created_at, started_at, NULL::timestamptz AS finished_at,
        NULL::jsonb AS result, NULL::text AS error
    FROM job WHERE {which}
    UNION ALL
    SELECT id, kind, queue, state, attempt, payload, run_at, created_at, started_at, finished_at,
        to_jsonb(job_history) -> 'result', errors -> -1 ->> 'detail'
    FROM job_history WHERE {which}
) AS found ORDER BY id DESC LIMIT 1
"""
FIND_BY_ID = FIND.format(which="id = $1")
# Of the ended jobs no index has the key: those of arq's functions are read.
FIND_BY_KEY = FIND.format(which="unique_key = $1 AND kind = ANY ($2::text[])")


class ResultNotFound(RuntimeError):
    """There is no such job."""


class JobStatus(StrEnum):
    """The state of a job, as arq has it."""

    deferred = "deferred"
    queued = "queued"
    in_progress = "in_progress"
    complete = "complete"
    not_found = "not_found"


@dataclass
class JobDef:
    """What a job calls."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    job_try: int | None
    enqueue_time: datetime
    score: int | None
    job_id: str | None


@dataclass
class JobResult(JobDef):
    """What has become of a job. `result` of one that failed is the exception that `Job.result` raises."""

    success: bool
    result: Any
    start_time: datetime | None
    finish_time: datetime
    queue_name: str


class Row(NamedTuple):
    """A job as the tables have it."""

    id: UUID
    kind: str
    queue: str
    state: str
    attempt: int
    payload: str
    run_at: datetime
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    result: str | None
    error: str | None


class Job:
    """A job, by the id that `enqueue_job` gave or was given."""

    __slots__ = ("_access", "_id", "_is_sure", "job_id")

    def __init__(self, job_id: str, redis: Access, *_arguments: Any, _id: UUID | None = None, **_options: Any) -> None:
        self.job_id = job_id
        self._access = redis
        self._id = _id or _own_id(job_id)
        self._is_sure = _id is not None  # else it may be an id that was chosen and looks like our own

    def __repr__(self) -> str:
        return f"<arq job {self.job_id}>"

    async def status(self) -> JobStatus:
        """Return the state of the job."""
        row = await self._find()
        if row is None:
            return JobStatus.not_found
        if row.finished_at is not None:
            return JobStatus.complete
        if row.state == State.RUNNING:
            return JobStatus.in_progress
        return JobStatus.deferred if row.run_at > datetime.now(UTC) else JobStatus.queued

    async def info(self) -> JobDef | None:
        """Return what the job calls; a JobResult if it has ended, None if there is no such job."""
        row = await self._find()
        if row is None:
            return None
        function = next((function for function in known() if function.kind.name == row.kind), None)
        call = Call.model_validate_json(row.payload)
        args, kwargs = function.source.codec.arguments(call) if function is not None else (call.args, call.kwargs)
        common = (
            function.name if function is not None else row.kind,
            tuple(args),
            kwargs,
            call.job_try if row.started_at is None else row.attempt + max((call.job_try or 1) - 1, 0),
            call.enqueue_time or row.created_at,
        )
        if row.finished_at is None:
            return JobDef(*common, milliseconds(row.run_at), self.job_id)
        succeeded = row.state == State.SUCCEEDED
        result = _result(row, function) if succeeded else _failure(row)
        end = (succeeded, result, row.started_at, row.finished_at, row.queue)
        return JobResult(*common, None, self.job_id, *end)

    async def result_info(self) -> JobResult | None:
        """Return what has become of the job, or None while it has not ended."""
        info = await self.info()
        return info if isinstance(info, JobResult) else None

    async def result(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - arq's name
        *,
        poll_delay: float = 0.5,
        **_options: Any,
    ) -> Any:
        """Wait for the job's end and return what its function returned.

        Raises:
            JobExecutionFailed: it failed.
            asyncio.CancelledError: it was aborted.
            ResultNotFound: there is no such job.
            TimeoutError: it has not ended in time.
        """
        began = monotonic()
        if not self._is_sure and (row := await self._find()) is not None:
            self._id, self._is_sure = row.id, True
        while (info := await self.info()) is not None:
            if isinstance(info, JobResult):
                if info.success:
                    return info.result
                raise info.result
            if timeout is not None and monotonic() - began > timeout:
                raise TimeoutError
            await asyncio.sleep(poll_delay)
        raise ResultNotFound(f"there is no job {self.job_id!r}")

    async def abort(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - arq's name
        poll_delay: float = 0.5,
    ) -> bool:
        """Cancel the job, wait for its end, and return whether it was cancelled.

        One that runs is cancelled some seconds later.

        Raises:
            TimeoutError: it has not ended in time.
        """
        row = await self._find()
        if row is None:
            return False
        self._id, self._is_sure = row.id, True
        try:
            async with self._access.session() as session:
                await request_cancel(session, row.id)
            await self.result(timeout, poll_delay=poll_delay)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # it was this call that was cancelled
            return True
        except (ConflictError, NotFoundError, ResultNotFound, JobExecutionFailed):
            pass
        return False

    async def _find(self) -> Row | None:
        row = None if self._id is None else await self._read(FIND_BY_ID, self._id)
        if row is not None or self._is_sure:
            return row
        return await self._read(FIND_BY_KEY, self.job_id, [function.kind.name for function in known()])

    async def _read(self, statement: str, *arguments: Any) -> Row | None:
        async with self._access.session() as session:
            connection = await session.connection()
            row = (await connection.exec_driver_sql(statement, arguments)).one_or_none()
        return None if row is None else Row._make(row)


def _own_id(job_id: str) -> UUID | None:
    """The id in the database, if it is one: arq's own are of version 4."""
    try:
        found = UUID(hex=job_id)
    except ValueError:
        return None
    return found if found.version == 7 and found.hex == job_id else None


def _result(row: Row, function: Registered | None) -> Any:
    kept = None if row.result is None else json.loads(row.result)
    return kept if function is None else function.source.codec.read_result(kept)


def _failure(row: Row) -> BaseException:
    if row.state == State.CANCELLED:
        return asyncio.CancelledError()
    return JobExecutionFailed((row.error or "").removeprefix("Discard: "))
