"""A cursor is good for the filters that it was made for, in every process."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Column, Uuid
from starlette.requests import Request

from plinth.http.cursor import CursorCodec, CursorError
from plinth.http.pagination import Order, Pager
from plinth.http.schemas import PageQuery
from plinth.identity.principal import Principal

ALICE = Principal("alice", "issuer", frozenset(), frozenset(), 0)
ORDER = Order(Column("id", Uuid, nullable=False))


class Query(PageQuery):
    sizes: set[int]


def pager(query: Query) -> Pager:
    scope: dict[str, Any] = {"type": "http", "path": "/rows", "query_string": b"", "headers": []}
    request = Request({**scope, "state": {"cursors": CursorCodec(b"a key")}})
    return Pager(request, ALICE, query, ORDER)


def test_the_order_of_a_set_does_not_matter() -> None:
    one, other = {0, 8}, {8, 0}
    assert list(one) != list(other)
    last = str(UUID(int=1))
    cursor = CursorCodec(b"a key").encode(pager(Query(sizes=one))._context, [last])

    assert pager(Query(sizes=other, cursor=cursor)).slice.after == (UUID(last),)
    with pytest.raises(CursorError):
        pager(Query(sizes={0}, cursor=cursor))
