"""What can be done with items. Everything is done in the name of an owner; nobody else's items exist.

Reads and the plain insert are hot: they run as prepared statements on the bare connection and answer with
`asyncpg.Record`s whose columns are those of `app.schemas.item.ItemRead`. Changes go through the ORM session.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import bindparam, func, insert, select, tuple_
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core.security import owned_by
from app.models.item import Item
from plinth.database.statement import Statement
from plinth.errors import NotFoundError, PreconditionFailedError
from plinth.http.cursor import CursorCodec

__all__ = [
    "ItemPage",
    "create_item",
    "create_item_in",
    "delete_item",
    "get_item",
    "list_items",
    "update_item",
]

_COLUMNS: Any = (
    Item.id,
    Item.name,
    Item.description,
    Item.tags,
    Item.version,
    Item.created_at,
    Item.updated_at,
)
_OWNED: Any = (col(Item.owner) == bindparam("owner"), col(Item.deleted_at).is_(None))

_GET = Statement(select(*_COLUMNS).where(col(Item.id) == bindparam("id"), *_OWNED))
_INSERT = Statement(
    insert(Item)
    .values({name: bindparam(name) for name in ("owner", "name", "description", "tags")})
    .returning(*_COLUMNS)
)


@cache
def _list_statement(sort: str, *, tagged: bool, resumed: bool) -> Statement:
    column: Any = getattr(Item, sort.removeprefix("-"))
    key = tuple_(column, Item.id)
    conditions = [*_OWNED]
    if tagged:
        conditions.append(col(Item.tags).contains(bindparam("tags")))
    if resumed:
        last = tuple_(bindparam("last_value", type_=column.type), bindparam("last_id", type_=Item.id.type))  # type: ignore[attr-defined]
        conditions.append(key < last if sort.startswith("-") else key > last)
    order = [part.desc() if sort.startswith("-") else part for part in (column, col(Item.id))]
    return Statement(select(*_COLUMNS).where(*conditions).order_by(*order).limit(bindparam("limit")))


@dataclass(frozen=True, slots=True)
class ItemPage:
    items: Sequence[asyncpg.Record]
    next_cursor: str | None


async def get_item(connection: asyncpg.Connection, owner: str, item_id: UUID) -> asyncpg.Record:
    """One item.

    Raises:
        NotFoundError: there is none of that id, or it is not `owner`'s.
    """
    record = await _GET.fetchrow(connection, id=item_id, owner=owner)
    if record is None:
        raise NotFoundError("There is no such item.")
    return record


async def list_items(
    connection: asyncpg.Connection,
    cursors: CursorCodec,
    owner: str,
    *,
    sort: str,
    limit: int,
    tag: str | None = None,
    cursor: str | None = None,
) -> ItemPage:
    """A page of `owner`'s items in the order of `sort`, beginning after `cursor`.

    Raises:
        ValidationError: the cursor is not one of this list.
    """
    context = f"items:{owner!r}:{sort}:{tag!r}"  # quoted, so that no two lists share one
    parameters: dict[str, Any] = {"owner": owner, "limit": limit + 1}
    if tag is not None:
        parameters["tags"] = [tag]
    if cursor is not None:
        value, last_id = cursors.decode(context, cursor)
        parameters["last_value"] = datetime.fromisoformat(value) if "created_at" in sort else value
        parameters["last_id"] = UUID(last_id)
    statement = _list_statement(sort, tagged=tag is not None, resumed=cursor is not None)
    records = await statement.fetch(connection, **parameters)
    if len(records) <= limit:
        return ItemPage(records, None)
    del records[limit:]
    last = records[-1]
    value = last["created_at"].isoformat() if "created_at" in sort else last["name"]
    return ItemPage(records, cursors.encode(context, [value, str(last["id"])]))


async def create_item(connection: asyncpg.Connection, owner: str, **values: Any) -> asyncpg.Record:
    """A new item of `owner`, committed by the statement itself."""
    record = await _INSERT.fetchrow(connection, owner=owner, **values)
    assert record is not None
    return record


async def create_item_in(session: AsyncSession, owner: str, **values: Any) -> Item:
    """A new item of `owner` as part of the session's transaction."""
    item = Item(owner=owner, **values)
    session.add(item)
    await session.flush()
    return item


async def update_item(
    session: AsyncSession,
    owner: str,
    item_id: UUID,
    changes: dict[str, Any],
    *,
    if_version: frozenset[int] | None,
) -> Item:
    """Change an item whose version is one of `if_version` (None: any).

    Raises:
        NotFoundError: there is none of that id, or it is not `owner`'s.
        PreconditionFailedError: it has another version by now.
    """
    item = await _load(session, owner, item_id, if_version)
    for name, value in changes.items():
        setattr(item, name, value)
    await session.flush()
    return item


async def delete_item(session: AsyncSession, owner: str, item_id: UUID, *, if_version: frozenset[int] | None) -> None:
    """Mark an item as deleted; errors as for `update_item`."""
    item = await _load(session, owner, item_id, if_version)
    item.deleted_at = func.now()  # type: ignore[assignment]
    await session.flush()


async def _load(session: AsyncSession, owner: str, item_id: UUID, if_version: frozenset[int] | None) -> Item:
    # Locked: of two changes at once the second sees what the first has made of the row.
    item = owned_by(owner, await session.get(Item, item_id, with_for_update=True), name="item")
    if if_version is not None and item.version not in if_version:
        raise PreconditionFailedError("The item has changed since you read it.")
    return item
