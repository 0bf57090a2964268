"""`Limit`: how many jobs with one key run at once, or start within a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

from plinth.jobs.outcome import storable

__all__ = ["MAX_KEY_LENGTH", "MAX_STARTS", "Limit"]

MAX_KEY_LENGTH = 255
MAX_STARTS = 10_000
MAX_PERIOD = 86_400.0  # seconds

P = TypeVar("P", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Limit(Generic[P]):
    """A limit for the jobs of a kind that have the same key, in the whole fleet.

    Args:
        key: what the jobs share, taken from the payload when a job is enqueued: a tenant, the host of an API. Its text
            has 1 to 255 characters. A job for which it returns None has no limit.
        max_running: at most so many run at once.
        max_starts: at most so many start within any `per` seconds; each attempt is a start.
        per: seconds, a day at most.

    Raises:
        ValueError: no limit is given, or one is out of range.
    """

    key: Callable[[P], object]
    max_running: int | None = None
    max_starts: int | None = None
    per: float | None = None

    def __post_init__(self) -> None:
        if self.max_running is None and self.max_starts is None:
            raise ValueError("a limit has max_running, or max_starts per so many seconds")
        if (self.max_starts is None) != (self.per is None):
            raise ValueError("max_starts and per belong together")
        if not (self.max_running is None or self.max_running >= 1):
            raise ValueError("max_running is 1 or more")
        if self.max_starts is not None and not 1 <= self.max_starts <= MAX_STARTS:
            raise ValueError(f"max_starts is 1 to {MAX_STARTS}")
        if self.per is not None and not 0 < self.per <= MAX_PERIOD:
            raise ValueError(f"per is above 0 seconds, and {MAX_PERIOD:g} at most")

    def key_of(self, payload: P) -> str | None:
        """The key of a job with this payload, or None if it has no limit.

        Raises:
            ValueError: its text is empty or too long, or holds a NUL or a lone surrogate.
        """
        key = self.key(payload)
        if key is None:
            return None
        text = str(key)
        if not 0 < len(text) <= MAX_KEY_LENGTH or storable(text) != text:
            raise ValueError(f"the key of a limit has 1 to {MAX_KEY_LENGTH} characters, no NUL and no lone surrogate")
        return text
