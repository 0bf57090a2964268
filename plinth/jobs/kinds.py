"""The registry of kinds of jobs: a name, the function that does the work, the model of its payload, and limits.

A worker claims only kinds that it knows. `enqueue` has to know the kind too, so that a misspelt name or a wrong payload
is found where it is written.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, TypeAdapter

from plinth.jobs.codec import CodecOf, PayloadCodec
from plinth.jobs.limits import Limit
from plinth.jobs.metrics import ENQUEUED
from plinth.jobs.retry import RetryPolicy
from plinth.settings import PlatformSettings, SettingsError

__all__ = [
    "NAME",
    "JobKind",
    "UnknownKindError",
    "check_codecs",
    "check_name",
    "kind_named",
    "kinds",
    "register",
]

P = TypeVar("P", bound=BaseModel)

NAME = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}"  # of a kind, a queue or a schedule


class UnknownKindError(LookupError):
    """No such kind is registered in this process."""


@dataclass(frozen=True, slots=True)
class JobKind(Generic[P]):
    """A registered kind. `plinth.jobs.decorator.job` explains the fields; `result`: of what type its results are."""

    name: str
    function: Callable[[Any, P], Awaitable[Any]] = field(repr=False)
    payload: type[P]
    queue: str
    priority: int
    time_limit: float
    retry: RetryPolicy
    max_running: int | None
    max_per_owner: int | None = None
    limit: Limit[P] | None = None
    keep: float | None = None
    result: TypeAdapter[Any] | None = field(default=None, repr=False, compare=False)
    codec: CodecOf | None = field(default=None, repr=False)

    def __call__(self, ctx: Any, payload: P) -> Awaitable[Any]:
        return self.function(ctx, payload)

    def limit_key(self, payload: P) -> str | None:
        """The key of the kind's limit for this payload, if it has one. Raises ValueError as `Limit.key_of`."""
        return None if self.limit is None else self.limit.key_of(payload)

    def read(self, text: str) -> P:
        """Read a payload from JSON.

        Unknown fields are refused unless the model's own configuration says something of `extra`: an older worker that
        left out a newer version's `dry_run` would do the wrong thing.

        Raises:
            ValidationError: the text is no payload of this kind.
        """
        extra: Literal["forbid"] | None = None if "extra" in self.payload.model_config else "forbid"
        return self.payload.model_validate_json(text, extra=extra)

    def codec_for(self, settings: PlatformSettings) -> PayloadCodec | None:
        """Make the codec, if it has one.

        Raises:
            SettingsError: the settings lack what it needs.
        """
        return None if self.codec is None else self.codec(settings)


_kinds: dict[str, JobKind[Any]] = {}


def register(kind: JobKind[Any]) -> None:
    """Make a kind known to this process. Raises ValueError if there is one of that name."""
    if kind.name in _kinds:
        raise ValueError(f"{kind.name!r} is the name of two kinds of jobs")
    _kinds[kind.name] = kind
    ENQUEUED.labels(kind.name)  # shows from here on, at 0: Prometheus sees no increase in a series that begins at 1


def kinds() -> Mapping[str, JobKind[Any]]:
    """Every kind that this process knows, by name."""
    return MappingProxyType(_kinds)


def kind_named(name: str) -> JobKind[Any]:
    """The kind of that name.

    Raises:
        UnknownKindError: none is registered. The module with its `@job` must be imported: the service's `jobs`.
    """
    try:
        return _kinds[name]
    except KeyError:
        known = ", ".join(sorted(_kinds)) or "none"
        raise UnknownKindError(f"There is no kind of job {name!r}. Known are: {known}.") from None


def check_codecs(settings: PlatformSettings) -> None:
    """Make the codecs of all kinds, to find out whether they can be.

    Raises:
        SettingsError: the settings lack what one of them needs.
    """
    problems: dict[str, list[str]] = {}
    for kind in _kinds.values():
        try:
            kind.codec_for(settings)
        except SettingsError as error:
            for problem in error.problems:
                problems.setdefault(problem, []).append(kind.name)
    if problems:
        found = [f"{problem} (jobs of the kind {', '.join(names)})" for problem, names in problems.items()]
        raise SettingsError(found, settings.LOG_FORMAT, settings.LOG_PROFILE)


def check_name(name: str) -> None:
    """Raises ValueError if it cannot be the name of a kind, a queue or a schedule."""
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{name!r} is not a name: 1 to 100 letters, digits and . _ : -")
