"""`plinth jobs`: lists, shows, cancels, retries and enqueues jobs."""

import json
import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import click

from plinth.cli import arguments
from plinth.cli.arguments import json_option
from plinth.cli.common import on_database, register_jobs, system_user, transact
from plinth.cli.output import cut, print_json, print_list, print_one, printable, shown

if TYPE_CHECKING:
    from pydantic import ValidationError as PydanticError
    from sqlmodel.ext.asyncio.session import AsyncSession

    from plinth.database.engine import Database
    from plinth.jobs.admin.jobs import JobView
    from plinth.jobs.admin.steps import StepView
    from plinth.jobs.outcome import ErrorEntry

# The values of plinth.jobs.State, repeated because importing it would slow every other command.
STATES = ("scheduled", "available", "running", "retryable", "succeeded", "cancelled", "discarded")
ERROR_LENGTH = 60  # characters of an error in a list
NEVER = 9999  # the year in which a job is due that waits for an event without a time-out


@click.group()
def jobs() -> None:
    """Jobs and their queues.

    With --json each command prints one object a line: one line for one thing, a line for each member of a list. Exit
    codes: 0 done, 1 not possible, 2 wrong usage or settings.
    """


@jobs.command("list")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="A state; may be given again.")
@click.option("--kind", help="Only this kind.")
@click.option("--queue", help="Only this queue.")
@click.option("--owner", help="Only this owner's.")
@click.option("--batch", type=click.UUID, help="Only members of this batch.")
@click.option("--before", type=click.UUID, help="Only those older than this job: the next page.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@json_option
def list_command(
    states: tuple[str, ...],
    kind: str | None,
    queue: str | None,
    owner: str | None,
    batch: UUID | None,
    before: UUID | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, alive and ended, the newest first."""
    from plinth.jobs import State
    from plinth.jobs.admin.jobs import list_jobs

    wanted = [State(state) for state in states]
    # One more than asked for tells whether there is a next page.
    search = partial(list_jobs, states=wanted, kind=kind, queue=queue, owner=owner, batch=batch, before=before)
    found = transact(partial(search, limit=limit + 1, payloads=as_json))
    page = found[:limit]
    columns = ("ID", "KIND", "QUEUE", "STATE", "ATTEMPT", "CREATED", "OWNER", "LAST ERROR")
    print_list(page, columns, [_row(job) for job in page], as_json=as_json, none="There are no such jobs.")
    if len(found) > limit:
        narrowed = {"--kind": kind, "--queue": queue, "--owner": owner, "--batch": batch}
        options = narrowed | {"--before": page[-1].id, "--limit": str(limit)}
        given = [part for state in states for part in ("--state", state)]
        given += [part for name, value in options.items() if value is not None for part in (name, str(value))]
        given += ["--json"] if as_json else []
        click.echo(f"More: plinth jobs list {shlex.join(given)}", err=True)


def _row(job: "JobView") -> tuple[object, ...]:
    error = cut(_said(job.errors[-1])[0], ERROR_LENGTH) if job.errors else None
    attempts = f"{job.attempt}/{job.max_attempts}"
    return job.id, job.kind, job.queue, job.state, attempts, job.created_at, job.owner, error


@jobs.command(short_help="Show all that is known of a job.")
@click.argument("job_id", type=click.UUID, metavar="ID")
@json_option
def show(job_id: UUID, as_json: bool) -> None:
    """Show all that is known of a job, with each failed run's error and traceback."""
    from plinth.jobs.admin.jobs import get_job
    from plinth.jobs.admin.steps import list_steps

    async def read(session: "AsyncSession") -> "tuple[JobView, list[StepView]]":
        return await get_job(session, job_id), await list_steps(session, job_id)

    job, steps = transact(read)
    if as_json:
        print_json(asdict(job) | {"steps": steps})
        return
    fields = {
        "Job": job.id,
        "Kind": job.kind,
        "State": job.state,
        "Queue": job.queue,
        "Priority": job.priority,
        "Owner": job.owner,
        "Unique key": job.unique_key,
        "Limit key": job.limit_key or None,
        "Batch": job.batch_id,
        "Attempts": f"{job.attempt} of {job.max_attempts}",
        "Run number": job.run_lease,
        "Crashes": job.crash_count,
        "Created": job.created_at,
        "Due": None if job.run_at.year == NEVER else job.run_at,
        "Started": job.started_at,
        "Worker": job.worker,
        "Progress": _progress(job),
        "Cancel asked": job.cancel_requested_at,
        "Finished": job.finished_at,
        "Payload": json.dumps(job.payload, ensure_ascii=False),
        "Result": None if job.result is None else json.dumps(job.result, ensure_ascii=False),
    }
    for name, value in fields.items():
        if value is not None:
            click.echo(f"{name:<14}{shown(value)}")
    for step in steps:
        waits = step.state == "waiting"
        until = f", until {shown(step.due_at)}" if waits and step.due_at is not None else ""
        gave = step.error or ("" if step.result is None else json.dumps(step.result, ensure_ascii=False))
        click.echo(printable(f"Step {step.name} ({step.kind}): {step.state}{until}{gave and f': {gave}'}"))
    for entry in job.errors:
        at = shown(datetime.fromisoformat(entry["at"]))
        click.echo(f"\nRun {entry['run']}, attempt {entry['attempt']}, {at}: {entry['outcome']}")
        for line in [*_said(entry), *entry["traceback"].splitlines()]:
            click.echo(f"  {printable(line)}".rstrip())


def _said(entry: "ErrorEntry") -> list[str]:
    """What an error says to its owner and to operators, or once if operators read the same and more."""
    error, detail = entry["error"], entry["detail"].removesuffix(": ")
    return [detail] if detail.startswith(error) else [error, detail]


def _progress(job: "JobView") -> str | None:
    if job.progress_done is None:
        return None
    done = f"{job.progress_done}" + ("" if job.progress_total is None else f" of {job.progress_total}")
    return f"{done}: {job.progress_message}" if job.progress_message else done


@jobs.command(short_help="Cancel jobs that wait or run.")
@click.argument("ids", nargs=-1, required=True, type=click.UUID, metavar="ID...")
@json_option
def cancel(ids: tuple[UUID, ...], as_json: bool) -> None:
    """Cancel jobs: those that wait end at once, those that run are told."""
    from plinth.jobs.admin.jobs import request_cancel

    _change(ids, partial(request_cancel, by=system_user()), as_json=as_json)


@jobs.command(short_help="Do cancelled or discarded jobs again.")
@click.argument("ids", nargs=-1, type=click.UUID, metavar="[ID]...")
@click.option("--kind", type=arguments.name, help="Dead letters of this kind.")
@click.option(
    "--since",
    type=arguments.moment,
    metavar="TIME",
    help="Dead letters since then: an ISO time, or an age such as 2h, 3d.",
)
@click.option("--until", type=arguments.moment, metavar="TIME", help="Dead letters of before then.")
@click.option("--limit", type=click.IntRange(1, 10_000), help="At most so many dead letters.  [default: 1000]")
@click.option("--dry-run", is_flag=True, help="Only say how many dead letters it would be.")
@json_option
def retry(
    ids: tuple[UUID, ...],
    kind: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Do cancelled or discarded jobs again: those named or, in bulk, dead letters by kind and time.

    In bulk, those whose unique key a job that is still to be done has are passed over.
    """
    from plinth.jobs.admin.jobs import retry_job
    from plinth.jobs.admin.queues import retry_dead_letters

    narrowed = any(option is not None for option in (kind, since, until, limit))
    if ids and (narrowed or dry_run):
        raise click.UsageError("Name jobs, or say which dead letters: not both.")
    if ids:
        register_jobs()
        _change(ids, partial(retry_job, by=system_user()), as_json=as_json)
        return
    if not narrowed:
        raise click.UsageError("Name jobs, or say which dead letters: --kind, --since, --until or --limit.")
    if since and until and since >= until:
        raise click.UsageError("--since has to be before --until.")
    most = limit or 1000
    count = transact(
        partial(
            retry_dead_letters,
            by=system_user(),
            kind=kind,
            since=since,
            until=until,
            limit=most,
            dry_run=dry_run,
        )
    )
    letters = "dead letter" if count == 1 else "dead letters"
    sentence = f"{count} {letters} {'would be' if dry_run else 'will be'} done again."
    print_one({"count": count, "dry_run": dry_run}, sentence, as_json=as_json)
    if count == most:
        click.echo(f"That is the limit of {most}: there may be more.", err=True)


def _change(
    ids: Sequence[UUID],
    change: "Callable[[AsyncSession, UUID], Awaitable[JobView]]",
    *,
    as_json: bool,
) -> None:
    """Change jobs one by one, each in a transaction of its own; exit 1 if one of them could not be."""
    from plinth.database.engine import DatabaseUnavailableError
    from plinth.errors import AppException
    from plinth.jobs import State
    from plinth.jobs.kinds import kinds

    async def work(database: "Database") -> bool:
        complete = True
        for job_id in ids:
            try:
                async with database.session() as session:
                    job = await change(session, job_id)
            except DatabaseUnavailableError:
                raise
            except AppException as error:
                click.echo(f"{job_id}: {error}", err=True)
                complete = False
                continue
            asked = job.cancel_requested_at is not None
            state = "running, its worker is told to cancel it" if asked else job.state
            print_one(job, f"{job_id}  {state}", as_json=as_json)
            if job.state is State.AVAILABLE and job.kind not in kinds():
                kind = printable(job.kind)
                click.echo(
                    f"{job_id}: this version knows no kind {kind}; the job waits for a worker that does", err=True
                )
        return complete

    if not on_database(work):
        sys.exit(1)


@jobs.command(short_help="Enqueue a job and print its id.")
@click.argument("kind")
@click.argument("payload", metavar="JSON")
@click.option("--queue", type=arguments.name, help="Another one than the kind's.")
@click.option("--priority", type=click.IntRange(-32768, 32767), help="Another one than the kind's; smaller goes first.")
@click.option("--delay", type=arguments.duration, help="Not before this time has passed: 90s, 15m, 2h, 3d.")
@click.option("--unique-key", help="Only one live job of the kind may have it.")
@click.option("--owner", help="The caller that it is for, as `jobs list` shows it.")
@json_option
def enqueue(
    kind: str,
    payload: str,
    queue: str | None,
    priority: int | None,
    delay: timedelta | None,
    unique_key: str | None,
    owner: str | None,
    as_json: bool,
) -> None:
    """Enqueue a job and print its id: plinth jobs enqueue mail.welcome '{"user_id": 7}'"""
    register_jobs()
    from pydantic import ValidationError

    from plinth.jobs import UnknownKindError, kind_named
    from plinth.jobs.admin.jobs import enqueue_by_hand
    from plinth.jobs.enqueue import prepare

    try:
        known = kind_named(kind)
    except UnknownKindError as error:
        raise click.BadParameter(str(error), param_hint="KIND") from None
    try:
        model = known.read(payload)
    except ValidationError as error:
        # Not from it: it holds the values, and any could be a secret.
        raise click.BadParameter(_issues(kind, error), param_hint="JSON") from None
    try:
        insertion = prepare(
            known,
            [model],
            queue=queue,
            priority=priority,
            delay=delay.total_seconds() if delay else 0,
            unique_keys=None if unique_key is None else [unique_key],
            owner=owner,
        )
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None

    made = transact(lambda session: enqueue_by_hand(session, insertion, by=system_user()))
    print_one(made, made.id, as_json=as_json)
    if not made.created:
        click.echo("A job with this unique key is still to be done: that is its id, and no other was made.", err=True)


def _issues(kind: str, error: "PydanticError") -> str:
    lines = [f"it does not fit {kind}."]
    for issue in error.errors(include_input=False, include_url=False):
        message = issue["msg"]
        if issue["type"] == "union_tag_invalid":  # the message repeats the tag
            message = f"Input should have one of the tags {issue['ctx']['expected_tags']}"
        elif issue["type"] == "uuid_parsing":  # and this one a part of the value
            message = "Input should be a valid UUID"
        where = ".".join(map(str, issue["loc"])) or "the whole"
        lines.append(f"  {printable(where)}: {message}")
    return "\n".join(lines)
