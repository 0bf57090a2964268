"""The statement of a page orders rows completely, so the plan of the database does not matter."""

import re

import pytest

from app.business.items import _list_statement, order_of


@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("column", ["created_at", "name"])
def test_items_of_equal_rank_are_ordered_by_their_id(column: str, tagged: bool, resumed: bool) -> None:
    table = "item_tag" if tagged else "item"
    for sort, order, comparison in (
        (column, f"{table}.{column}, {table}.id", ">"),
        (f"-{column}", f"{table}.{column} DESC, {table}.id DESC", "<"),
    ):
        sql = " ".join(_list_statement(order_of(sort, tagged=tagged), tagged=tagged, resumed=resumed).sql.split())

        assert f"ORDER BY {order} LIMIT" in sql
        assert bool(re.search(rf"\({table}\.{column}, {table}\.id\) {comparison} \(", sql)) is resumed
