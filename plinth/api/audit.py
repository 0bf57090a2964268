"""The audit log: operators see what operators did."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from plinth.api.dependencies import ReaderDep, SessionDep
from plinth.api.schemas import AuditQuery, AuditRead
from plinth.audit import AuditRecord, list_records
from plinth.http.headers import with_headers
from plinth.http.pagination import Order, Pager
from plinth.http.problems import problems
from plinth.http.schemas import Page

router = APIRouter(prefix="/audit", tags=["audit"], responses=problems(401, 403, 422, 429, 503))

NEWEST_FIRST = Order(AuditRecord.id, descending=True)


@router.get("", response_model=Page[AuditRead], responses={200: with_headers("Link")})
async def list_audit(
    query: Annotated[AuditQuery, Query()], operator: ReaderDep, request: Request, session: SessionDep
) -> Response:
    """What operators did, by the API and by commands; the newest first, a page at a time."""
    pager = Pager(request, operator, query, NEWEST_FIRST)
    records = await list_records(
        session,
        actor=query.actor,
        action=query.action,
        target=query.target,
        since=query.since,
        before=pager.slice.after[0] if pager.slice.after else None,
        limit=query.limit + 1,  # one more shows whether there is a next page
    )
    return pager.response(records, AuditRead)
