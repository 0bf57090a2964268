"""Lists that come in pages, by keyset pagination: each page begins after the sort key of the last row before it.

So page 1,000 is as quick as the first, and rows that are added or deleted meanwhile shift nothing.

    ORDERS = sort_orders(Note.created_at, Note.title, unique=Note.id)

    class NoteQuery(PageQuery):
        sort: Literal["created_at", "-created_at", "title", "-title"] = "-created_at"

    @router.get("", response_model=Page[NoteRead], responses={200: with_headers("Link")})
    async def list_notes(
        query: Annotated[NoteQuery, Query()], principal: PrincipalDep, request: Request, session: SessionDep
    ) -> Response:
        pager = Pager(request, principal, query, ORDERS[query.sort])
        notes = await session.exec(pager.slice.of(select(Note).where(Note.owner == principal.owner)))
        return pager.response(notes.all(), NoteRead)

Give the table an index for each order: on the owner and the columns of the order, and one more with each filter before
these columns. Without it a filter that few rows pass goes through all rows of the owner.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import GenericAlias
from typing import Any, TypeVar
from urllib.parse import urlencode

import asyncpg
import pydantic
from fastapi import Request
from pydantic_core import to_jsonable_python
from sqlalchemy import ColumnElement, Select, and_, bindparam, or_, tuple_
from starlette.responses import Response

from plinth.http.cursor import CursorCodec, CursorError
from plinth.http.responses import json_response
from plinth.http.schemas import PageQuery, ReadModel
from plinth.identity.principal import Principal

__all__ = ["Order", "Pager", "Slice", "sort_orders"]

S = TypeVar("S", bound=Select[Any])


class Order:
    """An order of rows: by `column`, and by `unique` where its values are equal. Without `unique`, `column` is unique.

    `column` may have any type that PostgreSQL sorts and JSON carries. If it is nullable, nulls are where PostgreSQL
    puts them: last, and first when descending.
    """

    def __init__(self, column: Any, unique: Any = None, *, descending: bool = False) -> None:
        self._columns = [column] if unique is None else [column, unique]
        self._descending = descending
        self._names = [str(column.key) for column in self._columns]
        self._nullable = bool(getattr(column, "nullable", False))
        types = [column.type.python_type for column in self._columns]
        if self._nullable:
            types[0] |= None
        shape: Any = GenericAlias(tuple, tuple(types))
        self._key: pydantic.TypeAdapter[tuple[Any, ...]] = pydantic.TypeAdapter(shape)

    def apply(self, statement: S, *, resumed: bool) -> S:
        """`statement` in this order, with the parameters that `Slice.parameters` gives.

        `resumed`: the list goes on after a row, instead of from its beginning.
        """
        order = [column.desc() if self._descending else column for column in self._columns]
        if resumed:
            statement = statement.where(self._after())
        return statement.order_by(*order).limit(bindparam("page_limit"))

    def _after(self) -> ColumnElement[bool]:
        named = zip(self._names, self._columns, strict=True)
        values = [bindparam(f"after_{name}", type_=column.type) for name, column in named]
        key, last = tuple_(*self._columns), tuple_(*values)
        after = key < last if self._descending else key > last
        if not self._nullable:
            return after
        # A comparison with null is not true: rows without a value are compared by the unique column alone.
        column, value = self._columns[0], values[0]
        if self._descending:
            return or_(after, and_(value.is_(None), or_(column.is_not(None), self._columns[1] < values[1])))
        return or_(after, and_(column.is_(None), or_(value.is_not(None), self._columns[1] > values[1])))

    def key_of(self, row: Any) -> list[Any]:
        """The sort key of a row, an object or a record, as JSON."""
        if isinstance(row, asyncpg.Record | Mapping):
            return [to_jsonable_python(row[name]) for name in self._names]
        return [to_jsonable_python(getattr(row, name)) for name in self._names]

    def read_key(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """The sort key that `key_of` made. Raises pydantic.ValidationError if it is of another order."""
        return self._key.validate_python(values)

    def parameters(self, key: Sequence[Any]) -> dict[str, Any]:
        """The parameters of a statement that goes on after `key`."""
        return {f"after_{name}": value for name, value in zip(self._names, key, strict=True)}


def sort_orders(*columns: Any, unique: Any) -> dict[str, Order]:
    """The orders by each of these columns, by name: `name` ascending, `-name` descending."""
    return {
        f"{sign}{column.key}": Order(column, unique, descending=bool(sign)) for column in columns for sign in ("", "-")
    }


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of a list that a page shows: up to `limit` rows after the sort key `after` (None: the first rows)."""

    order: Order
    limit: int
    after: tuple[Any, ...] | None = None

    def of(self, statement: S) -> S:
        """This part of what `statement` selects, and one row more if there is one: `Pager` looks for it."""
        return self.order.apply(statement, resumed=self.resumed).params(self.parameters)

    @property
    def resumed(self) -> bool:
        return self.after is not None

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of `Order.apply`, for statements that are compiled once."""
        after = {} if self.after is None else self.order.parameters(self.after)
        return {"page_limit": self.limit + 1, **after}


class Pager:
    """Reads the cursor of a request for a list, and makes the response.

    A cursor is good for the path, the caller and the filters it was made for. Raises CursorError for any other.
    """

    def __init__(self, request: Request, principal: Principal, query: PageQuery, order: Order) -> None:
        self._request = request
        self._query = query
        self._cursors: CursorCodec = request.scope["state"]["cursors"]
        # As a tuple's repr, so that no two lists share one, whatever their callers and filters are called.
        filters = {
            # Each process has its own order of a set.
            name: sorted(map(repr, given)) if isinstance(given, set | frozenset) else given
            for name, given in query.model_dump(exclude={"cursor", "limit"}).items()
        }
        self._context = repr((request.scope["path"], principal.owner, filters))
        after = None
        if query.cursor is not None:
            try:
                after = order.read_key(self._cursors.decode(self._context, query.cursor))
            except pydantic.ValidationError:  # an earlier version of this service sorted by something else
                raise CursorError from None
        self.slice = Slice(order, query.limit, after)

    def response(self, rows: Sequence[Any], model: type[ReadModel] | None = None) -> Response:
        """The page of these rows of `slice`. Each becomes a `model`; without one, records are answered as they are."""
        next_cursor, headers = None, {}
        limit = self.slice.limit
        if len(rows) > limit:
            rows = rows[:limit]
            next_cursor = self._cursors.encode(self._context, self.slice.order.key_of(rows[-1]))
            parameters = self._query.model_dump(mode="json", exclude_unset=True) | {"cursor": next_cursor}
            headers["Link"] = f'<{self._request.url.path}?{urlencode(parameters, doseq=True)}>; rel="next"'
        items = [dict(row) if model is None else model.model_validate(row) for row in rows]
        return json_response({"items": items, "next_cursor": next_cursor}, headers=headers)
