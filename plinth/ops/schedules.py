"""The page of schedules."""

from datetime import datetime
from itertools import islice
from typing import Literal

from fastapi import Request
from starlette.responses import RedirectResponse, Response

from plinth.api.dependencies import SessionDep, has_permission
from plinth.api.schemas import EngineName
from plinth.identity.permissions import OPERATE_JOBS
from plinth.jobs.admin.queues import ScheduleRead, list_schedules, pause_schedule, resume_schedule, run_schedule
from plinth.jobs.schedules import schedules
from plinth.ops.pages import address, page, page_router
from plinth.ops.session import OperatorDep, ReaderDep

__all__ = ["router"]

router = page_router()

SLOTS = 3  # of each schedule that are shown


@router.get("/schedules")
async def show_schedules(request: Request, operator: ReaderDep, session: SessionDep) -> Response:
    """Every schedule that a worker has declared, with its next times."""
    found = await list_schedules(session)
    return page(
        request,
        "schedules.html",
        rows=[(schedule, _next_slots(schedule), schedule.name in schedules()) for schedule in found],
        may_change=has_permission(request, operator, OPERATE_JOBS),
    )


@router.post("/schedules/{name}/{change}")
async def change_schedule(
    name: EngineName,
    change: Literal["pause", "resume", "run"],
    request: Request,
    operator: OperatorDep,
    session: SessionDep,
) -> Response:
    """Pauses or resumes a schedule, or enqueues its job now and leads to that."""
    if change == "run":
        made = await run_schedule(session, name, by=operator)
        return RedirectResponse(address(request, f"/jobs/{made.id}"), 303)
    await (pause_schedule if change == "pause" else resume_schedule)(session, name, by=operator)
    return RedirectResponse(address(request, "/schedules"), 303)


def _next_slots(schedule: ScheduleRead) -> list[datetime]:
    """The next slots; none while it is paused, or if this version does not declare it."""
    if schedule.next_slot is None:
        return []
    declared = schedules()[schedule.name]
    slots = [schedule.next_slot]
    for _ in islice(range(SLOTS), 1, None):
        slots.append(declared.next_slot(slots[-1]))
    return slots
