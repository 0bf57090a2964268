"""Repeats a step at an interval, with jitter."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from plinth.database.engine import DatabaseUnavailableError
from plinth.jobs.metrics import HOUSEKEEPING

__all__ = ["every"]

log = structlog.get_logger("plinth.jobs.engine.worker")

# Fraction of the interval, either way, so that workers started together do not query in step.
JITTER = 0.2


async def every(seconds: float, name: str, step: Callable[[], Awaitable[float | None]]) -> None:
    """Repeat `step` for ever, about every `seconds` or as many as it returns; log its exceptions, time it."""
    failing = False
    duration = HOUSEKEEPING.labels(name)
    while True:
        wait = None
        try:
            with duration.time():
                wait = await step()
            failing = False
        except DatabaseUnavailableError as error:
            if not failing:  # once for an outage
                log.warning("the database is away", step=name, reason=error.reason)
            failing = True
        except Exception:
            log.exception("a step of the worker failed", step=name)
        if wait is None:
            wait = seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
        await asyncio.sleep(wait)
