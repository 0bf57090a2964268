"""The first page: what waits, what runs, what ended in the last hour, and which workers are there.

It is live by polling, not by an event stream: an answer takes some milliseconds, a poll passes every proxy, holds no
connection and reads the session anew each time, and a page that nothing shows asks for nothing. All that look share
what a process has read, so the database is asked once a second at most.
"""

from typing import Any, NamedTuple

from fastapi import Request
from starlette.responses import RedirectResponse, Response

from plinth.api.dependencies import DatabaseDep
from plinth.database.engine import Database
from plinth.jobs.admin.queues import count_queues, list_workers
from plinth.jobs.admin.throughput import MAX_ENDED, Minute, last_hour
from plinth.ops import words
from plinth.ops.pages import address, page, page_router
from plinth.ops.session import ReaderDep
from plinth.ops.shared import Shared

__all__ = ["router"]

router = page_router()

HEIGHT = 100  # of the graph, in its own units; a minute is 10 wide


class Bar(NamedTuple):
    """A part of a minute's column in the graph: its class, place and height."""

    kind: str
    x: int
    y: float
    height: float


class Graph(NamedTuple):
    """The jobs that ended in the last hour, minute by minute."""

    bars: list[Bar]
    most: int
    minutes: list[Minute]
    succeeded: int
    cancelled: int
    discarded: int


async def _read_now(database: Database) -> dict[str, Any]:
    async with database.session() as session:
        queues = await count_queues(session)
        workers = await list_workers(session)
    alive = [worker for worker in workers if worker.status != "lost"]
    return {
        "queues": queues,
        "waiting": sum(queue.available for queue in queues),
        "later": sum(queue.scheduled for queue in queues),
        "failing": sum(queue.retryable for queue in queues),
        "running": sum(queue.running for queue in queues),
        "at_least": {state for queue in queues for state in queue.at_least},
        "oldest": max((queue.oldest_due_age for queue in queues if queue.oldest_due_age is not None), default=None),
        "alive": len(alive),
        "lost": len(workers) - len(alive),
        "slots": sum(worker.concurrency for worker in alive),
    }


async def _read_graph(database: Database) -> Graph:
    async with database.session() as session:
        return draw(await last_hour(session))


# With a large backlog each takes up to some tenths of a second, just when the database has most to do.
NOW = Shared(_read_now, seconds=1)
LAST_HOUR = Shared(_read_graph, seconds=10)


@router.get("")
async def overview(request: Request, operator: ReaderDep, database: DatabaseDep) -> Response:
    """The whole page."""
    figures = await NOW.get(database)
    graph = await LAST_HOUR.get(database)
    return page(request, "overview.html", words=words, **figures, graph=graph, most_counted=MAX_ENDED)


@router.get("/")
async def first_page(request: Request) -> Response:
    """Redirect `/ops/`, as people type it, to the overview."""
    return RedirectResponse(address(request), 307)


@router.get("/now")
async def now(request: Request, operator: ReaderDep, database: DatabaseDep) -> Response:
    """The part of it that is asked for every two seconds."""
    return page(request, "now.html", words=words, **await NOW.get(database))


@router.get("/last-hour")
async def graph(request: Request, operator: ReaderDep, database: DatabaseDep) -> Response:
    """The graph, which is asked for every half minute: it reads the most rows."""
    return page(request, "last_hour.html", words=words, graph=await LAST_HOUR.get(database), most_counted=MAX_ENDED)


def draw(minutes: list[Minute]) -> Graph:
    """The graph of some minutes: a column for each, failures at its foot."""
    totals = [minute.succeeded + minute.cancelled + minute.discarded for minute in minutes]
    most = max(totals, default=0)
    bars = []
    for place, minute in enumerate(minutes):
        foot = float(HEIGHT)
        for kind, number in (("bad", minute.discarded), ("other", minute.cancelled), ("good", minute.succeeded)):
            if number:
                height = number * HEIGHT / most
                foot -= height
                bars.append(Bar(kind, place * 10, round(foot, 2), round(height, 2)))
    sums = [sum(column) for column in zip(*(minute[1:] for minute in minutes), strict=True)] or [0, 0, 0]
    return Graph(bars, most, minutes, *sums)
