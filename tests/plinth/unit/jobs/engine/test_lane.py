"""What is written together."""

import asyncio
from collections.abc import Sequence

from plinth.jobs.engine.lane import MAX_LENGTH, Lane


async def test_batch_has_so_many_items_and_so_much_text_at_most() -> None:
    written: list[int] = []

    async def write(items: Sequence[str]) -> list[str]:
        written.append(len(items))
        return []

    lane: Lane[str] = Lane(write, size=3, again=3, measure=len)
    half, more = "x" * (MAX_LENGTH // 2), "x" * (MAX_LENGTH + 1)
    for item in ("", "", "", "", half, half, half, more, "", ""):
        lane.put(item)
    running = asyncio.create_task(lane.run())
    async with asyncio.timeout(20):
        await lane.idle.wait()
    running.cancel()
    assert written == [3, 3, 1, 1, 2]
