"""What operators see and do: queues, workers, schedules."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from plinth.api.dependencies import OperatorDep, SessionDep, state_of
from plinth.api.schemas import EngineName, QueueRead, ScheduleRead, ScheduleRun, WorkerRead
from plinth.http.problems import problems
from plinth.http.schemas import Page
from plinth.jobs.admin import queues as operations

router = APIRouter(tags=["operations"], responses=problems(401, 403, 429, 503))

Name = Annotated[EngineName, Path()]
_LOCATION = {"Location": {"description": "Where the job is.", "schema": {"type": "string"}}}


@router.get("/queues")
async def read_queues(operator: OperatorDep, session: SessionDep) -> Page[QueueRead]:
    """Every queue that holds a job or is paused."""
    queues = await operations.queue_figures(session)
    return Page(items=[QueueRead.model_validate(queue) for queue in queues], next_cursor=None)


@router.post("/queues/{name}/pause", status_code=204, responses=problems(422))
async def pause_queue(name: Name, operator: OperatorDep, session: SessionDep) -> None:
    """Let no worker take a job of this queue until it is resumed. What runs goes on."""
    await operations.pause_queue(session, name)


@router.post("/queues/{name}/resume", status_code=204, responses=problems(422))
async def resume_queue(name: Name, operator: OperatorDep, session: SessionDep) -> None:
    """Serve a paused queue again."""
    await operations.resume_queue(session, name)


@router.get("/workers")
async def read_workers(operator: OperatorDep, session: SessionDep) -> Page[WorkerRead]:
    """The workers that live, and those that were lost within the last hour."""
    workers = await operations.list_workers(session)
    return Page(items=[WorkerRead.model_validate(worker) for worker in workers], next_cursor=None)


@router.get("/schedules")
async def read_schedules(operator: OperatorDep, session: SessionDep) -> Page[ScheduleRead]:
    """Every schedule that a worker has declared."""
    schedules = await operations.list_schedules(session)
    return Page(items=[ScheduleRead.model_validate(schedule) for schedule in schedules], next_cursor=None)


@router.post("/schedules/{name}/pause", status_code=204, responses=problems(404, 422))
async def pause_schedule(name: Name, operator: OperatorDep, session: SessionDep) -> None:
    """Let the slots of a schedule go by until it is resumed."""
    await operations.pause_schedule(session, name)


@router.post("/schedules/{name}/resume", status_code=204, responses=problems(404, 422))
async def resume_schedule(name: Name, operator: OperatorDep, session: SessionDep) -> None:
    """Follow a schedule again. Slots that went by are not made up for."""
    await operations.resume_schedule(session, name)


@router.post("/schedules/{name}/run", status_code=202, responses={202: {"headers": _LOCATION}, **problems(404, 422)})
async def run_schedule(
    name: Name, operator: OperatorDep, session: SessionDep, request: Request, response: Response
) -> ScheduleRun:
    """Enqueue a schedule's job now, beside its slots."""
    made = await operations.run_schedule(session, name)
    response.headers["Location"] = f"{state_of(request)['settings'].API_V1_STR}/jobs/{made.id}"
    return ScheduleRun(job_id=made.id)
