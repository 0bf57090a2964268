"""`plinth`: one command line for every process."""

import asyncio
import os
import signal
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

import plinth
from plinth import __version__
from plinth.cli import arguments
from plinth.cli.audit import audit
from plinth.cli.common import (
    fail,
    load_postgresql_settings,
    load_settings,
    not_migrated,
    read_settings,
    refuse_known_keys,
    register_jobs,
)
from plinth.cli.config import effective_configuration
from plinth.cli.doctor import doctor
from plinth.cli.drain import drain
from plinth.cli.import_arq import import_arq
from plinth.cli.job_batch import batch
from plinth.cli.job_bulk import cancel_many, delete, prioritise, run_now
from plinth.cli.jobs import jobs
from plinth.cli.keys import keys
from plinth.cli.log_level import log_level
from plinth.cli.queues import pause, resume, stats, watch
from plinth.cli.schedules import schedules
from plinth.cli.server import listen, serve
from plinth.cli.service import ServiceError, declared_settings
from plinth.cli.sql import sql
from plinth.cli.workers import workers
from plinth.settings import PlatformSettings, SettingsError
from plinth.telemetry.logging import configure_logging, error_text

# With --reload a worker has so many seconds to stop, five of them to give back what still runs, and requests have one:
# new code shall not wait for what the old one began.
RELOAD_GRACE = 6.0
RELOAD_REQUEST_GRACE = 1

host_option = click.option(
    "--host", type=arguments.address, default="127.0.0.1", show_default=True, help="Address to listen on; :: for all."
)
port_option = click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Its port.")
reload_option = click.option("--reload", is_flag=True, help="Restart when the code changes.")
data_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path(".plinth"),
    show_default=True,
    help="Where the embedded servers keep their data.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """The ground that a FastAPI service stands on."""
    if os.getpid() == 1:
        # A container's only process. The kernel spares it every signal for which it has no handler.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


for _command in (audit, doctor, drain, jobs, keys, log_level, schedules, workers):
    main.add_command(_command)
for _command in (batch, cancel_many, delete, import_arq, pause, prioritise, resume, run_now, sql, stats, watch):
    jobs.add_command(_command)


@main.command(short_help="Run everything here: servers, migrations, API, worker.")
@host_option
@port_option
@reload_option
@data_option
def run(host: str, port: int, reload: bool, data_dir: Path) -> None:
    """Run everything here: PostgreSQL and Redis from wheels, migrations, the API and a worker."""
    start = _embedded("run").run
    settings = read_settings()
    refuse_known_keys(settings, host, but={"SECRET_KEY"} - settings.model_fields_set)  # the run makes what is not set
    sys.exit(start(settings, host=host, port=port, reload=reload, data_dir=data_dir))


def _embedded(module: str) -> Any:
    """A module of `plinth.embedded`; ends with 2 where that, or what it needs, is not installed."""
    try:
        return import_module(f"plinth.embedded.{module}")
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed. Install it with: pip install 'plinth[embedded]'", code=2)


@main.command(
    "with-servers",
    context_settings={"ignore_unknown_options": True},
    short_help="Run a command beside the embedded servers.",
)
@data_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def with_servers(command: tuple[str, ...], data_dir: Path) -> None:
    """Run a command beside the embedded servers: plinth with-servers -- alembic history"""
    run_beside = _embedded("with_servers").with_servers
    sys.exit(run_beside(command, read_settings(), data_dir=data_dir))


@main.command()
@host_option
@port_option
@reload_option
@click.option(
    "--root-path", type=arguments.path_prefix, help="Instead of ROOT_PATH: the prefix that a proxy in front takes off."
)
def api(host: str, port: int, reload: bool, root_path: str | None) -> None:
    """Serve the API, and its probes and metrics on METRICS_PORT."""
    settings = load_settings("api")
    refuse_known_keys(settings, host)
    if not reload:
        # The event loop would listen on IPv6 alone.
        sockets = [listen(host, port)] if host == "::" else None
        serve(settings, host=host, port=port, root_path=root_path, sockets=sockets)
        return

    from plinth.cli.reload import run_reloaded

    listening = listen(host, port)
    restarted = partial(_serve_reloaded, sockets=[listening], host=host, port=port, root_path=root_path)
    run_reloaded(restarted, places=_code_of(settings), listening=listening)


def _code_of(settings: PlatformSettings) -> list[Path]:
    """The folders and files whose changes restart a process: the service's package and migrations, and the platform."""
    service = sys.modules[type(settings).__module__.partition(".")[0]]
    places = [settings.service.migrations]
    for module in (service, plinth):
        # A package without an __init__.py has folders and no file; the service may be a single file as well.
        found = module.__path__ if hasattr(module, "__path__") else [str(module.__file__)]
        places += map(Path, found)
    return places


def _serve_reloaded(**options: Any) -> None:
    """The API in a process of the reloader, which reports what this raises."""
    serve(_new_settings("api"), grace=RELOAD_REQUEST_GRACE, **options)


def _new_settings(process: str) -> PlatformSettings:
    """The settings of code that has changed. Raises ServiceError or SettingsError."""
    settings = declared_settings(Path.cwd())()
    configure_logging(settings, process)
    return settings


@main.command(short_help="Run jobs until SIGTERM.")
@click.option("--queues", type=arguments.names, help="Instead of JOBS_QUEUES: queues to serve, separated by commas.")
@click.option("--concurrency", type=click.IntRange(1, 1000), help="Instead of JOBS_CONCURRENCY: jobs at once.")
@click.option(
    "--host",
    type=arguments.address,
    default="127.0.0.1",
    show_default=True,
    help="Address of probes and metrics; :: for all.",
)
@reload_option
def worker(queues: list[str] | None, concurrency: int | None, host: str, reload: bool) -> None:
    """Run jobs until SIGTERM; a second one gives back at once what still runs."""
    settings = load_postgresql_settings("worker")
    if not reload:
        _work(settings, queues=queues, concurrency=concurrency, host=host)
        return
    from plinth.cli.reload import run_reloaded

    work = partial(_work_reloaded, queues=queues, concurrency=concurrency, host=host)
    run_reloaded(work, places=_code_of(settings))


def _work(settings: PlatformSettings, *, queues: list[str] | None, concurrency: int | None, host: str) -> None:
    import asyncpg
    import uvloop

    from plinth.database.errors import database_reason
    from plinth.health.probe_server import ProbeServerError
    from plinth.jobs.engine.worker import run_worker
    from plinth.jobs.kinds import check_codecs

    register_jobs()
    try:
        check_codecs(settings)
        uvloop.run(run_worker(settings, queues=queues, concurrency=concurrency, host=host))
    except SettingsError as error:
        fail(error_text(error), code=2)
    except ProbeServerError as error:
        fail(str(error), code=1)
    except asyncpg.UndefinedTableError:
        not_migrated()
    except asyncpg.InsufficientPrivilegeError as error:
        fail(f"{database_reason(error)}.", code=1)


def _work_reloaded(**options: Any) -> None:
    """The worker in a process of the reloader."""
    settings = _new_settings("worker")
    grace = min(settings.JOBS_SHUTDOWN_GRACE, RELOAD_GRACE)
    _work(settings.model_copy(update={"JOBS_SHUTDOWN_GRACE": grace}), **options)


@main.command(short_help="Bring the database to the revisions of this code.")
@click.option("--check", is_flag=True, help="Apply nothing; exit 1 if something is missing.")
@click.option("--to", type=arguments.revision, show_default="heads", help="The revision to upgrade to.")
@click.option(
    "--down",
    type=arguments.revision,
    help="Take back instead: to this revision. -1 and base speak of the service's revisions, plinth@-1 and plinth@base "
    "of the platform's.",
)
@click.option("--wait", type=arguments.FiniteRange(0), default=60, show_default=True, help="Seconds to wait.")
def migrate(check: bool, to: str | None, down: str | None, wait: float) -> None:
    """Bring the database to the revisions of this code, the platform's and the service's."""
    from plinth.database.migrator import MigrationError, Migrator

    if [check, to is not None, down is not None].count(True) > 1:
        raise click.UsageError("--check, --to and --down exclude one another.")
    try:
        migrator = Migrator(load_postgresql_settings(), wait_seconds=wait)
        if check:
            pending = asyncio.run(migrator.pending())
            click.echo(f"missing: {', '.join(pending)}" if pending else "up to date")
            sys.exit(1 if pending else 0)
        asyncio.run(migrator.downgrade(down) if down is not None else migrator.upgrade(to or "heads"))
    except MigrationError as error:
        fail(str(error), code=1)


@main.command(short_help="Wait until the database has the migrations of this code.")
@click.option(
    "--timeout", type=arguments.FiniteRange(0), default=300, show_default=True, help="Seconds until it gives up."
)
def wait(timeout: float) -> None:
    """Wait until the database answers and has the migrations of this code, or later ones."""
    from plinth.database.migrator import MigrationError, wait_until_migrated

    try:
        asyncio.run(wait_until_migrated(load_postgresql_settings(), timeout=timeout))
    except MigrationError as error:
        fail(str(error), code=1)


@main.command()
@click.option("--sub", required=True, help="Whose token: the subject.")
@click.option("--scope", multiple=True, help="A scope; may be given again.")
@click.option("--role", multiple=True, help="A role; may be given again.")
@click.option("--hours", type=arguments.FiniteRange(0.01, 24 * 365), default=12, show_default=True, help="Its life.")
@data_option
def token(sub: str, scope: tuple[str, ...], role: tuple[str, ...], hours: float, data_dir: Path) -> None:
    """Print a development token (AUTH_PROVIDER=local only).

    Without SECRET_KEY it is signed with the key that `plinth run` has made in its data folder.
    """
    from plinth.identity import sign_local_token

    settings = _with_key_of_run(load_settings(), data_dir)
    try:
        signed = sign_local_token(settings, subject=sub, ttl=round(hours * 3600), scopes=scope, roles=role)
    except ValueError as error:
        fail(str(error), code=1)
    click.echo(signed)


def _with_key_of_run(settings: PlatformSettings, data_dir: Path) -> PlatformSettings:
    """The settings with the key of `plinth run` on `data_dir`, if it made one; ends with 1 if it cannot be used."""
    try:
        from plinth.embedded.process import EmbeddedError
        from plinth.embedded.secret_key import found_key
    except ModuleNotFoundError:  # nothing can run here
        return settings
    try:
        return settings.model_copy(update={name: SecretStr(key) for name, key in found_key(settings, data_dir).items()})
    except EmbeddedError as error:
        fail(str(error), code=1)


@main.group()
def config() -> None:
    """The configuration."""


@config.command("check", short_help="Print what is in force, secrets masked.")
def config_check() -> None:
    """Print what is in force, secrets masked, and warnings; if it cannot be used, say why and exit 2."""
    settings = load_settings()
    for row in effective_configuration(settings):
        click.echo(row)
    for name, reason in settings.warnings:
        click.echo(f"warning: {name}: {reason}", err=True)


@main.command()
def version() -> None:
    """Print the versions of the service and of the platform."""
    try:
        service = declared_settings(Path.cwd()).service
    except ServiceError as error:
        fail(str(error), code=2)
    click.echo(f"{service.version} (plinth {__version__})")
