"""The states of a job, how a run can end, and what is kept of a run that failed."""

import traceback
from dataclasses import dataclass
from enum import StrEnum
from typing import NotRequired, TypedDict
from uuid import UUID

__all__ = [
    "Discard",
    "ErrorEntry",
    "Finish",
    "JobCancelled",
    "LeaseLost",
    "Outcome",
    "Release",
    "Retry",
    "State",
    "error_entry",
    "storable",
    "words_of",
]

MAX_MESSAGE = 1000  # characters
MAX_TRACEBACK = 4000  # characters, the last ones


class State(StrEnum):
    SCHEDULED = "scheduled"  # waits for its time
    AVAILABLE = "available"  # waits for a worker
    RUNNING = "running"
    RETRYABLE = "retryable"  # failed, and waits for its next attempt
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"  # failed for good: a dead letter

    @property
    def terminal(self) -> bool:
        return self in (State.SUCCEEDED, State.CANCELLED, State.DISCARDED)


class Discard(Exception):
    """Raised by a handler: trying again would not help. The message is shown to the job's owner."""


class JobCancelled(Exception):
    """Raised by a handler, or for it by `ctx.raise_if_cancelled()`: it stopped because it was asked to."""


class LeaseLost(Exception):
    """Another run has taken this job over, or it was ended: nothing that this run does may count."""


class ErrorEntry(TypedDict):
    """How one run failed. `error` may be shown to the job's owner, `detail` and `traceback` to operators only."""

    at: NotRequired[str]  # set by the database when it is written
    run: int
    attempt: int
    outcome: str  # error, timeout, invalid_payload, discard, crash, cancelled
    error: str
    detail: str
    traceback: str


def error_entry(
    outcome: str, *, run: int, attempt: int, error: str = "", exception: BaseException | None = None
) -> ErrorEntry:
    """Without `error` the owner is told the exception's type alone: its message may hold anything."""
    trace = "".join(traceback.format_exception(exception)) if exception is not None else ""
    name = type(exception).__name__
    words = "" if exception is None else words_of(exception)
    return {
        "run": run,
        "attempt": attempt,
        "outcome": outcome,
        "error": storable(error or name)[:MAX_MESSAGE],
        "detail": storable(f"{name}: {words}" if exception is not None else error)[:MAX_MESSAGE],
        "traceback": storable(trace)[-MAX_TRACEBACK:],
    }


def words_of(exception: BaseException) -> str:
    """The exception's message. It is somebody else's code, and may raise in turn."""
    try:
        return str(exception)
    except Exception:  # noqa: BLE001
        return "(it cannot be put into words)"


def storable(text: str) -> str:
    """`text` as PostgreSQL can store it: its text holds no NUL, and its JSON no lone surrogate."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class Finish:
    """The run ends the job."""

    id: UUID
    lease: int
    state: State
    error: ErrorEntry | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """The run failed, and the job is tried again after `delay` seconds."""

    id: UUID
    lease: int
    delay: float
    error: ErrorEntry


@dataclass(frozen=True, slots=True)
class Release:
    """The run is taken back, and spends no attempt."""

    id: UUID
    lease: int


Outcome = Finish | Retry | Release
