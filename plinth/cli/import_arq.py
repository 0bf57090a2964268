"""`plinth jobs import-arq`: takes over what waits in a queue of arq."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from plinth.cli.arguments import json_option
from plinth.cli.common import fail, load_postgresql_settings, on_database, register_jobs, system_user
from plinth.cli.output import print_json, printable, progress

if TYPE_CHECKING:
    from plinth.database.engine import Database
    from plinth.jobs.arq.takeover import Report
    from plinth.redis import Redis

__all__ = ["import_arq"]

SHOWN_IDS = 3  # of the jobs that stay for one reason


@click.command("import-arq", short_help="Take over what waits in a queue of arq.")
@click.option("--redis-url", help="arq's Redis. Without it: that of RedisSettings, else the service's own.")
@click.option("--queue", default="arq:queue", show_default=True, help="arq's queue.")
@click.option("--dry-run", is_flag=True, help="Only read and count the jobs.")
@json_option
def import_arq(redis_url: str | None, queue: str, dry_run: bool, as_json: bool) -> None:
    """Take over what waits in a queue of arq, for the functions that the service registers.

    It may be killed and run again: no job is lost, and none is there twice. Exits with 1 if jobs stay in Redis.

    Jobs are unpickled, which runs what a client of that Redis has written: do it only with a Redis of your own.
    """
    register_jobs()
    from redis.exceptions import RedisError

    from plinth.jobs.arq.takeover import take_over
    from plinth.redis.errors import redis_reason

    async def work(database: "Database") -> "Report":
        with progress("Jobs", hidden=as_json) as told:
            async with _open(redis_url, queue) as redis:
                return await take_over(redis, database, queue, by=system_user(), dry_run=dry_run, told=told)

    try:
        report = on_database(work)
    except (RedisError, OSError) as error:
        fail(f"arq's Redis: {redis_reason(error)}. Run it again: nothing is lost.", code=1)
    if as_json:
        print_json(asdict(report))
    else:
        _print(report, dry_run=dry_run)
    if report.running or report.left:
        sys.exit(1)


def _open(url: str | None, queue: str) -> "Redis":
    from plinth.jobs.arq.registry import known
    from plinth.jobs.arq.takeover import client_of
    from plinth.redis import Redis
    from plinth.redis.sentinel import SentinelPool
    from plinth.settings.sentinel import SentinelURL

    if not known():
        fail("The service registers no functions of arq's: call plinth.jobs.arq.register(WorkerSettings).", code=2)
    sources = [function.source for function in known() if function.source.queue_name == queue]
    named = next((source.redis_settings for source in sources if source.redis_settings is not None), None)
    try:
        if url is None and named is not None:
            return client_of(named)
        if (address := url or load_postgresql_settings().redis_url) is None:
            fail("There is no Redis: name arq's with --redis-url.", code=2)
        watched = SentinelURL.parse(address)
        return Redis.from_url(address) if watched is None else Redis.from_pool(SentinelPool(watched))
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--redis-url") from None


def _print(report: "Report", *, dry_run: bool) -> None:
    counts = {
        "waited in the queue": report.waiting,
        "would be taken over" if dry_run else "taken over": report.taken,
        "were taken over before": report.already,
        "had expired, and are dropped": report.expired,
        "were ended by arq's workers meanwhile": report.gone,
        "are run by arq's workers, and stay": report.running,
        **{f"stay: {reason} ({_some(ids)})": len(ids) for reason, ids in report.left.items()},
    }
    for what, count in counts.items():
        if count or what == "waited in the queue":
            click.echo(f"{count:>8}  {printable(what)}")


def _some(ids: list[str]) -> str:
    """The first of the ids. With --json all of them are printed."""
    return ", ".join(ids[:SHOWN_IDS]) + (", …" if len(ids) > SHOWN_IDS else "")
