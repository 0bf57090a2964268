"""The functions of arq's that this process knows, by the names that `enqueue_job` calls them."""

import re
from dataclasses import dataclass
from typing import Any

from plinth.jobs.arq.calls import Call, Codec
from plinth.jobs.kinds import NAME, JobKind, UnknownKindError

__all__ = ["ARQ_QUEUE", "Registered", "Source", "add", "kind_name", "known", "named", "queue_named"]

ARQ_QUEUE = "arq:queue"  # arq's own default
QUEUE = "default"  # ours, which takes its place


@dataclass(frozen=True, slots=True)
class Source:
    """What a WorkerSettings says of its queue in Redis."""

    queue_name: str
    codec: Codec
    redis_settings: Any


@dataclass(frozen=True, slots=True)
class Registered:
    """A function and its kind of job. `keep_result`: seconds for which an ended job keeps its id; None: for ever."""

    name: str
    kind: JobKind[Call]
    source: Source
    keep_result: float | None


_functions: dict[str, Registered] = {}


def add(function: Registered) -> None:
    """Make a function known. Its kind has been registered, so its name is no other's."""
    _functions[function.name] = function


def known() -> list[Registered]:
    """Return every function that this process knows."""
    return list(_functions.values())


def named(name: str) -> Registered:
    """Return the function of that name.

    Raises:
        UnknownKindError: none is registered.
    """
    if name not in _functions:
        listed = ", ".join(sorted(_functions)) or "none"
        raise UnknownKindError(f"There is no function {name!r} of arq's. Known are: {listed}.")
    return _functions[name]


def kind_name(name: str) -> str:
    """Return the name of a function's kind: its own, or one with `arq:` in front that has no other characters."""
    return name if re.fullmatch(NAME, name) else f"arq:{re.sub('[^A-Za-z0-9._:-]', '-', name)}"


def queue_named(name: str) -> str:
    """Return the queue of arq's queue: the same, but for arq's default."""
    return QUEUE if name == ARQ_QUEUE else name
