"""Waiting for the database where it is too late to answer 503: in the middle of a response."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from plinth.database.engine import DatabaseUnavailableError

__all__ = ["patiently"]

# A restart or a failover takes some seconds, a busy pool less than one. Clients and proxies wait for 30 s or longer.
PATIENCE_SECONDS = 20.0
PAUSE_SECONDS = 0.1  # a server that is away refuses at once

T = TypeVar("T")


async def patiently(read: Callable[[], Awaitable[T]]) -> T:
    """Return what `read` returns; call it again while the database is away or its pool is busy.

    Raises:
        DatabaseUnavailableError: it still is after `PATIENCE_SECONDS`.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + PATIENCE_SECONDS
    while True:
        try:
            return await read()
        except DatabaseUnavailableError:
            if clock() >= deadline:
                raise
        await asyncio.sleep(PAUSE_SECONDS)
