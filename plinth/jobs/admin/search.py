"""Finds jobs for operators, a page at a time: those of a selection, also by what their errors say.

Functions over a session, in its transaction.
"""

from typing import NamedTuple
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.jobs.admin.bulk import Selection
from plinth.jobs.admin.jobs import JobFilters, JobView, id_after, list_jobs

__all__ = ["SEARCHED", "Found", "find_jobs"]

SEARCHED = 10_000  # jobs whose errors are read for one page: some tens of milliseconds


class Found(NamedTuple):
    """A page of jobs. `before`: where the next one begins; None: there is none.

    `searched`: as many jobs were searched as are for one page, and there may be more.
    """

    jobs: list[JobView]
    before: UUID | None
    searched: bool


async def find_jobs(
    session: AsyncSession, selection: Selection, *, before: UUID | None = None, limit: int = 50
) -> Found:
    """Find the selected jobs, the newest (by id) first, older than `before`, as `list_jobs` gives them.

    By what their errors say, the newest `SEARCHED` of those that fit otherwise are searched for one page: it may be
    empty, and the next one not.
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
    bound = None
    if selection.error is not None and (bound := await id_after(session, SEARCHED - 1, **filters)) is not None:
        filters["first"] = bound
    found = await list_jobs(session, **filters, error=selection.error, limit=limit + 1)
    if len(found) > limit:
        return Found(found[:limit], found[limit - 1].id, False)
    return Found(found, bound, bound is not None)
