"""The statement of a page orders rows completely, so the plan of the database does not matter."""

import re

import pytest

from app.business.items import ORDERS, _list_statement


@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("column", ["created_at", "name"])
def test_items_of_equal_rank_are_ordered_by_their_id(column: str, tagged: bool, resumed: bool) -> None:
    for sort, order, comparison in (
        (column, f"item.{column}, item.id", ">"),
        (f"-{column}", f"item.{column} DESC, item.id DESC", "<"),
    ):
        sql = " ".join(_list_statement(ORDERS[sort], tagged=tagged, resumed=resumed).sql.split())

        assert f"ORDER BY {order} LIMIT" in sql
        assert bool(re.search(rf"\(item\.{column}, item\.id\) {comparison} \(", sql)) is resumed
