"""The page of dead letters: jobs that failed for good, grouped by kind and error."""

from fastapi import Request
from starlette.responses import Response

from plinth.api.dependencies import SessionDep, has_permission
from plinth.identity.permissions import OPERATE_JOBS
from plinth.jobs.admin.dead_letters import MAX_GROUPED, group_dead_letters
from plinth.ops import words
from plinth.ops.pages import page, page_router
from plinth.ops.session import ReaderDep

__all__ = ["router"]

router = page_router()


@router.get("/dead-letters")
async def show_dead_letters(request: Request, operator: ReaderDep, session: SessionDep) -> Response:
    """The groups of the newest dead letters, the largest first."""
    groups = await group_dead_letters(session)
    return page(
        request,
        "dead_letters.html",
        words=words,
        groups=groups,
        shown=sum(group.number for group in groups),
        most=MAX_GROUPED,
        may_change=has_permission(request, operator, OPERATE_JOBS),
    )
