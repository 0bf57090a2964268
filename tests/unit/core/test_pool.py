"""First come, first served, whatever happens to those who wait."""

import asyncio

import pytest
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.queue import Empty, Full

from app.core.pool import FairQueuePool, _FairQueue


async def wait_for_item(queue: _FairQueue, timeout: float | None = 5) -> str:  # noqa: ASYNC109
    item: str = await greenlet_spawn(queue.get, True, timeout)
    return item


async def let_others_run() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class TestFairness:
    async def test_a_returned_connection_goes_to_the_oldest_waiter_not_to_a_newcomer(self) -> None:
        queue = _FairQueue(maxsize=2)
        first = asyncio.create_task(wait_for_item(queue))
        second = asyncio.create_task(wait_for_item(queue))
        await let_others_run()

        queue.put_nowait("a")
        # A newcomer asks in the very tick of the return, before the first waiter has woken up.
        with pytest.raises(Empty):
            queue.get_nowait()
        queue.put_nowait("b")

        assert await first == "a"
        assert await second == "b"

    async def test_the_connection_used_last_is_used_next(self) -> None:
        queue = _FairQueue(maxsize=2)
        queue.put_nowait("cold")
        queue.put_nowait("warm")
        assert queue.get(block=False) == "warm"

    async def test_waiting_counts_those_who_wait(self) -> None:
        queue = _FairQueue(maxsize=1)
        waiter = asyncio.create_task(wait_for_item(queue))
        await let_others_run()
        assert queue.waiting == 1
        queue.put_nowait("a")
        await waiter
        assert queue.waiting == 0


class TestRoom:
    async def test_for_a_new_connection_wakes_the_oldest_waiter(self) -> None:
        queue = _FairQueue(maxsize=1)
        first = asyncio.create_task(wait_for_item(queue))
        second = asyncio.create_task(wait_for_item(queue))
        await let_others_run()

        queue.announce_room()
        with pytest.raises(Empty):
            await first
        assert queue.waiting == 1
        queue.put_nowait("a")
        assert await second == "a"

    async def test_passes_from_a_cancelled_waiter_to_the_next(self) -> None:
        queue = _FairQueue(maxsize=1)
        cancelled = asyncio.create_task(wait_for_item(queue))
        next_in_line = asyncio.create_task(wait_for_item(queue))
        await let_others_run()

        queue.announce_room()
        cancelled.cancel()

        with pytest.raises(Empty):
            await next_in_line
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert queue.empty()

    async def test_is_announced_when_a_connection_cannot_be_made(self) -> None:
        fail_once = iter([True, False])

        async def connect() -> object:
            await asyncio.sleep(0)
            if next(fail_once):
                raise ConnectionRefusedError
            return object()

        pool = FairQueuePool(lambda: await_only(connect()), pool_size=1, max_overflow=0, timeout=5)  # type: ignore[arg-type]
        first = asyncio.create_task(greenlet_spawn(pool._do_get))
        second = asyncio.create_task(greenlet_spawn(pool._do_get))
        with pytest.raises(ConnectionRefusedError):
            await first
        # Were it not, this one would sleep until its time is up.
        async with asyncio.timeout(2):
            await second


class TestNothingIsLost:
    async def test_a_waiter_that_gives_up_leaves_the_line(self) -> None:
        queue = _FairQueue(maxsize=1)
        with pytest.raises(Empty):
            await wait_for_item(queue, timeout=0.01)
        assert queue.waiting == 0
        queue.put_nowait("a")
        assert queue.get_nowait() == "a"

    async def test_a_waiter_cancelled_with_a_connection_in_hand_passes_it_on(self) -> None:
        queue = _FairQueue(maxsize=1)
        cancelled = asyncio.create_task(wait_for_item(queue))
        next_in_line = asyncio.create_task(wait_for_item(queue))
        await let_others_run()

        queue.put_nowait("a")
        cancelled.cancel()

        assert await next_in_line == "a"
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    async def test_a_waiter_cancelled_before_is_passed_over(self) -> None:
        queue = _FairQueue(maxsize=1)
        cancelled = asyncio.create_task(wait_for_item(queue))
        await let_others_run()
        cancelled.cancel()
        queue.put_nowait("a")
        assert queue.get_nowait() == "a"
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    async def test_a_full_queue_refuses(self) -> None:
        queue = _FairQueue(maxsize=1)
        queue.put("a")
        assert queue.full()
        with pytest.raises(Full):
            queue.put("b")
