"""Workers: operators see which are alive and which were lost."""

from fastapi import APIRouter

from plinth.api.dependencies import ReaderDep, SessionDep
from plinth.http.problems import problems
from plinth.http.schemas import Page
from plinth.jobs.admin import queues

router = APIRouter(prefix="/workers", tags=["workers"], responses=problems(401, 403, 429, 503))


@router.get("")
async def list_workers(operator: ReaderDep, session: SessionDep) -> Page[queues.WorkerRead]:
    """The workers that are alive, and those that were lost within the last hour."""
    return Page(items=await queues.list_workers(session), next_cursor=None)
