"""The items with a tag: listed along an index, whatever an owner has; kept by triggers; filled in by a migration."""

import json
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any
from uuid import UUID

import asyncpg

from app.business import exports
from app.business.items import _list_statement, order_of
from app.core.config import Settings
from plinth.database.engine import Database
from plinth.database.migrator import Migrator
from plinth.testing import Client

PAGE = 51
SORTS = ["created_at", "-created_at", "name", "-name"]
# An owner with 6,000 items: all have one tag, the oldest third has another, and one is rare. The items of others have a
# tag that it has not.
ITEMS = """
INSERT INTO item (owner, name, tags, created_at)
SELECT 'alice', md5(n::text),
    ARRAY['all', 'tag ' || n % 3] || CASE WHEN n <= 2000 THEN ARRAY['old'] ELSE '{}' END
    || CASE WHEN n % 1200 = 0 THEN ARRAY['rare'] ELSE '{}' END, now() + n * interval '1 second'
FROM generate_series(1, 6000) AS n
UNION ALL
SELECT 'owner ' || n % 100, md5(n::text), ARRAY['theirs'], now() + n * interval '1 second'
FROM generate_series(1, 3000) AS n
"""
TAGS = """
SELECT DISTINCT id, tag, owner, name, created_at FROM item, unnest(tags) AS tag WHERE deleted_at IS NULL
ORDER BY id, tag
"""
KEPT = "SELECT id, tag, owner, name, created_at FROM item_tag ORDER BY id, tag"


async def nodes(sql: asyncpg.Connection, statement: str, *arguments: Any) -> list[dict[str, Any]]:
    """The nodes of the plan of a statement that was run."""

    def within(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for inner in node.get("Plans", ()):
            yield from within(inner)

    plan = json.loads(await sql.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments))
    return list(within(plan[0]["Plan"]))


def rows_read(node: dict[str, Any]) -> float:
    removed = sum(node.get(f"Rows Removed by {what}", 0) for what in ("Filter", "Index Recheck", "Join Filter"))
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


async def test_page_of_a_tag_reads_no_more_rows_than_it_shows(sql: asyncpg.Connection) -> None:
    await sql.execute(ITEMS)
    await _check_pages(sql)
    await sql.execute("ANALYZE item; ANALYZE item_tag")
    await _check_pages(sql)


async def _check_pages(sql: asyncpg.Connection) -> None:
    for tag, sort in product(("all", "old", "tag 1", "rare", "theirs", "absent"), SORTS):
        order = order_of(sort, tagged=True)
        for after in (None, await sql.fetchrow("SELECT id, name, created_at FROM item_tag OFFSET 1000 LIMIT 1")):
            values: dict[str, Any] = {"owner": "alice", "tag": tag, "page_limit": PAGE}
            if after is not None:
                values |= order.parameters([after[sort.removeprefix("-")], after["id"]])
            statement = _list_statement(order, tagged=True, resumed=after is not None)
            plan = await nodes(sql, statement.sql, *statement._arguments(values))

            assert not [node for node in plan if node["Node Type"] == "Seq Scan"], (tag, sort, plan)
            assert max(map(rows_read, plan)) <= PAGE, (tag, sort, plan)


async def test_export_of_a_tag_reads_the_items_with_the_tag_alone(sql: asyncpg.Connection) -> None:
    await sql.execute(ITEMS)
    await sql.execute("ANALYZE item; ANALYZE item_tag")
    after = exports.Written().after
    until = await sql.fetchval("SELECT max(created_at) FROM item")

    for statement, arguments in (
        (exports._COUNT_TAGGED, []),
        (exports._READ_TAGGED, [until, *after, exports.BATCH_ITEMS]),
    ):
        plan = await nodes(sql, statement, "alice", "rare", *arguments)
        assert max(map(rows_read, plan)) <= 5, plan


async def test_rows_of_tags_follow_every_change(client: Client, sql: asyncpg.Connection) -> None:
    alice, bob = client.signed_in("alice"), client.signed_in("bob")

    async def in_step() -> int:
        kept = await sql.fetch(KEPT)
        assert kept == await sql.fetch(TAGS)
        return len(kept)

    def path(item: dict[str, Any]) -> str:
        return f"/items/{item['id']}"

    bare = (await alice.post("/items", json={"name": "bare"})).json()
    tagged = (await alice.post("/items", json={"name": "tagged", "tags": ["red", "big", "red"]})).json()
    await bob.post("/items", json={"name": "theirs", "tags": ["red"]}, headers={"Idempotency-Key": "one"})
    assert await in_step() == 3

    any_version = {"If-Match": "*"}
    for change, count in (
        ({"name": "renamed"}, 3),
        ({"description": "described"}, 3),
        ({"tags": ["blue", "red", "flat"]}, 4),
        ({"tags": []}, 1),
        ({"name": "again", "tags": ["red"]}, 2),
    ):
        assert (await alice.patch(path(tagged), json=change, headers=any_version)).status_code == 200
        assert await in_step() == count
    assert (await alice.patch(path(bare), json={"tags": ["red"]}, headers=any_version)).status_code == 200
    assert await in_step() == 3
    await sql.execute("UPDATE item SET created_at = '2026-01-01', owner = 'carol' WHERE id = $1", UUID(bare["id"]))
    assert await in_step() == 3
    assert (await alice.delete(path(tagged))).status_code == 204
    assert await in_step() == 2
    await sql.execute("UPDATE item SET deleted_at = NULL")
    assert await in_step() == 3
    await sql.execute("DELETE FROM item")
    assert await in_step() == 0


async def test_tables_made_of_the_models_keep_tags_too(
    make_settings: Callable[..., Settings], empty_database_url: str
) -> None:
    database = Database(make_settings(DATABASE_URL=empty_database_url))
    await database.create_tables()
    async with database.connection() as connection:
        await connection.execute("INSERT INTO item (owner, name, tags) VALUES ('alice', 'one', '{red}')")
        assert await connection.fetch(KEPT) == await connection.fetch(TAGS) != []
    await database.aclose()


async def test_migration_fills_in_the_tags_of_the_items_that_are_there(
    make_settings: Callable[..., Settings], fresh_database_url: str
) -> None:
    settings = make_settings(DATABASE_URL=fresh_database_url)
    await Migrator(settings).downgrade("5d1f0c8e7a21")
    connection = await asyncpg.connect(fresh_database_url)
    await connection.execute(
        "INSERT INTO item (owner, name, tags, deleted_at) SELECT 'owner ' || n % 3, 'item ' || n, "
        "CASE WHEN n % 5 = 0 THEN '{}'::text[] ELSE ARRAY['red', 'red', 'tag ' || n % 7] END, "
        "CASE WHEN n % 11 = 0 THEN now() END FROM generate_series(1, 5000) AS n"
    )

    await Migrator(settings).upgrade("8c41d7b0e5f3")
    # Changed between the two revisions, as it is by requests meanwhile.
    await connection.execute("UPDATE item SET tags = '{blue}' WHERE name = 'item 1'")
    await Migrator(settings).upgrade()

    assert await connection.fetch(KEPT) == await connection.fetch(TAGS) != []
    assert await Migrator(settings).pending() == []
    await connection.close()
