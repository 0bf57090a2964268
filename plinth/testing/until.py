"""Waiting for a condition."""

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from time import monotonic
from typing import Any

__all__ = ["until"]

POLL_SECONDS = 0.01


async def until(condition: Callable[[], Any], *, timeout: float = 20.0) -> Any:  # noqa: ASYNC109 - the error names the condition
    """Call `condition`, a function or coroutine function, until it returns something true; return that.

    Raises:
        TimeoutError: it has not within `timeout` seconds.
    """
    deadline = monotonic() + timeout
    while True:
        found = condition()
        if isawaitable(found):
            found = await found
        if found:
            return found
        if monotonic() > deadline:
            raise TimeoutError(f"{getattr(condition, '__qualname__', condition)} does not hold after {timeout:g} s")
        await asyncio.sleep(POLL_SECONDS)
