"""The first page of /ops."""

from starlette.requests import Request
from starlette.responses import Response

from plinth.ops.pages import page, page_router
from plinth.ops.session import ReaderDep

router = page_router()


@router.get("")
async def show_home(request: Request, operator: ReaderDep) -> Response:
    """Where a sign-in leads to."""
    return page(request, "home.html")
