"""Writes things in batches: while one batch is being written, the next one collects."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

__all__ = ["Lane"]

PUT_OFF_SECONDS = 0.25
# Characters of results in one batch: 64 million, those of a thousand jobs after an outage, take the database seven
# seconds, and a statement that takes ten is broken off.
MAX_LENGTH = 4_000_000

T = TypeVar("T")


class Lane(Generic[T]):
    """What is on its way into the database, in batches of `size`.

    `write` writes a batch and returns those that are put off; they are tried again, `again` at a time. `measure`:
    how long an item's text is, where that may be long.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], Awaitable[Collection[T]]],
        *,
        size: int,
        again: int,
        measure: Callable[[T], int] | None = None,
    ) -> None:
        self._write = write
        self._measure = measure
        self._size = size
        self._again = again
        self._new: list[T] = []
        self._batch: list[T] = []  # being written
        self._put_off: list[T] = []
        self._put_off_due = False
        self._timer: asyncio.TimerHandle | None = None  # until those are due
        self._wanted = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()

    def __len__(self) -> int:
        return len(self._new) + len(self._batch) + len(self._put_off)

    @property
    def put_off(self) -> int:
        """How many wait for another transaction."""
        return len(self._put_off)

    @property
    def unwritten(self) -> list[T]:
        return [*self._new, *self._batch, *self._put_off]

    def put(self, item: T) -> None:
        self._new.append(item)
        self.idle.clear()
        self._wanted.set()

    async def run(self) -> None:
        """Write, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._new:
                self._batch, self._new = self._first(self._new, self._size)
                await self._write_batch()
            if self._put_off_due:
                self._put_off_due = False
                self._batch, self._put_off = self._first(self._put_off, self._again)
                await self._write_batch()
            if self._put_off and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(PUT_OFF_SECONDS, self._try_again)
            if not len(self):
                self.idle.set()

    def _first(self, items: list[T], most: int) -> tuple[list[T], list[T]]:
        """Divide items into those of the next batch, one at least, and the rest."""
        if self._measure is not None:
            lengths = accumulate(map(self._measure, items[:most]))
            most = max(1, sum(length <= MAX_LENGTH for length in lengths))
        return items[:most], items[most:]

    async def _write_batch(self) -> None:
        self._put_off += await self._write(self._batch)
        self._batch = []

    def _try_again(self) -> None:
        self._timer, self._put_off_due = None, True
        self._wanted.set()
