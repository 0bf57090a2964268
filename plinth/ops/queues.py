"""The pages of queues and of workers."""

from typing import Literal

from fastapi import Request
from starlette.responses import RedirectResponse, Response

from plinth.api.dependencies import SessionDep, has_permission
from plinth.api.schemas import EngineName
from plinth.identity.permissions import OPERATE_JOBS
from plinth.jobs.admin.queues import count_queues, list_workers, pause_queue, resume_queue
from plinth.ops import words
from plinth.ops.pages import address, page, page_router
from plinth.ops.session import OperatorDep, ReaderDep

__all__ = ["router"]

router = page_router()


@router.get("/queues")
async def list_queues(request: Request, operator: ReaderDep, session: SessionDep) -> Response:
    """Every queue that holds a job or is paused."""
    queues = await count_queues(session)
    may_change = has_permission(request, operator, OPERATE_JOBS)
    return page(request, "queues.html", words=words, queues=queues, may_change=may_change)


@router.post("/queues/{name}/{change}")
async def change_queue(
    name: EngineName,
    change: Literal["pause", "resume"],
    request: Request,
    operator: OperatorDep,
    session: SessionDep,
) -> Response:
    """Pauses or resumes a queue."""
    await (pause_queue if change == "pause" else resume_queue)(session, name, by=operator)
    return RedirectResponse(address(request, "/queues"), 303)


@router.get("/workers")
async def show_workers(request: Request, operator: ReaderDep, session: SessionDep) -> Response:
    """The workers that are alive, and those that were lost within the last hour."""
    return page(request, "workers.html", workers=await list_workers(session))
