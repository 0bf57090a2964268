"""`plinth doctor`: looks at all that the service needs, and says what to do about what is wrong."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

from plinth.cli.arguments import json_option
from plinth.cli.common import load_postgresql_settings
from plinth.cli.output import print_json, printable
from plinth.settings import PlatformSettings

if TYPE_CHECKING:
    import asyncpg

__all__ = ["doctor"]

SECONDS = 5.0  # for each thing that is asked
SKEW_SECONDS = 5.0  # tokens are refused from 30 s on; a clock that is synchronised is right to some milliseconds

_SERVER = """
SELECT current_setting('server_version') AS version, current_setting('server_encoding') AS encoding,
    clock_timestamp() AS now, current_user AS role, current_schema() AS schema,
    coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
    coalesce(has_table_privilege(to_regclass('job'), 'SELECT')
        AND has_table_privilege(to_regclass('job'), 'INSERT')
        AND has_table_privilege(to_regclass('job'), 'UPDATE')
        AND has_table_privilege(to_regclass('job'), 'DELETE'), true) AS may_write
"""


class Finding(NamedTuple):
    """What was looked at, how it is, and what to do: nothing where it is right."""

    about: str
    status: Literal["ok", "note", "wrong"]
    text: str
    do: str | None = None


@click.command(short_help="Look at all that the service needs, and say what to do.")
@json_option
def doctor(as_json: bool) -> None:
    """Look at all that the service needs: settings, database, migrations, Redis, identity, clock, ports.

    Says of each thing that is wrong what to do, and exits with 1 if there is any. --json as for `plinth jobs`.
    """
    settings = load_postgresql_settings()  # ends with each setting that is wrong
    findings = asyncio.run(_all(settings))
    for finding in findings:
        if as_json:
            print_json(finding._asdict())
            continue
        click.echo(f"{finding.status:<6} {finding.about:<11} {printable(finding.text)}")
        if finding.do:
            click.echo(f"{'':<18} Do: {printable(finding.do)}")
    sys.exit(any(finding.status == "wrong" for finding in findings))


async def _all(settings: PlatformSettings) -> list[Finding]:
    found = [_of_settings(settings)]
    for look in (_of_database, _of_replica, _of_redis, _of_identity):
        found += [finding async for finding in look(settings)]
    ports = {"METRICS_PORT": settings.METRICS_PORT, "--port": 8000}
    return found + [_of_port(name, port) for name, port in ports.items() if port]


def _of_settings(settings: PlatformSettings) -> Finding:
    warnings = "; ".join(f"{name}: {reason}" for name, reason in settings.warnings)
    if warnings:
        return Finding("settings", "note", warnings, "set what is meant; `plinth config check` shows what is in force")
    return Finding("settings", "ok", f"ENVIRONMENT={settings.ENVIRONMENT}")


async def _of_database(settings: PlatformSettings) -> AsyncIterator[Finding]:
    from plinth.database.engine import one_connection
    from plinth.database.errors import DatabaseUnavailableError, database_reason

    database = one_connection(settings, SECONDS)
    try:
        await database.ping()
        asked = datetime.now(UTC)
        async with database.connection() as connection:
            server = await connection.fetchrow(_SERVER)
        assert server is not None
    except DatabaseUnavailableError as error:
        do = "`plinth config check` shows where it is looked for"
        if "DATABASE_URL" not in settings.model_fields_set:
            do = "set DATABASE_URL; beside `plinth run` type `plinth with-servers -- plinth doctor`"
        yield Finding("database", "wrong", f"{database_reason(error)}.", do)
        return
    finally:
        await database.aclose()
    yield Finding("database", "ok", f"PostgreSQL {server['version']}, {server['encoding']}, role {server['role']}")
    yield _of_clock(server, asked)
    migrations = await _of_migrations(settings)
    yield migrations
    yield _of_rights(server, migrated=migrations.status == "ok")


async def _of_replica(settings: PlatformSettings) -> AsyncIterator[Finding]:
    from plinth.database.errors import DatabaseUnavailableError
    from plinth.database.replica import Replica

    if (of_replica := settings.of_replica) is None:
        return
    replica = Replica(of_replica)
    try:
        await replica.look()
        yield Finding("replica", "ok", "answers, and is not too far behind")
    except DatabaseUnavailableError as error:
        yield Finding("replica", "note", f"{error.reason}.", "reads go to the primary until that is mended")
    finally:
        await replica.aclose()


def _of_clock(server: "asyncpg.Record", asked: datetime) -> Finding:
    skew = abs((server["now"] - asked).total_seconds())
    if skew > SKEW_SECONDS:
        text = f"The clocks of this machine and of the database are {skew:.0f} s apart."
        return Finding("clock", "wrong", text, "synchronise both (NTP): tokens are refused from 30 s on")
    return Finding("clock", "ok", "the same as the database's")


async def _of_migrations(settings: PlatformSettings) -> Finding:
    from sqlalchemy.exc import DBAPIError

    from plinth.database.errors import database_reason
    from plinth.database.migrator import MigrationError, Migrator

    try:
        pending = await Migrator(settings, wait_seconds=SECONDS).pending()
    except MigrationError as error:
        return Finding("migrations", "wrong", str(error), "correct what the sentence names, then: plinth migrate")
    except DBAPIError as error:
        return Finding("migrations", "wrong", f"{database_reason(error)}.", "look with the role that migrates")
    if pending:
        return Finding("migrations", "wrong", f"missing: {', '.join(pending)}", "plinth migrate")
    return Finding("migrations", "ok", "all are applied")


def _of_rights(server: "asyncpg.Record", *, migrated: bool) -> Finding:
    role, schema = server["role"], server["schema"] or "public"
    if not server["may_write"]:
        text = f"The role {role} may not read and write the table job."
        return Finding("rights", "wrong", text, f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}")
    if not server["may_create"]:
        text = f"The role {role} may not create tables in the schema {schema}: it cannot migrate."
        do = f"GRANT CREATE ON SCHEMA {schema} TO {role}, or migrate as another role"
        return Finding("rights", "note" if migrated else "wrong", text, do)
    return Finding("rights", "ok", f"{role} may read, write and create")


async def _of_redis(settings: PlatformSettings) -> AsyncIterator[Finding]:
    from plinth.errors import ServiceUnavailableError
    from plinth.redis.client import close_redis, open_redis
    from plinth.redis.keys import key_prefix
    from plinth.redis.window import WriteCheck

    if (redis := open_redis(settings)) is None:
        text = "none: jobs start within JOBS_POLL_INTERVAL, and each process counts rate limits by itself"
        yield Finding("redis", "note", text, "set REDIS_URL if that is not meant")
        return
    try:
        await WriteCheck(redis, f"{key_prefix(settings)}:doctor")()
        yield Finding("redis", "ok", "answers and can be written")
    except ServiceUnavailableError as error:
        yield Finding("redis", "wrong", f"{error.reason}.", "`plinth config check` shows where it is looked for")
    finally:
        await close_redis(redis)


async def _of_identity(settings: PlatformSettings) -> AsyncIterator[Finding]:
    from plinth.settings import AuthProvider

    if settings.AUTH_PROVIDER is AuthProvider.LOCAL:
        yield Finding("identity", "ok", "local: tokens of `plinth token`")
        return
    from plinth.identity.documents import DocumentError, Documents, find_jwks_url
    from plinth.identity.jwk import read_key_set

    documents = Documents(allow_loopback=not settings.ENVIRONMENT.deployed)
    try:
        for issuer, known in zip(settings.issuers, settings.jwks_urls or [None] * len(settings.issuers), strict=True):
            do = "reach that address from here (proxy, firewall, DNS), or correct the issuer in the settings"
            try:
                async with asyncio.timeout(SECONDS):
                    url = known or await find_jwks_url(documents, issuer)
                    keys = read_key_set(await documents.get(url), frozenset(settings.jwt_algorithms))
            except (DocumentError, TimeoutError) as error:
                text = str(error) or f"{issuer}: no answer within {SECONDS:.0f} s"
                yield Finding("identity", "wrong", text, do)
                continue
            if keys:
                yield Finding("identity", "ok", f"{len(keys)} keys at {url}")
            else:
                yield Finding("identity", "wrong", f"{url}: no key for {', '.join(settings.jwt_algorithms)}", do)
    finally:
        await documents.aclose()


def _of_port(name: str, port: int) -> Finding:
    with closing(socket.socket()) as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError as error:
            text = f"{port} cannot be had: {error.strerror}"
            return Finding("port", "note", text, f"nothing if this service runs here; else choose another with {name}")
    return Finding("port", "ok", f"{port} is free ({name})")
