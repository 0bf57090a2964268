"""`plinth jobs stats`, `watch`, `pause` and `resume`: counts of the queues, and pausing them."""

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, NoReturn

import click

from plinth.cli import arguments
from plinth.cli.arguments import FiniteRange, json_option
from plinth.cli.common import on_database, system_user, transact
from plinth.cli.output import print_list, print_one

if TYPE_CHECKING:
    from plinth.database.engine import Database
    from plinth.jobs.admin.queues import QueueRead

__all__ = ["pause", "resume", "stats", "watch"]


@click.command(short_help="Show the jobs of each queue by state.")
@json_option
def stats(as_json: bool) -> None:
    """Show the jobs of each queue by state, and how long the oldest due job has waited.

    Counting stops at 10,000: `10000+` is that many or more.
    """
    from plinth.jobs.admin.queues import count_queues

    _print(transact(count_queues), as_json=as_json)


@click.command(short_help="Show the same again and again, until Ctrl-C.")
@click.option("--every", type=FiniteRange(0.1), default=2, show_default=True, help="Seconds from one to the next.")
def watch(every: float) -> None:
    """Show the jobs of each queue by state, as `plinth jobs stats` does, until Ctrl-C."""
    from plinth.jobs.admin.queues import count_queues

    async def look(database: "Database") -> NoReturn:
        while True:
            async with database.session() as session:
                found = await count_queues(session)
            click.clear()  # nothing where stdout is no terminal
            click.echo(f"{datetime.now().astimezone():%H:%M:%S}  Ctrl-C ends.\n")
            _print(found, as_json=False)
            await asyncio.sleep(every)

    with suppress(KeyboardInterrupt):
        on_database(look)


def _print(found: "list[QueueRead]", *, as_json: bool) -> None:
    columns = ("QUEUE", "PAUSED", "AVAILABLE", "RUNNING", "SCHEDULED", "RETRYABLE", "OLDEST DUE")
    print_list(found, columns, map(_row, found), as_json=as_json, none="The queues are empty.")


def _row(queue: "QueueRead") -> tuple[object, ...]:
    age = None if queue.oldest_due_age is None else f"{queue.oldest_due_age:.0f} s"
    states = ("available", "running", "scheduled", "retryable")
    counts = [f"{getattr(queue, state)}{'+' if state in queue.at_least else ''}" for state in states]
    return queue.name, queue.paused, *counts, age


@click.command()
@click.argument("queue", type=arguments.name)
@json_option
def pause(queue: str, as_json: bool) -> None:
    """Pause a queue: workers claim none of its jobs. Running jobs go on."""
    from plinth.jobs.admin.queues import pause_queue

    transact(lambda session: pause_queue(session, queue, by=system_user()))
    print_one({"name": queue, "paused": True}, f"{queue} is paused.", as_json=as_json)


@click.command()
@click.argument("queue", type=arguments.name)
@json_option
def resume(queue: str, as_json: bool) -> None:
    """Resume a paused queue."""
    from plinth.jobs.admin.queues import resume_queue

    transact(lambda session: resume_queue(session, queue, by=system_user()))
    print_one({"name": queue, "paused": False}, f"{queue} is served.", as_json=as_json)
