"""Schedules: operators look at them, pause them, resume them and run them now."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from plinth.api.dependencies import OperatorDep, ReaderDep, SessionDep
from plinth.api.jobs import path_of_job
from plinth.api.schemas import EngineName, ScheduleRun
from plinth.http.headers import with_headers
from plinth.http.problems import problems
from plinth.http.schemas import Page
from plinth.jobs.admin import queues as schedules

router = APIRouter(prefix="/schedules", tags=["schedules"], responses=problems(401, 403, 429, 503))

Name = Annotated[EngineName, Path()]


@router.get("")
async def list_schedules(operator: ReaderDep, session: SessionDep) -> Page[schedules.ScheduleRead]:
    """Every schedule that a worker has declared."""
    return Page(items=await schedules.list_schedules(session), next_cursor=None)


@router.post("/{name}/pause", status_code=204, responses=problems(404, 422))
async def pause_schedule(name: Name, operator: OperatorDep, session: SessionDep) -> None:
    """Pause a schedule: its slots pass without a job until it is resumed."""
    await schedules.pause_schedule(session, name, by=operator)


@router.post("/{name}/resume", status_code=204, responses=problems(404, 422))
async def resume_schedule(name: Name, operator: OperatorDep, session: SessionDep) -> None:
    """Resume a paused schedule from its next slot on."""
    await schedules.resume_schedule(session, name, by=operator)


@router.post("/{name}/run", status_code=202, responses={202: with_headers("Location"), **problems(404, 422)})
async def run_schedule(
    name: Name, operator: OperatorDep, session: SessionDep, request: Request, response: Response
) -> ScheduleRun:
    """Enqueue a schedule's job now, beside its slots."""
    made = await schedules.run_schedule(session, name, by=operator)
    response.headers["Location"] = path_of_job(request, made.id)
    return ScheduleRun(job_id=made.id)
