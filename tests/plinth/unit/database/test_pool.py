"""The pool serves its waiters in the order of their arrival."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.queue import Empty, Full

from plinth.database.pool import FairQueuePool, _FairQueue


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

    async def test_connection_returned_last_is_used_next(self) -> None:
        queue = _FairQueue(maxsize=2)
        queue.put_nowait("cold")
        queue.put_nowait("warm")
        assert queue.get(block=False) == "warm"

    async def test_pool_counts_its_waiters(self) -> None:
        queue = _FairQueue(maxsize=1)
        waiter = asyncio.create_task(wait_for_item(queue))
        await let_others_run()
        assert queue.waiting == 1
        queue.put_nowait("a")
        await waiter
        assert queue.waiting == 0


class Server:
    """A server that refuses the first connections and accepts the others."""

    def __init__(self, refused: int = 1) -> None:
        self.refused = refused
        self.refusing = asyncio.Event()
        self.asked = 0
        self.pool = FairQueuePool(lambda: await_only(self.connect()), pool_size=1, max_overflow=0, timeout=30)

    async def connect(self) -> object:
        self.asked += 1
        if self.asked <= self.refused:
            await self.refusing.wait()
            raise ConnectionRefusedError
        await asyncio.sleep(0)
        return object()

    async def ask(self) -> Any:
        return await greenlet_spawn(self.pool._do_get)


class TestRoomForAConnection:
    """The place of a connection that was closed or could not be made."""

    async def test_room_for_a_connection_goes_to_the_oldest_waiter_not_to_a_newcomer(self) -> None:
        server = Server()
        first, oldest, next_in_line = (asyncio.create_task(server.ask()) for _ in range(3))
        await let_others_run()

        async def newcomer() -> Any:
            await server.refusing.wait()
            return await server.ask()

        late = asyncio.create_task(newcomer())
        await let_others_run()
        server.refusing.set()
        with pytest.raises(ConnectionRefusedError):
            await first
        made = await oldest
        assert server.pool.waiting == 2
        assert server.pool.checkedout() == 1
        for waiter in (next_in_line, late):
            await greenlet_spawn(server.pool._do_return_conn, made)
            assert await waiter is made
        assert server.asked == 2

    async def test_room_for_a_connection_passes_from_a_cancelled_waiter_to_the_next(self) -> None:
        server = Server(refused=0)
        await server.ask()
        cancelled, next_in_line = (asyncio.create_task(server.ask()) for _ in range(2))
        await let_others_run()
        server.pool._dec_overflow()  # as when a connection is thrown away
        cancelled.cancel()
        async with asyncio.timeout(20):
            await next_in_line
        assert cancelled.cancelled()
        assert server.pool.checkedout() == 1

    async def test_room_for_a_connection_is_kept_when_the_last_waiter_is_cancelled(self) -> None:
        server = Server(refused=0)
        await server.ask()
        cancelled = asyncio.create_task(server.ask())
        await let_others_run()
        server.pool._dec_overflow()
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert cancelled.cancelled()
        assert server.pool.checkedout() == 0
        async with asyncio.timeout(20):
            await server.ask()

    async def test_room_for_a_connection_passes_on_when_connecting_fails(self) -> None:
        server = Server(refused=2)
        asking = [asyncio.create_task(server.ask()) for _ in range(3)]
        await let_others_run()
        server.refusing.set()
        async with asyncio.timeout(20):
            *refused, made = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(answer) for answer in refused] == [ConnectionRefusedError] * 2
        assert not isinstance(made, BaseException)


class TestWaiters:
    async def test_waiter_that_times_out_leaves_the_queue(self) -> None:
        queue = _FairQueue(maxsize=1)
        with pytest.raises(Empty):
            await wait_for_item(queue, timeout=0.01)
        assert queue.waiting == 0
        queue.put_nowait("a")
        assert queue.get_nowait() == "a"

    async def test_waiter_cancelled_after_receiving_a_connection_passes_it_on(self) -> None:
        queue = _FairQueue(maxsize=1)
        cancelled = asyncio.create_task(wait_for_item(queue))
        next_in_line = asyncio.create_task(wait_for_item(queue))
        await let_others_run()

        queue.put_nowait("a")
        cancelled.cancel()

        assert await next_in_line == "a"
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    async def test_waiter_cancelled_before_a_connection_returns_gets_none(self) -> None:
        queue = _FairQueue(maxsize=1)
        cancelled = asyncio.create_task(wait_for_item(queue))
        await let_others_run()
        cancelled.cancel()
        queue.put_nowait("a")
        assert queue.get_nowait() == "a"
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    async def test_full_pool_queue_refuses_a_connection(self) -> None:
        queue = _FairQueue(maxsize=1)
        queue.put("a")
        assert queue.full()
        with pytest.raises(Full):
            queue.put("b")


class TestClosed:
    """A queue of a pool that has been closed keeps no connection: a task gets it, or it is given up."""

    async def test_connection_that_comes_back_is_refused_unless_a_task_waits_for_it(self) -> None:
        queue = _FairQueue(maxsize=1)
        queue.closed = True
        waiting = asyncio.create_task(wait_for_item(queue))
        await let_others_run()
        queue.put_nowait("a")
        assert await waiting == "a"
        with pytest.raises(Full):  # on which SQLAlchemy closes it
            queue.put_nowait("a")

    async def test_connection_of_a_cancelled_waiter_is_given_up(self) -> None:
        queue = _FairQueue(maxsize=1)
        given_up: list[Any] = []
        queue.give_up = given_up.append
        cancelled = asyncio.create_task(wait_for_item(queue))
        await let_others_run()
        queue.put_nowait("a")
        queue.closed = True
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert given_up == ["a"]
        with pytest.raises(Empty):
            queue.get_nowait()
