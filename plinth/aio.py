"""Helpers for asyncio tasks."""

import asyncio
from collections.abc import Iterable
from typing import Any

__all__ = ["cancel_all"]

PATIENCE_SECONDS = 0.2


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended, whatever they raise.

    Repeatedly, because a library may take a cancellation for the failure of its own attempt and go on: redis-py does,
    and so does `asyncio.wait_for` before Python 3.12.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=PATIENCE_SECONDS)
