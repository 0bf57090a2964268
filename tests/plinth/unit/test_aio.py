"""`cancel_all` ends tasks even if a library swallows a cancellation."""

import asyncio

from plinth.aio import cancel_all


async def test_cancel_all_waits_until_all_tasks_have_ended() -> None:
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


async def test_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
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
    async with asyncio.timeout(20):
        await cancel_all([task])
    assert task.cancelled()
    assert len(swallowed) == 2


async def test_cancel_all_without_tasks_returns_at_once() -> None:
    await cancel_all([])
