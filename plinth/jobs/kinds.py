"""Kinds of jobs: a name, the function that does the work, the model of its payload, and limits.

`@job` registers a kind for the whole process. A worker claims only kinds that it knows; who enqueues has to know the
kind as well, so that a misspelt name or a payload that cannot be is found where it is written.
"""

import inspect
import random
import re
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from plinth.jobs.context import JobContext

__all__ = ["DEFAULT_QUEUE", "JobKind", "RetryPolicy", "UnknownKindError", "check_name", "job", "kind_named", "kinds"]

DEFAULT_QUEUE = "default"
DEFAULT_TIME_LIMIT = 300.0  # seconds
MAX_SECONDS = 30 * 86_400.0

P = TypeVar("P", bound=BaseModel)


class UnknownKindError(LookupError):
    """No such kind is registered in this process."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter: up to `base` seconds after the first failure, then up to twice as long
    after each further one, never longer than `ceiling`.

    Full jitter spreads jobs that failed together over the whole delay, so they do not come back together.
    """

    max_attempts: int = 10
    base: float = 2.0
    ceiling: float = 3600.0

    def __post_init__(self) -> None:
        if not (1 <= self.max_attempts <= 1000 and 0 < self.base <= self.ceiling <= MAX_SECONDS):
            raise ValueError("max_attempts is 1 to 1000, base above 0 and not above ceiling, and that 30 days at most")

    def delay(self, attempt: int) -> float:
        """Seconds to wait after `attempt` failures."""
        return random.uniform(0, min(self.ceiling, self.base * 2.0 ** min(attempt - 1, 60)))  # noqa: S311


@dataclass(frozen=True, slots=True)
class JobKind(Generic[P]):
    """A registered kind. See `job` for what the fields mean."""

    name: str
    function: Callable[["JobContext", P], Awaitable[None]] = field(repr=False)
    payload: type[P]
    queue: str
    priority: int
    time_limit: float
    retry: RetryPolicy
    max_running: int | None

    def __call__(self, ctx: "JobContext", payload: P) -> Awaitable[None]:
        return self.function(ctx, payload)


_kinds: dict[str, JobKind[Any]] = {}


def job(
    name: str,
    *,
    queue: str = DEFAULT_QUEUE,
    priority: int = 0,
    time_limit: float = DEFAULT_TIME_LIMIT,
    retry: RetryPolicy = RetryPolicy(),
    max_running: int | None = None,
) -> Callable[[Callable[["JobContext", P], Awaitable[None]]], JobKind[P]]:
    """Make an async function `(ctx: JobContext, payload: Model)` a kind of job.

    Args:
        name: stands in the database: a job outlives the code that made it, so keep it when you rename the function.
        queue: where jobs of this kind wait, unless `enqueue` says otherwise.
        priority: smaller numbers go first, within a queue and among the queues of a worker.
        time_limit: seconds after which an attempt is cancelled, and counted as failed.
        retry: how often and when it is tried again.
        max_running: at most so many at once in the whole fleet.

    Raises:
        ValueError: the name is taken or is none, or a limit makes no sense.
        TypeError: the function does not have that form.
    """

    def register(function: Callable[["JobContext", P], Awaitable[None]]) -> JobKind[P]:
        check_name(name)
        check_name(queue)
        limits = 0 < time_limit <= MAX_SECONDS and (max_running is None or max_running >= 1)
        if not limits or not -32768 <= priority <= 32767:
            raise ValueError(f"{name!r}: a limit is out of range")
        kind = JobKind(
            name=name,
            function=function,
            payload=_payload_model(function),
            queue=queue,
            priority=priority,
            time_limit=time_limit,
            retry=retry,
            max_running=max_running,
        )
        if name in _kinds:
            raise ValueError(f"{name!r} is the name of two kinds of jobs")
        _kinds[name] = kind
        return kind

    return register


def kinds() -> Mapping[str, JobKind[Any]]:
    """Every kind that this process knows, by name."""
    return MappingProxyType(_kinds)


def kind_named(name: str) -> JobKind[Any]:
    """The kind of that name.

    Raises:
        UnknownKindError: none is registered. The module with its `@job` must be imported (`import app.jobs`).
    """
    try:
        return _kinds[name]
    except KeyError:
        known = ", ".join(sorted(_kinds)) or "none"
        raise UnknownKindError(f"There is no kind of job {name!r}. Known are: {known}.") from None


def check_name(name: str) -> None:
    """Raises ValueError if it cannot be the name of a kind, a queue or a schedule."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}", name):
        raise ValueError(f"{name!r} is not a name: 1 to 100 letters, digits and . _ : -")


def _payload_model(function: Callable[..., Any]) -> type[Any]:
    parameters = list(inspect.signature(function).parameters)
    if not inspect.iscoroutinefunction(function) or len(parameters) != 2:
        raise TypeError(f"{function!r} is not an async function of a context and a payload")
    model = typing.get_type_hints(function).get(parameters[1])
    if not (inspect.isclass(model) and issubclass(model, BaseModel)):
        raise TypeError(f"{function!r}: the payload's annotation is not a Pydantic model")
    return model
