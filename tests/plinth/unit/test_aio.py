"""Tasks end when they are told to, whatever a library makes of it."""

import asyncio

from plinth.aio import cancel_all


async def test_it_waits_until_all_have_ended() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(name)

    tasks = [asyncio.create_task(work(name)) for name in "ab"]
    await asyncio.sleep(0)
    await cancel_all(tasks)
    assert sorted(ended) == ["a", "b"]


async def test_one_that_swallows_a_cancellation_gets_another() -> None:
    swallowed: list[bool] = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if len(swallowed) == 2:
                    raise
                swallowed.append(True)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await cancel_all([task])
    assert task.cancelled()
    assert len(swallowed) == 2


async def test_nothing_is_done_at_once() -> None:
    await cancel_all([])
