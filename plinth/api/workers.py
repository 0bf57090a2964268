"""Workers: operators see which are alive and which were lost."""

from fastapi import APIRouter

from plinth.api.dependencies import ReaderDep, SessionDep
from plinth.http.problems import problems
from plinth.http.schemas import Page
from plinth.jobs.admin.queues import WorkerRead, list_workers

router = APIRouter(prefix="/workers", tags=["operations"], responses=problems(401, 403, 429, 503))


@router.get("")
async def read_workers(operator: ReaderDep, session: SessionDep) -> Page[WorkerRead]:
    """The workers that are alive, and those that were lost within the last hour."""
    return Page(items=await list_workers(session), next_cursor=None)
