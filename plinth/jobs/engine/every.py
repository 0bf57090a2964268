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


async def every(seconds: float, name: str, step: Callable[[], Awaitable[object]]) -> None:
    """Repeat `step` about every `seconds`, for ever; log its exceptions, measure its duration."""
    failing = False
    duration = HOUSEKEEPING.labels(name)
    while True:
        try:
            with duration.time():
                await step()
            failing = False
        except DatabaseUnavailableError:
            if not failing:  # once for an outage
                log.warning("the database is away", step=name)
            failing = True
        except Exception:
            log.exception("a step of the worker failed", step=name)
        await asyncio.sleep(seconds * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311
