"""Figures that all readers of a process share."""

import asyncio
from typing import Any, cast

import pytest

from plinth.database.engine import Database
from plinth.ops.shared import Shared


class Place:
    """Stands in for a database."""


PLACE = cast(Database, Place())


class Counter:
    def __init__(self) -> None:
        self.reads = 0

    async def __call__(self, database: Any) -> int:
        self.reads += 1
        await asyncio.sleep(0)
        return self.reads


async def test_all_that_ask_at_once_share_one_read() -> None:
    shared = Shared(Counter(), seconds=60)
    assert await asyncio.gather(*(shared.get(PLACE) for _ in range(5))) == [1] * 5
    assert await shared.get(PLACE) == 1


async def test_what_is_old_is_read_again() -> None:
    shared = Shared(Counter(), seconds=0)
    assert [await shared.get(PLACE) for _ in range(3)] == [1, 2, 3]


async def test_databases_share_nothing() -> None:
    shared = Shared(Counter(), seconds=60)
    other = cast(Database, Place())
    assert [await shared.get(place) for place in (PLACE, other, PLACE)] == [1, 2, 1]


async def test_read_that_fails_is_tried_by_the_next() -> None:
    failures = [ValueError("away")]

    async def read(database: Database) -> str:
        if failures:
            raise failures.pop()
        return "there"

    shared = Shared(read, seconds=60)
    with pytest.raises(ValueError, match="away"):
        await shared.get(PLACE)
    assert await shared.get(PLACE) == "there"


async def test_all_that_wait_for_a_read_share_its_failure() -> None:
    reads = 0

    async def read(database: Database) -> str:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        raise ValueError("away")

    shared = Shared(read, seconds=60)
    ends = await asyncio.gather(*(shared.get(PLACE) for _ in range(5)), return_exceptions=True)
    assert [str(end) for end in ends] == ["away"] * 5
    assert reads == 1


async def test_next_reads_where_the_one_that_reads_has_left() -> None:
    left = asyncio.Event()

    async def read(database: Database) -> str:
        if not left.is_set():
            await asyncio.Event().wait()
        return "there"

    shared = Shared(read, seconds=60)
    first, second = [asyncio.create_task(shared.get(PLACE)) for _ in range(2)]
    await asyncio.sleep(0)
    left.set()
    first.cancel()
    assert await second == "there"
