"""The walk over the keys of limits."""

from typing import Any, cast

import asyncpg

from plinth.jobs import Limit
from plinth.jobs.engine.key_limits import KeyLimits
from plinth.jobs.engine.key_sql import KEYS_OF_A_WALK

QUEUES = {
    "default": [*(f"a{n:03}" for n in range(KEYS_OF_A_WALK)), "az"],
    "other": [f"B{n:03}" for n in range(KEYS_OF_A_WALK)],
}


class Languages:
    """A database that orders texts as languages do, "a" before "B"; one key alone has room."""

    async def fetch(self, statement: str, queues: list[str], kinds: list[str], after: list[str], *limits: Any) -> Any:
        rows = []
        for queue, keys in QUEUES.items():
            later = sorted((key for key in keys if key.casefold() > after[0].casefold()), key=str.casefold)
            rows += [
                {"queue": queue, "kind": kinds[0], "key": key, "running": 1, "room": key == "az", "free_in": None}
                for key in later[:KEYS_OF_A_WALK]
            ]
        return sorted(rows, key=lambda row: row["key"].casefold())


class TestWalk:
    async def test_queues_are_walked_side_by_side_in_the_databases_order_of_keys(self) -> None:
        """Python has "B" before "a": by its order the walk would go on behind "B099", and never come by "az"."""
        limits: dict[str, Limit[Any] | None] = {"test.limited": Limit(str, max_running=1)}
        connection = cast("asyncpg.Connection", Languages())
        rooms = await KeyLimits().rooms(connection, list(QUEUES), limits, 10)
        assert [room.key for room in rooms] == ["az"]
