"""`plinth jobs batch`: shows a batch of jobs."""

from dataclasses import asdict
from functools import partial
from uuid import UUID

import click

from plinth.cli.arguments import json_option
from plinth.cli.common import transact
from plinth.cli.output import print_json, shown

__all__ = ["batch"]


@click.command(short_help="Show a batch: how many of its jobs are in which state.")
@click.argument("batch_id", type=click.UUID, metavar="ID")
@json_option
def batch(batch_id: UUID, as_json: bool) -> None:
    """Show a batch: how many of its jobs are in which state, and what is enqueued when all have ended."""
    from plinth.jobs.admin.batches import get_batch

    found = transact(partial(get_batch, batch_id=batch_id))
    if as_json:
        print_json(asdict(found) | {"total": found.total, "live": found.live})
        return
    fields = {
        "Batch": found.id,
        "Owner": found.owner,
        "Child jobs of": found.parent_id,
        "At its end": found.on_end_job_id,
        "Created": found.created_at,
        "Finished": found.finished_at,
        "Jobs": found.total,
        "Live": found.live,
        **{state.capitalize(): number for state, number in found.states.items() if number},
    }
    for name, value in fields.items():
        if value is not None:
            click.echo(f"{name:<14}{shown(value)}")
