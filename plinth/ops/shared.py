"""Figures that all readers of a process share, so that the database is asked once however many look."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from plinth.database.engine import Database

__all__ = ["Shared"]

T = TypeVar("T")


class _Kept(Generic[T]):
    """What was read last, and when, and how the last read failed."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.at = float("-inf")
        self.value: T
        self.failed_at = float("-inf")
        self.failure: Exception


class Shared(Generic[T]):
    """Reads with `read` what is older than so many seconds; those that ask meanwhile wait for that."""

    def __init__(self, read: Callable[[Database], Awaitable[T]], *, seconds: float) -> None:
        self.read = read
        self.seconds = seconds
        # A process of the tests has several databases.
        self._kept: WeakKeyDictionary[Database, _Kept[T]] = WeakKeyDictionary()

    async def get(self, database: Database) -> T:
        """The value; errors are those of `read`, and the next that asks reads again."""
        kept = self._kept.setdefault(database, _Kept())
        asked_at = time.monotonic()
        async with kept.lock:
            # Those that wait share a failure too: else each would wait for the time limit of all before it.
            if kept.failed_at >= asked_at:
                raise kept.failure
            if time.monotonic() - kept.at >= self.seconds:
                try:
                    kept.value = await self.read(database)
                except Exception as error:
                    kept.failed_at, kept.failure = time.monotonic(), error
                    raise
                kept.at = time.monotonic()
            return kept.value
