"""What the commands have in common: the settings, the end with a sentence, work on the database."""

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeVar

import click

from plinth.cli.service import ServiceError, declared_settings, load
from plinth.settings import PlatformSettings, SettingsError
from plinth.settings.urls import is_loopback_host
from plinth.telemetry.logging import configure_logging, error_text

if TYPE_CHECKING:
    from sqlmodel.ext.asyncio.session import AsyncSession

    from plinth.database.engine import Database

__all__ = [
    "fail",
    "load_postgresql_settings",
    "load_settings",
    "not_migrated",
    "on_database",
    "read_settings",
    "refuse_known_keys",
    "register_jobs",
    "system_user",
    "transact",
]

T = TypeVar("T")

# A person waits longer than a client of the API: for a slow network, and for a thousand dead letters at once. Seconds.
LIMITS = {"DB_POOL_SIZE": 1, "DB_CONNECT_TIMEOUT": 5.0, "DB_POOL_TIMEOUT": 5.0, "DB_STATEMENT_TIMEOUT": 60.0}

# SQLSTATEs: a table, a column or a function that this code knows is missing.
_NOT_MIGRATED = ("42P01", "42703", "42883")


def fail(message: str, *, code: int) -> NoReturn:
    """Say on stderr what is wrong, and end with that exit code."""
    click.echo(message, err=True)
    sys.exit(code)


def refuse(settings: PlatformSettings, problem: str) -> NoReturn:
    """End with 2 because of a setting: with the sentence, or with LOG_FORMAT=json a line of the log."""
    error = SettingsError([problem], settings.LOG_FORMAT, settings.LOG_PROFILE)
    fail(error_text(error) if settings.LOG_FORMAT == "json" else problem, code=2)


def not_migrated() -> NoReturn:
    """End because the database lacks what this code needs."""
    fail("The database lacks tables or columns that this version needs: run `plinth migrate`.", code=1)


def load_settings(process: str | None = None) -> PlatformSettings:
    """The service's settings, with logging set up as they say; ends with 2 if they cannot be used."""
    settings = read_settings()
    configure_logging(settings, process)
    return settings


def read_settings() -> PlatformSettings:
    """The service's settings; ends with 2 if there is no service here or they cannot be used."""
    try:
        return declared_settings(Path.cwd())()
    except SettingsError as error:
        fail(error_text(error), code=2)
    except ServiceError as error:
        fail(str(error), code=2)


def refuse_known_keys(settings: PlatformSettings, host: str, *, but: Collection[str] = ()) -> None:
    """End with 2 if other machines could reach `host` and know a key that signs tokens, one in `but` aside."""
    for name, problem in settings.known_keys():
        if name not in but and not is_loopback_host(host):
            refuse(
                settings,
                f"{name}: {problem}. With a key that others can know, any client could sign tokens, so nothing listens "
                f"on {host or 'every address'}. Set {name}, or listen on 127.0.0.1.",
            )


def register_jobs() -> None:
    """Register the service's kinds of jobs and its schedules; ends with 2 if there is no service here."""
    try:
        load(declared_settings(Path.cwd()).service.jobs)
    except ServiceError as error:
        fail(str(error), code=2)


class SystemUser(NamedTuple):
    """What the audit log says of a command: the user and the machine that it ran as."""

    issuer: str
    subject: str


def system_user() -> SystemUser:
    """The system user of this process. By its id: environment variables may name any user."""
    try:
        import pwd

        name = pwd.getpwuid(os.getuid()).pw_name
    except ImportError:  # Windows
        import getpass

        name = getpass.getuser()
    except KeyError:  # a container may run with an id that has no name
        name = str(os.getuid())
    return SystemUser("plinth:cli", f"cli:{name}@{socket.gethostname()}"[:255])


def load_postgresql_settings(process: str | None = None) -> PlatformSettings:
    """The same, for what needs the platform's tables; ends with 2 for another database than PostgreSQL."""
    settings = load_settings(process)
    if settings.async_database_url.startswith("sqlite"):
        refuse(settings, "DATABASE_URL: this command needs PostgreSQL.")
    return settings


def on_database(work: Callable[["Database"], Awaitable[T]]) -> T:
    """Run `work` on the settings' database; what its sessions ring is rung before this returns.

    Ends with 1 and a sentence where `work` raises an AppException, and with 2 where it raises a SettingsError.
    """
    import asyncpg
    from sqlalchemy.exc import DBAPIError

    from plinth.database.errors import DatabaseUnavailableError, database_reason, driver_error, known_reason, sqlstate
    from plinth.errors import AppException

    settings = load_postgresql_settings()
    try:
        return asyncio.run(_attend(settings, work))
    except DatabaseUnavailableError as error:
        where = "`plinth config check` shows where it is looked for."
        if "DATABASE_URL" not in settings.model_fields_set:
            where = "DATABASE_URL is not set. Beside `plinth run`, put `plinth with-servers --` before the command."
        fail(f"{database_reason(error)}. {where}", code=1)
    except SettingsError as error:  # of the codec of a job
        fail(error_text(SettingsError(error.problems, settings.LOG_FORMAT, settings.LOG_PROFILE)), code=2)
    except AppException as error:
        fail(str(error), code=1)
    except (DBAPIError, asyncpg.PostgresError) as error:
        if sqlstate(error) in _NOT_MIGRATED:
            not_migrated()
        if isinstance(getattr(driver_error(error), "__cause__", None), UnicodeEncodeError):
            fail("An argument is not in UTF-8.", code=2)
        if (reason := known_reason(error)) is None:
            raise
        fail(f"{reason}.", code=1)


def transact(work: Callable[["AsyncSession"], Awaitable[T]]) -> T:
    """Run `work` in one transaction; else as `on_database`."""

    async def within(database: "Database") -> T:
        async with database.session() as session:
            return await work(session)

    return on_database(within)


async def _attend(settings: PlatformSettings, work: Callable[["Database"], Awaitable[T]]) -> T:
    from plinth.jobs.resources import open_resources

    async with open_resources(settings, limits=LIMITS) as resources:
        return await work(resources.database)
