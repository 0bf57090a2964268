"""`plinth schedules`: what operators see and do of schedules."""

import click

from plinth.cli.arguments import json_option
from plinth.cli.common import register_jobs, system_user, transact
from plinth.cli.output import print_list, print_one


@click.group()
def schedules() -> None:
    """Schedules, as the workers have declared them. --json and exit codes as for `plinth jobs`."""


@schedules.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the schedules."""
    register_jobs()  # the next slot is computed here
    from plinth.jobs.admin.queues import list_schedules

    found = transact(list_schedules)
    columns = ("NAME", "KIND", "CRON", "TIMEZONE", "LAST SLOT", "NEXT SLOT", "PAUSED")
    rows = [(row.name, row.kind, row.cron, row.timezone, row.last_slot, row.next_slot, row.paused_at) for row in found]
    print_list(found, columns, rows, as_json=as_json, none="No worker has declared a schedule.")


@schedules.command(short_help="Enqueue a schedule's job now, beside its slots.")
@click.argument("name")
@json_option
def run(name: str, as_json: bool) -> None:
    """Enqueue a schedule's job now, beside its slots, and print the job's id."""
    register_jobs()
    from plinth.jobs.admin.queues import run_schedule

    made = transact(lambda session: run_schedule(session, name, by=system_user()))
    print_one(made, made.id, as_json=as_json)


@schedules.command()
@click.argument("name")
@json_option
def pause(name: str, as_json: bool) -> None:
    """Pause a schedule: its slots enqueue no job until `resume`."""
    from plinth.jobs.admin.queues import pause_schedule

    transact(lambda session: pause_schedule(session, name, by=system_user()))
    print_one({"name": name, "paused": True}, f"{name} is paused.", as_json=as_json)


@schedules.command()
@click.argument("name")
@json_option
def resume(name: str, as_json: bool) -> None:
    """Follow a schedule again, from now on."""
    from plinth.jobs.admin.queues import resume_schedule

    transact(lambda session: resume_schedule(session, name, by=system_user()))
    print_one({"name": name, "paused": False}, f"{name} is followed.", as_json=as_json)
