"""Workers: operators see which are alive and which were lost."""

from fastapi import APIRouter

from plinth.api.dependencies import OperatorDep, SessionDep
from plinth.api.schemas import WorkerRead
from plinth.http.problems import problems
from plinth.http.schemas import Page
from plinth.jobs.admin.queues import list_workers

router = APIRouter(prefix="/workers", tags=["operations"], responses=problems(401, 403, 429, 503))


@router.get("")
async def read_workers(operator: OperatorDep, session: SessionDep) -> Page[WorkerRead]:
    """The workers that are alive, and those that were lost within the last hour."""
    found = await list_workers(session)
    return Page(items=[WorkerRead.model_validate(worker) for worker in found], next_cursor=None)
