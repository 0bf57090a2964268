"""States of a job, outcomes of a run, and the error entry of a failed run."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, NotRequired, TypedDict
from uuid import UUID

from plinth.telemetry.tracebacks import traceback_of

__all__ = [
    "DECISIONS",
    "Discard",
    "ErrorEntry",
    "Finish",
    "JobCancelled",
    "LeaseLost",
    "Outcome",
    "Release",
    "Retry",
    "Snooze",
    "State",
    "Suspend",
    "Suspended",
    "TryAgain",
    "Wait",
    "decided",
    "error_entry",
    "storable",
    "words_of",
]

MAX_MESSAGE = 1000  # characters
MAX_TRACEBACK = 4000  # characters, the last ones
MAX_DELAY = 366 * 86_400.0  # seconds


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
    """Raised by a handler to discard its job without another attempt. The job's owner sees the message."""


class Retry(Exception):
    """Raised by a handler to fail its attempt and be tried again in `after` seconds, instead of as its policy says.

    Chain it to what went wrong (`raise Retry(after=30) from error`): that is the error of the attempt.
    """

    def __init__(self, *, after: float) -> None:
        self.after = checked_delay(after)
        super().__init__(f"after {after:g} s")


class Snooze(Exception):
    """Raised by a handler to run again in so many seconds. It is no failure and spends no attempt."""

    def __init__(self, seconds: float) -> None:
        self.seconds = checked_delay(seconds)
        super().__init__(f"for {seconds:g} s")


class JobCancelled(Exception):
    """Raised by a handler, or by `ctx.raise_if_cancelled()`, that stops because its job is cancelled."""


class LeaseLost(Exception):
    """This run no longer holds its job: another run has taken over, or the job was ended."""


class Wait(NamedTuple):
    """The step that a run is suspended for: `seconds` from then, or `until` a time, or for an `event`."""

    name: str
    kind: str
    event: str | None
    seconds: float | None
    until: datetime | None


class Suspended(BaseException):
    """Ends a run until a step's wait is over. Let it propagate."""

    def __init__(self, wait: Wait) -> None:
        super().__init__(wait)
        self.wait = wait


# These end a run as its author means it to; every other exception is a failure.
DECISIONS = (Discard, JobCancelled, LeaseLost, Retry, Snooze, Suspended)


def decided(error: BaseException) -> BaseException:
    """Return what ends a run, without the groups that task groups make of it.

    A group of anything else, or of several decisions, is an error, and is returned as it is.
    """
    if isinstance(error, BaseExceptionGroup):
        for decision in DECISIONS:
            found, others = error.split(decision)
            if found is not None and others is None:
                first = found.exceptions[0]
                return decided(first) if isinstance(first, BaseExceptionGroup) else first
    return error


class ErrorEntry(TypedDict):
    """One failed run. The owner may see `error`; only operators see `detail` and `traceback`."""

    at: NotRequired[str]  # set by the database when it is written
    run: int
    attempt: int
    outcome: str  # error, timeout, invalid_payload, discard, crash, interrupted, result
    error: str
    detail: str
    traceback: str


def error_entry(
    outcome: str, *, run: int, attempt: int, error: str = "", exception: BaseException | None = None
) -> ErrorEntry:
    """Make the entry of a failed run. Without `error` the owner sees only the exception's type."""
    trace = traceback_of(exception) if exception is not None else ""
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
    """The exception's message. `__str__` is foreign code and may raise."""
    try:
        return str(exception)
    except Exception:  # noqa: BLE001
        return "(it cannot be put into words)"


def checked_delay(seconds: float) -> float:
    """Return the seconds. Raises ValueError if they are not 0 to a year."""
    if not 0 <= seconds <= MAX_DELAY:
        raise ValueError("a delay is 0 seconds to a year")
    return seconds


def storable(text: str) -> str:
    """Replace what PostgreSQL cannot store: NUL in text, lone surrogates in JSON."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()


class Finish(NamedTuple):
    """The run ends the job. `result`: what the handler returned, as JSON."""

    id: UUID
    lease: int
    state: State
    error: ErrorEntry | None = None
    result: str | None = None


class TryAgain(NamedTuple):
    """The job is run again after `delay` seconds. `counts`: as an attempt; `error`: how this one failed."""

    id: UUID
    lease: int
    delay: float
    error: ErrorEntry | None
    counts: bool = True


class Release(NamedTuple):
    """The run is undone and counts as no attempt."""

    id: UUID
    lease: int


class Suspend(NamedTuple):
    """The run is over until a step's wait is; it counts as no attempt."""

    id: UUID
    lease: int
    wait: Wait


Outcome = Finish | TryAgain | Release | Suspend
