"""`plinth audit`: lists what operators did."""

import shlex
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import click

from plinth.cli import arguments
from plinth.cli.arguments import json_option
from plinth.cli.common import transact
from plinth.cli.output import print_list

if TYPE_CHECKING:
    from plinth.audit import AuditRecord


@click.command()
@click.option("--actor", help="Only acts of this subject, such as alice or cli:root@host.")
@click.option("--action", help="Only this, such as queue.pause.")
@click.option("--target", help="Only acts on this, such as queue:mail or job:ID.")
@click.option(
    "--since", type=arguments.moment, metavar="TIME", help="Only since then: an ISO time, or an age such as 2h, 3d."
)
@click.option("--before", type=click.UUID, help="Only those older than this record: the next page.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@json_option
def audit(
    actor: str | None,
    action: str | None,
    target: str | None,
    since: datetime | None,
    before: UUID | None,
    limit: int,
    as_json: bool,
) -> None:
    """List what operators did, the newest first. --json and exit codes as for `plinth jobs`."""
    from plinth.audit import AuditRecord, list_records

    search = partial(list_records, actor=actor, action=action, target=target, since=since, before=before)
    # One more than asked for tells whether there is a next page.
    found = transact(partial(search, limit=limit + 1))
    page = found[:limit]
    columns = ("AT", "ACTOR", "ISSUER", "ACTION", "TARGET", "DETAIL", "REQUEST")
    things = [{name: getattr(record, name) for name in AuditRecord.model_fields} for record in page]
    print_list(things, columns, map(_row, page), as_json=as_json, none="There are no such records.")
    if len(found) > limit:
        options = {"--actor": actor, "--action": action, "--target": target, "--before": page[-1].id, "--limit": limit}
        options["--since"] = None if since is None else since.isoformat()
        given = [part for name, value in options.items() if value is not None for part in (name, str(value))]
        given += ["--json"] if as_json else []
        click.echo(f"More: plinth audit {shlex.join(given)}", err=True)


def _row(record: "AuditRecord") -> tuple[object, ...]:
    known = {name: value for name, value in record.detail.items() if value is not None}
    return record.at, record.subject, record.issuer, record.action, record.target, known or None, record.request_id
