"""`plinth keys`: makes, lists and revokes API keys."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import click

from plinth.cli import arguments
from plinth.cli.arguments import json_option
from plinth.cli.common import system_user, transact
from plinth.cli.output import print_list, print_one, shown

if TYPE_CHECKING:
    from sqlmodel.ext.asyncio.session import AsyncSession

    from plinth.identity.api_keys import ApiKey, NewKey


def key_id(text: str) -> UUID:
    """The id of a key, or a whole key: one that leaked is at hand. No error quotes it."""
    from plinth.identity.api_keys import read_key

    if (parts := read_key(text)) is not None:
        return parts.id
    try:
        return UUID(text)
    except ValueError:
        raise click.BadParameter("expected the id of a key, as `plinth keys list` shows it.") from None


@click.group()
def keys() -> None:
    """API keys, with which machines call the API. --json and exit codes as for `plinth jobs`."""


@keys.command(short_help="Make a key and print it, this once.")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, help="What it may do; may be given again.")
@click.option("--expires", type=arguments.duration, default="90d", show_default=True, help="Its life, up to 3650d.")
@json_option
def create(name: str, scopes: tuple[str, ...], expires: timedelta, as_json: bool) -> None:
    """Make a key and print it, this once: plinth keys create deploy --scope orders:write"""
    from plinth.identity.api_keys import create_key

    async def make(session: "AsyncSession") -> "NewKey":
        try:
            return await create_key(session, name, scopes=scopes, expires_in=expires, by=system_user())
        except ValueError as error:
            raise click.UsageError(f"{error}.") from None

    made = transact(make)
    print_one(made, made.key, as_json=as_json)
    click.echo(f"The key {made.id} is valid until {shown(made.expires_at)}. It is not shown again.", err=True)


@keys.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the keys, the newest first; never their secrets."""
    from plinth.identity.api_keys import ApiKey, list_keys

    members = [name for name in ApiKey.model_fields if name != "digest"]
    found = transact(list_keys)
    columns = ("ID", "NAME", "SCOPES", "STATUS", "CREATED", "CREATED BY", "EXPIRES", "LAST USED")
    things = [{**{name: getattr(key, name) for name in members}, "status": _status(key)} for key in found]
    print_list(things, columns, map(_row, found), as_json=as_json, none="There are no keys.")


@keys.command()
@click.argument("revoked", type=key_id, metavar="ID")
@json_option
def revoke(revoked: UUID, as_json: bool) -> None:
    """Revoke a key: within a minute no process accepts it."""
    from plinth.identity.api_keys import revoke_key

    transact(lambda session: revoke_key(session, revoked, by=system_user()))
    sentence = f"{revoked} is revoked, everywhere within a minute."
    print_one({"id": revoked, "status": "revoked"}, sentence, as_json=as_json)


def _status(key: "ApiKey") -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "active" if key.expires_at > datetime.now(UTC) else "expired"


def _row(key: "ApiKey") -> tuple[object, ...]:
    made = key.created_at, key.created_by
    return key.id, key.name, key.scopes, _status(key), *made, key.expires_at, key.last_used_at
