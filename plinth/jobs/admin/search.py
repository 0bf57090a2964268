"""Finds jobs for operators, a page at a time: those of a selection, also by what their errors say.

Functions over a session, in its transaction.
"""

from typing import NamedTuple
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.jobs.admin.bulk import Selection
from plinth.jobs.admin.jobs import JobFilters, JobView, end_of_search, list_jobs
from plinth.jobs.admin.sql import MAX_ERROR_BYTES

__all__ = ["Found", "find_jobs"]

SEARCHED = 10_000  # jobs whose errors are read for one page, at most: some tens of milliseconds


class Found(NamedTuple):
    """A page of jobs. `before`: where the next one begins; None: there is none.

    `searched`: so many jobs were searched, as many as are for one page, and there may be more. 0: all that fit.
    """

    jobs: list[JobView]
    before: UUID | None
    searched: int


async def find_jobs(
    session: AsyncSession, selection: Selection, *, before: UUID | None = None, limit: int = 50
) -> Found:
    """Find the selected jobs, the newest (by id) first, older than `before`, as `list_jobs` gives them.

    By what their errors say, the newest `SEARCHED` of those that fit otherwise are searched for one page, fewer if
    their errors are long: it may be empty, and the next one not.
    """
    first, end = selection.bounds
    filters: JobFilters = {
        "owner": selection.owner,
        "states": selection.states,
        "kind": selection.kind,
        "queue": selection.queue,
        "batch": selection.batch,
        "first": first,
        "before": min((bound for bound in (before, end) if bound is not None), default=None),
    }
    end_here = None
    if selection.error is not None:
        end_here = await end_of_search(session, jobs=SEARCHED, error_bytes=MAX_ERROR_BYTES, **filters)
    bound, searched = end_here or (None, 0)
    if bound is not None:
        filters["first"] = bound
    found = await list_jobs(session, **filters, error=selection.error, limit=limit + 1)
    if len(found) > limit:
        return Found(found[:limit], found[limit - 1].id, 0)
    return Found(found, bound, searched)
