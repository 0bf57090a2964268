"""Jobs: owners look at theirs, cancel them and retry them; operators do so with all jobs.

`READ_JOBS` is the permission to look at all, `OPERATE_JOBS` to change them.
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.api.dependencies import OperatorDep, PrincipalDep, SessionDep, check_permission, has_permission, state_of
from plinth.api.job_events import JobEvents, event_id
from plinth.api.schemas import (
    BatchRead,
    BulkAction,
    BulkPriority,
    BulkResult,
    JobQuery,
    JobRead,
    JobSummary,
    OperatorJobRead,
    OperatorStepRead,
    StepRead,
)
from plinth.http.headers import path_in_api, with_headers
from plinth.http.pagination import Order, Pager
from plinth.http.problems import problems
from plinth.http.schemas import Page
from plinth.identity.permissions import OPERATE_JOBS, READ_JOBS
from plinth.identity.principal import Principal
from plinth.jobs import State
from plinth.jobs.admin import jobs as admin
from plinth.jobs.admin.batches import get_batch
from plinth.jobs.admin.bulk import act_on_many
from plinth.jobs.admin.jobs import JobView
from plinth.jobs.admin.steps import list_steps
from plinth.jobs.tables import Job

router = APIRouter(prefix="/jobs", tags=["jobs"], responses=problems(401, 422, 429, 503))

NEWEST_FIRST = Order(Job.id, descending=True)
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "A stream that ends after the event `end`.", "content": {"text/event-stream": {}}},
    204: {"description": "The job has ended and `Last-Event-ID` is its last event: do not reconnect."},
}


@router.get("", response_model=Page[JobSummary], responses={200: with_headers("Link"), **problems(403)})
async def list_jobs(
    query: Annotated[JobQuery, Query()], principal: PrincipalDep, request: Request, session: SessionDep
) -> Response:
    """The caller's jobs, for operators all jobs; the newest first, a page at a time."""
    owner = query.owner
    if owner in (None, principal.owner, principal.subject):
        owner = _owner(request, principal) or owner
    else:
        check_permission(request, principal, READ_JOBS)
    pager = Pager(request, principal, query, NEWEST_FIRST)
    jobs = await admin.list_jobs(
        session,
        owner=owner,
        states=query.state,
        kind=query.kind,
        queue=query.queue,
        batch=query.batch,
        before=pager.slice.after[0] if pager.slice.after else None,
        limit=query.limit + 1,  # one more shows whether there is a next page
    )
    return pager.response(jobs, JobSummary)


@router.post("/bulk/actions", responses=problems(400, 403, 413))
async def change_many_jobs(
    body: Annotated[BulkAction | BulkPriority, Field(discriminator="action")],
    operator: OperatorDep,
    session: SessionDep,
) -> BulkResult:
    """Cancel, delete, run or prioritise many jobs, for operators. `dry_run` says how many it would be."""
    count = await act_on_many(
        session,
        body.action,
        body.selection,
        by=operator,
        priority=body.priority if isinstance(body, BulkPriority) else None,
        limit=body.limit,
        dry_run=body.dry_run,
    )
    return BulkResult(count=count, dry_run=body.dry_run)


@router.get("/batches/{batch_id}", responses=problems(404))
async def read_batch(batch_id: UUID, principal: PrincipalDep, request: Request, session: SessionDep) -> BatchRead:
    """A batch, and how many of its members are in which state. `GET /jobs?batch=` lists them."""
    return BatchRead.model_validate(await get_batch(session, batch_id, owner=_owner(request, principal)))


@router.get("/{job_id}", responses=problems(404))
async def read_job(
    job_id: UUID, principal: PrincipalDep, request: Request, session: SessionDep
) -> OperatorJobRead | JobRead:
    """A job, with its progress and the errors of its failed runs."""
    job = await admin.get_job(session, job_id, owner=_owner(request, principal))
    return _read(request, principal, job)


@router.get("/{job_id}/steps", responses=problems(404))
async def read_steps(
    job_id: UUID, principal: PrincipalDep, request: Request, session: SessionDep
) -> list[OperatorStepRead] | list[StepRead]:
    """A job's steps, in the order in which they began."""
    await admin.get_job(session, job_id, owner=_owner(request, principal))
    steps = await list_steps(session, job_id)
    if has_permission(request, principal, READ_JOBS):
        return [OperatorStepRead.model_validate(step) for step in steps]
    return [StepRead.model_validate(step) for step in steps]


@router.post("/{job_id}/cancel", responses={202: {"model": OperatorJobRead | JobRead}, **problems(403, 404, 409)})
async def cancel_job(
    job_id: UUID, principal: PrincipalDep, request: Request, session: SessionDep, response: Response
) -> OperatorJobRead | JobRead:
    """Cancel a job. 200: it has ended; 202: it is running, and its worker was told to stop it."""
    owner = await _owner_to_change(request, principal, session, job_id)
    job = await admin.request_cancel(session, job_id, owner=owner, by=principal)
    if job.state is State.RUNNING:
        response.status_code = 202
    return _read(request, principal, job)


@router.post("/{job_id}/retry", responses=problems(403, 404, 409))
async def retry_job(
    job_id: UUID, principal: PrincipalDep, request: Request, session: SessionDep
) -> OperatorJobRead | JobRead:
    """Retry a discarded or cancelled job, with all its attempts."""
    owner = await _owner_to_change(request, principal, session, job_id)
    job = await admin.retry_job(session, job_id, owner=owner, by=principal)
    return _read(request, principal, job)


@router.get("/{job_id}/events", response_class=Response, responses={**_EVENTS, **problems(404)})
async def watch_job(
    job_id: UUID,
    principal: PrincipalDep,
    request: Request,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Response:
    """A job's changes, as server-sent events.

    The data of each is the job as in a list. The last event is called `end`, all before it `progress`; a client that
    missed some gets the latest. After five minutes the stream ends without `end`, and the client reconnects.
    """
    state = state_of(request)
    # Not the request's session: its connection would be held until the stream begins.
    async with state["database"].session() as session:
        job = (await admin.get_job(session, job_id, owner=_owner(request, principal))).summary()
    if job.state.terminal and last_event_id == event_id(job):
        return Response(status_code=204)
    return JobEvents(state["job_watch"], job, principal.key, last_event_id)


def path_of_job(request: Request, job_id: UUID) -> str:
    """The path of a job in this API."""
    return path_in_api(request, f"/jobs/{job_id}")


def _owner(request: Request, principal: Principal) -> str | None:
    """The owner of the jobs that the caller sees. None: it sees all."""
    return None if has_permission(request, principal, READ_JOBS) else principal.owner


async def _owner_to_change(request: Request, principal: Principal, session: AsyncSession, job_id: UUID) -> str | None:
    """The owner of the jobs that the caller changes. None: it changes all.

    Raises:
        NotFoundError: there is no such job that the caller sees.
        ForbiddenError: the caller sees this job and may not change it.
    """
    job = await admin.get_job(session, job_id, owner=_owner(request, principal))
    if job.owner != principal.owner:
        check_permission(request, principal, OPERATE_JOBS)
        return None
    return principal.owner


def _read(request: Request, principal: Principal, job: JobView) -> OperatorJobRead | JobRead:
    model = OperatorJobRead if has_permission(request, principal, READ_JOBS) else JobRead
    return model.model_validate(job)
