"""`plinth jobs cancel-many`, `delete`, `run-now` and `prioritise`: acts on many jobs at once."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from plinth.cli import arguments
from plinth.cli.arguments import json_option
from plinth.cli.common import system_user, transact
from plinth.cli.jobs import STATES
from plinth.cli.output import print_one

if TYPE_CHECKING:
    from plinth.jobs.admin.bulk import Action

__all__ = ["cancel_many", "delete", "prioritise", "run_now"]

F = TypeVar("F", bound=Callable[..., Any])


def _selection(command: F) -> F:
    """The arguments that say which jobs."""
    for add in (
        json_option,
        click.option("--dry-run", is_flag=True, help="Only say how many jobs it would be."),
        click.option(
            "--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="At most so many jobs."
        ),
        click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="A state; again for more."),
        click.option("--batch", type=click.UUID, help="Members of this batch."),
        click.option("--owner", help="Jobs of this owner."),
        click.option("--queue", type=arguments.name, help="Jobs of this queue."),
        click.option("--kind", type=arguments.name, help="Jobs of this kind."),
        click.argument("ids", nargs=-1, type=click.UUID, metavar="[ID]..."),
    ):
        command = add(command)
    return command


@click.command("cancel-many", short_help="Cancel the jobs that fit, the oldest first.")
@_selection
def cancel_many(**selection: Any) -> None:
    """Cancel the jobs that fit, the oldest first: those that wait end at once, those that run are told."""
    _act("cancel", "cancelled", **selection)


@click.command(short_help="Delete jobs that wait or have ended.")
@_selection
def delete(**selection: Any) -> None:
    """Delete jobs that wait or have ended, with their steps, the oldest first. Nothing remains of them."""
    _act("delete", "deleted", **selection)


@click.command("run-now", short_help="Make jobs due that wait for their time.")
@_selection
def run_now(**selection: Any) -> None:
    """Make jobs due that wait for their time or for their next attempt.

    One that sleeps, or waits for an event, finds that it still has to, and goes on waiting.
    """
    _act("run_now", "due now", **selection)


@click.command()
@click.option("--priority", type=click.IntRange(-32768, 32767), required=True, help="The new one; smaller goes first.")
@_selection
def prioritise(priority: int, **selection: Any) -> None:
    """Set the priority of jobs that wait."""
    _act("prioritise", f"of priority {priority}", priority=priority, **selection)


def _act(
    action: "Action",
    done: str,
    *,
    ids: tuple[UUID, ...],
    kind: str | None,
    queue: str | None,
    owner: str | None,
    batch: UUID | None,
    states: tuple[str, ...],
    limit: int,
    dry_run: bool,
    as_json: bool,
    priority: int | None = None,
) -> None:
    from plinth.jobs import State
    from plinth.jobs.admin.bulk import Selection, act_on_many

    selection = Selection(kind, queue, owner, tuple(map(State, states)), ids, batch)
    if not any(selection):
        raise click.UsageError("Say which jobs: by id, --kind, --queue, --owner, --batch or --state.")
    act = partial(
        act_on_many,
        action=action,
        selection=selection,
        by=system_user(),
        priority=priority,
        limit=limit,
        dry_run=dry_run,
    )
    count = transact(act)
    things, are = ("job", "is") if count == 1 else ("jobs", "are")
    verb = "would be" if dry_run else "will be" if action == "cancel" else are
    sentence = f"{count} {things} {verb} {done}."
    print_one({"count": count, "dry_run": dry_run}, sentence, as_json=as_json)
    if count == limit:
        click.echo(f"That is the limit of {limit}: there may be more.", err=True)
