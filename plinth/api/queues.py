"""Queues: operators look at them, pause them and resume them."""

from typing import Annotated

from fastapi import APIRouter, Path

from plinth.api.dependencies import OperatorDep, ReaderDep, SessionDep
from plinth.api.schemas import EngineName
from plinth.http.problems import problems
from plinth.http.schemas import Page
from plinth.jobs.admin import queues

router = APIRouter(prefix="/queues", tags=["queues"], responses=problems(401, 403, 429, 503))

Name = Annotated[EngineName, Path()]


@router.get("")
async def list_queues(operator: ReaderDep, session: SessionDep) -> Page[queues.QueueRead]:
    """Every queue that holds a job or is paused."""
    return Page(items=await queues.count_queues(session), next_cursor=None)


@router.post("/{name}/pause", status_code=204, responses=problems(422))
async def pause_queue(name: Name, operator: OperatorDep, session: SessionDep) -> None:
    """Pause a queue: no worker takes a job of it until it is resumed. Running jobs go on."""
    await queues.pause_queue(session, name, by=operator)


@router.post("/{name}/resume", status_code=204, responses=problems(422))
async def resume_queue(name: Name, operator: OperatorDep, session: SessionDep) -> None:
    """Resume a paused queue."""
    await queues.resume_queue(session, name, by=operator)
