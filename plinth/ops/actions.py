"""Acts on jobs, one or many: a page that says how many it would be, and the act itself."""

from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from fastapi import Request
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.datastructures import ImmutableMultiDict
from starlette.responses import RedirectResponse, Response

from plinth.api.dependencies import SessionDep
from plinth.errors import BadRequestError
from plinth.identity.principal import Principal
from plinth.jobs.admin.bulk import MAX_JOBS, STATES, Selection, act_on_many
from plinth.jobs.admin.bulk import Action as ActionName
from plinth.jobs.admin.jobs import request_cancel, retry_job
from plinth.ops import words
from plinth.ops.filters import Filters, ids_in, read_filters, read_number, read_time
from plinth.ops.pages import address, page, page_router, read_form
from plinth.ops.session import OperatorDep

__all__ = ["ACTIONS", "router"]

router = page_router()


class Action(NamedTuple):
    """What an operator does with jobs. `done` says it afterwards. `typed`: how many it takes to have a word typed."""

    label: str
    what: str
    done: str
    typed: int = MAX_JOBS + 1


ACTIONS: dict[ActionName, Action] = {
    "retry": Action(
        "Retry", "Cancelled and discarded jobs are done again, with all their attempts.", "{jobs} will be done again."
    ),
    "run_now": Action(
        "Run now", "Jobs that wait for their time or their next attempt are due at once.", "{jobs} due now."
    ),
    "cancel": Action(
        "Cancel",
        "Jobs that wait end at once; those that run are told to stop. Their children are cancelled with them.",
        "{jobs} cancelled; of these, those that run have been told to stop.",
        typed=2,
    ),
    "delete": Action(
        "Delete",
        "Jobs that wait or have ended go, with their steps, errors and results. Nothing brings them back.",
        "{jobs} deleted.",
        typed=1,
    ),
}


class Asked(NamedTuple):
    """What a form asks for: the jobs that were ticked, or all that match the filters.

    `at`: when the number of jobs was asked for. What is done is about the jobs that were there then.
    """

    name: ActionName
    ids: list[UUID]
    filters: Filters
    at: datetime

    @property
    def action(self) -> Action:
        return ACTIONS[self.name]

    @property
    def selection(self) -> Selection:
        """All that match no filter are those that the action is for."""
        if self.ids:
            # A dead letter that was retried since it was ticked is to be done now, and nothing brings it back.
            states = self.filters.selection.states if self.name == "delete" else ()
            return Selection(ids=self.ids, states=states)
        chosen = self.filters.selection
        if not any(chosen):
            chosen = Selection(states=STATES[self.name])
        return chosen._replace(until=min(chosen.until or self.at, self.at))

    @property
    def origin(self) -> str:
        """The page that the form is on, below /ops: the job's, where it is about one."""
        return f"/jobs/{self.ids[0]}" if len(self.ids) == 1 else f"/jobs{self.filters.query()}"

    def word(self, count: int) -> str | None:
        """What has to be typed before so many jobs are changed."""
        if count < self.action.typed:
            return None
        return str(count) if count > 1 else self.name


@router.get("/jobs/confirm")
async def confirm(request: Request, operator: OperatorDep, session: SessionDep) -> Response:
    """Says how many jobs it would be, and asks."""
    return await _ask(request, session, _read(request.query_params), operator)


@router.post("/jobs/act")
async def act(request: Request, operator: OperatorDep, session: SessionDep) -> Response:
    """Acts on as many jobs as were said, at most, and leads back."""
    form = await read_form(request)
    asked = _read(form)
    limit = read_number(form.get("limit", ""))
    if limit is None or not 1 <= limit <= MAX_JOBS:
        raise BadRequestError("The form says no number of jobs.")
    word = asked.word(limit)
    if word is not None and str(form.get("confirm", "")).strip().replace(",", "") != word:
        return await _ask(request, session, asked, operator, wrong=True)
    count = await _act(session, asked, operator, limit)
    origin = f"/jobs{asked.filters.query()}" if asked.name == "delete" else asked.origin
    sign = "&" if "?" in origin else "?"
    return RedirectResponse(f"{address(request, origin)}{sign}done={asked.name}&count={count}", 303)


async def _ask(
    request: Request, session: AsyncSession, asked: Asked, operator: Principal, *, wrong: bool = False
) -> Response:
    chosen = asked.selection
    count = await act_on_many(session, asked.name, chosen, by=operator, limit=MAX_JOBS, dry_run=True)
    return page(
        request,
        "confirm.html",
        status=422 if wrong else 200,
        words=words,
        asked=asked,
        count=count,
        most=MAX_JOBS,
        states=[state for state in STATES[asked.name] if not chosen.states or state in chosen.states],
        word=asked.word(count),
        wrong=wrong,
    )


async def _act(session: AsyncSession, asked: Asked, operator: Principal, limit: int) -> int:
    if len(asked.ids) == 1 and asked.name in ("retry", "cancel"):  # these say why it cannot be done
        change = retry_job if asked.name == "retry" else request_cancel
        await change(session, asked.ids[0], by=operator)
        return 1
    return await act_on_many(session, asked.name, asked.selection, by=operator, limit=limit)


def _read(given: ImmutableMultiDict[str, str]) -> Asked:
    name = given.get("action", "")
    try:
        at = read_time(given["at"]) if "at" in given else datetime.now(UTC)
        filters = read_filters(given, now=at)
        ids = [] if given.get("all") else ids_in(given)
    except ValueError as error:
        raise BadRequestError(str(error)) from None
    if name not in ACTIONS:
        raise BadRequestError("There is no such action.")
    if filters.problems:
        raise BadRequestError(" ".join(filters.problems.values()))
    if not ids and not given.get("all"):
        raise BadRequestError("Tick some jobs first, or all that match.")
    return Asked(name, ids, filters, at)
