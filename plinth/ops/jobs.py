"""The pages of jobs: the list, and one job."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from fastapi import Request
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.responses import Response

from plinth.api.dependencies import SessionDep, has_permission, state_of
from plinth.errors import NotFoundError
from plinth.identity.permissions import OPERATE_JOBS
from plinth.jobs import State
from plinth.jobs.admin.batches import BatchView, get_batch
from plinth.jobs.admin.bulk import STATES
from plinth.jobs.admin.jobs import JobView, get_job
from plinth.jobs.admin.search import Found, find_jobs
from plinth.jobs.admin.steps import StepView, list_steps
from plinth.ops import words
from plinth.ops.actions import ACTIONS
from plinth.ops.filters import read_filters, read_id, read_number
from plinth.ops.pages import page, page_router
from plinth.ops.session import ReaderDep

__all__ = ["router"]

router = page_router()

# What a page shows of a job, which may have a thousand steps with 64 KiB each: to mask all of that takes a minute.
MAX_STEPS = 200
MAX_STEP_RESULT = 1000  # bytes of JSON
MAX_RUNS = 10

NEVER = 9999  # the year in which a job is due that waits for an event without a time-out
_BATCH_EVENT = "batch:"  # see plinth.jobs.batch_end.event_of
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-")


@router.get("/jobs")
async def list_jobs(request: Request, operator: ReaderDep, session: SessionDep) -> Response:
    """The jobs that fit the filters in the address, the newest first."""
    filters = read_filters(request.query_params)
    before = None
    if text := request.query_params.get("before"):
        try:
            before = read_id(text)
        except ValueError as error:
            filters.problems["before"] = str(error)
    found = Found([], None, 0)
    if not filters.problems:
        found = await find_jobs(session, filters.selection, before=before)
    return page(
        request,
        "jobs.html",
        status=422 if filters.problems else 200,
        words=words,
        filters=filters,
        found=found,
        resumed=before is not None,
        states=list(State),
        actions=ACTIONS if has_permission(request, operator, OPERATE_JOBS) else {},
        done=done_of(request),
    )


class Moment(NamedTuple):
    """Something that happened to a job."""

    at: datetime
    what: str


@router.get("/jobs/{job_id}")
async def show_job(job_id: UUID, request: Request, operator: ReaderDep, session: SessionDep) -> Response:
    """All that is known of a job."""
    job = await get_job(session, job_id)
    steps = await list_steps(session, job_id, newest=MAX_STEPS + 1, longest=MAX_STEP_RESULT)
    traced = _TRACEPARENT.match((job.trace_context or {}).get("traceparent", ""))
    trace_id = traced[1] if traced else None
    template = state_of(request)["settings"].OPS_TRACE_URL
    fitting = {name: action for name, action in ACTIONS.items() if job.state in STATES[name]}
    return page(
        request,
        "job.html",
        words=words,
        job=job,
        steps=steps[-MAX_STEPS:],
        more_steps=len(steps) > MAX_STEPS,
        failed_runs=job.errors[-MAX_RUNS:],
        moments=_moments(job),
        waits_for_event=job.run_at.year == NEVER,
        batch=await _batch_of(session, job),
        children=_children_of(steps),
        trace_id=trace_id,
        trace_url=template.replace("{trace_id}", trace_id) if template and trace_id else None,
        actions=fitting if has_permission(request, operator, OPERATE_JOBS) else {},
        done=done_of(request),
    )


def done_of(request: Request) -> str | None:
    """What the address says was done, by an action's name and a number: never a text of others."""
    name, count = request.query_params.get("done"), read_number(request.query_params.get("count", ""))
    if name not in ACTIONS or count is None:
        return None
    return ACTIONS[name].done.format(jobs=words.jobs(count))


def _moments(job: JobView) -> list[Moment]:
    """A job's state over time, the oldest first."""
    found = [Moment(job.created_at, "Made")]
    if job.run_at > job.created_at and job.run_at.year != NEVER:
        found.append(Moment(job.run_at, "Due"))
    if job.started_at is not None:
        found.append(
            Moment(job.started_at, f"Run {job.run_lease} began" if job.state is State.RUNNING else "Last run began")
        )
    found += [
        # Behind a transaction pooler the database writes times in the zone of its own.
        Moment(datetime.fromisoformat(entry["at"]).astimezone(UTC), f"Run {entry['run']} failed: {entry['outcome']}")
        for entry in job.errors
    ]
    if job.cancel_requested_at is not None:
        found.append(Moment(job.cancel_requested_at, "Cancellation asked for"))
    if job.finished_at is not None:
        found.append(Moment(job.finished_at, job.state.value.capitalize()))
    return sorted(found, key=lambda moment: moment.at)


async def _batch_of(session: AsyncSession, job: JobView) -> BatchView | None:
    if job.batch_id is not None:
        with suppress(NotFoundError):  # it is deleted before its members may be
            return await get_batch(session, job.batch_id)
    return None


def _children_of(steps: list[StepView]) -> list[str]:
    """The batches of children that the job has waited for, or waits for."""
    return [
        step.event.removeprefix(_BATCH_EVENT) for step in steps if step.event and step.event.startswith(_BATCH_EVENT)
    ]
