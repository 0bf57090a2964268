"""`plinth workers`: lists the workers."""

from typing import TYPE_CHECKING

import click

from plinth.cli.arguments import json_option
from plinth.cli.common import transact
from plinth.cli.output import print_list

if TYPE_CHECKING:
    from plinth.jobs.admin.queues import WorkerRead


@click.command(short_help="List the workers, and those lost within the last hour.")
@json_option
def workers(as_json: bool) -> None:
    """List the workers that live, and those that were lost within the last hour. --json as for `plinth jobs`."""
    from plinth.jobs.admin.queues import list_workers

    found = transact(list_workers)
    columns = ("NAME", "STATUS", "VERSION", "QUEUES", "RUNNING", "STARTED", "RENEWED")
    print_list(found, columns, map(_row, found), as_json=as_json, none="No worker runs.")


def _row(worker: "WorkerRead") -> tuple[object, ...]:
    running = f"{worker.running}/{worker.concurrency}"
    times = worker.started_at, worker.renewed_at
    return worker.name, worker.status, worker.version, worker.queues, running, *times
