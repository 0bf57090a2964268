"""The operations on items. Each acts for one owner and finds only that owner's items.

Reads and the plain insert are hot: they run as prepared statements on the bare connection and return
`asyncpg.Record`s with the columns of `app.schemas.item.ItemRead`. Changes go through the ORM session.
"""

from functools import cache
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import bindparam, func, insert
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core.security import owned_by
from app.models.item import Item, ItemTag
from plinth.database.statement import Statement
from plinth.errors import NotFoundError, PreconditionFailedError
from plinth.http.pagination import Order, Slice, sort_orders

__all__ = [
    "create_item",
    "create_item_in",
    "delete_item",
    "get_item",
    "list_items",
    "order_of",
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
_LIVE: Any = col(Item.deleted_at).is_(None)
_OWNED: Any = (col(Item.owner) == bindparam("owner"), _LIVE)

_GET = Statement(select(*_COLUMNS).where(col(Item.id) == bindparam("id"), *_OWNED))
_INSERT = Statement(
    insert(Item)
    .values({name: bindparam(name) for name in ("owner", "name", "description", "tags")})
    .returning(*_COLUMNS)
)


_ORDERS = sort_orders(Item.created_at, Item.name, unique=Item.id)
# The same columns in the table that is read along for a tag.
_ORDERS_OF_TAGGED = sort_orders(ItemTag.created_at, ItemTag.name, unique=ItemTag.id)


def order_of(sort: str, *, tagged: bool) -> Order:
    """The order of a list, by a name of `app.schemas.item.ItemSort`. Each has an index, with a tag and without."""
    return (_ORDERS_OF_TAGGED if tagged else _ORDERS)[sort]


@cache
def _list_statement(order: Order, *, tagged: bool, resumed: bool) -> Statement:
    statement = select(*_COLUMNS)
    if tagged:
        # The owner is the tag's alone: with a second way to an item than its id the planner may take it.
        of_tag = (col(ItemTag.owner) == bindparam("owner"), col(ItemTag.tag) == bindparam("tag"))
        statement = statement.join(ItemTag, col(ItemTag.id) == col(Item.id)).where(*of_tag, _LIVE)
    else:
        statement = statement.where(*_OWNED)
    return Statement(order.apply(statement, resumed=resumed))


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
    connection: asyncpg.Connection, owner: str, part: Slice, *, tag: str | None = None
) -> list[asyncpg.Record]:
    """A part of `owner`'s items, or of those with a tag. Its order is one of `order_of`."""
    statement = _list_statement(part.order, tagged=tag is not None, resumed=part.resumed)
    return await statement.fetch(connection, owner=owner, tag=tag, **part.parameters)


async def create_item(connection: asyncpg.Connection, owner: str, **values: Any) -> asyncpg.Record:
    """Insert an item of `owner`. The statement commits it."""
    record = await _INSERT.fetchrow(connection, owner=owner, **values)
    assert record is not None
    return record


async def create_item_in(session: AsyncSession, owner: str, **values: Any) -> Item:
    """Insert an item of `owner` in the session's transaction."""
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
        PreconditionFailedError: it has another version.
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
    # Locked: of two concurrent changes the second sees the result of the first. The owner is in the WHERE: waiting for
    # an item of another owner would show that it exists.
    locked = select(Item).where(col(Item.id) == item_id, col(Item.owner) == owner).with_for_update()
    item = owned_by(owner, (await session.exec(locked)).one_or_none(), name="item")
    if if_version is not None and item.version not in if_version:
        raise PreconditionFailedError("The item has changed since you read it.")
    return item
