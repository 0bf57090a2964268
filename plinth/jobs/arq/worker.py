"""arq's `func` and `Retry`."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

__all__ = ["Function", "JobExecutionFailed", "Retry", "func", "imported", "seconds"]

Duration = int | float | timedelta


@dataclass
class Function:
    """A function with its options. `func` explains the fields."""

    name: str
    coroutine: Callable[..., Any]
    timeout_s: float | None
    keep_result_s: float | None
    keep_result_forever: bool | None
    max_tries: int | None


class Retry(RuntimeError):
    """Raised by a function to be tried again, `defer` later."""

    def __init__(self, defer: Duration | None = None) -> None:
        self.defer_score: int | None = None if defer is None else round((seconds(defer) or 0) * 1000)
        super().__init__(f"defer {(self.defer_score or 0) / 1000:g} s")


class JobExecutionFailed(RuntimeError):
    """The job has failed; with the type of what its function raised, and the message."""


def func(
    coroutine: Any,
    *,
    name: str | None = None,
    keep_result: Duration | None = None,
    timeout: Duration | None = None,
    keep_result_forever: bool | None = None,
    max_tries: int | None = None,
) -> Function:
    """Give a function options of its own, beside those of WorkerSettings.

    Args:
        coroutine: a coroutine function, or the dotted path of one.
        name: what `enqueue_job` calls it; the function's own if there is none.
        keep_result: for so long after a job has ended, no other one takes its `_job_id`.
        timeout: seconds that a try may take. A job whose try takes longer has failed.
        keep_result_forever: instead of `keep_result`.
        max_tries: so many tries in all, of those that end with `Retry`.

    Raises:
        RuntimeError: it is no coroutine function.
        ImportError: there is no such path.
    """
    if all(hasattr(coroutine, field) for field in Function.__dataclass_fields__):
        return Function(**{field: getattr(coroutine, field) for field in Function.__dataclass_fields__})
    found = imported(coroutine)
    name = name or (coroutine if isinstance(coroutine, str) else found.__qualname__)
    return Function(name, found, seconds(timeout), seconds(keep_result), keep_result_forever, max_tries)


def imported(coroutine: Any) -> Any:
    """Return a coroutine function, which may be named by its dotted path. Raises RuntimeError, ImportError."""
    if isinstance(coroutine, str):
        module, _, attribute = coroutine.rpartition(".")
        if not hasattr(found := import_module(module) if module else None, attribute):
            raise ImportError(f"there is no {coroutine!r}")
        coroutine = getattr(found, attribute)
    if not inspect.iscoroutinefunction(coroutine):
        raise RuntimeError(f"{coroutine!r} is not a coroutine function")
    return coroutine


def seconds(duration: Duration | None) -> float | None:
    """Return a duration in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration
