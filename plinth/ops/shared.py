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
    """What was read last, and when."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.at = float("-inf")
        self.value: T


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
        async with kept.lock:
            if time.monotonic() - kept.at >= self.seconds:
                kept.value = await self.read(database)
                kept.at = time.monotonic()
            return kept.value
