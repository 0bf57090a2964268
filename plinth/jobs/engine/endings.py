"""The end of a run: why its handler was stopped, how it ended, and what that makes of the job."""

import asyncio
from collections.abc import Mapping
from enum import Enum, auto

from plinth.jobs.outcome import Discard, JobCancelled, Snooze, Suspended

__all__ = ["VERDICTS", "Ending", "Interruption", "Verdict", "ending_of"]


class Interruption(Enum):
    """Why a handler is stopped from outside."""

    TIMEOUT = auto()
    CANCEL = auto()  # its cancellation was requested
    SHUTDOWN = auto()  # the worker ends
    LOST = auto()  # another run has taken the job over, or will


class Ending(Enum):
    """How a handler ends."""

    RETURNED = auto()
    RAISED = auto()
    STOPPED = auto()  # it let the cancellation of its task through
    GAVE_UP = auto()  # it raised JobCancelled after a request
    DISCARDED = auto()  # it raised Discard
    SUSPENDED = auto()  # it sleeps, or waits for an event
    SNOOZED = auto()  # it raised Snooze


class Verdict(Enum):
    """What becomes of the job."""

    SUCCEEDED = auto()
    FAILED = auto()  # a failed attempt, as is TIMED_OUT
    TIMED_OUT = auto()
    CANCELLED = auto()
    RELEASED = auto()  # no attempt is spent
    DISCARDED = auto()
    SUSPENDED = auto()  # no attempt is spent, nor by SNOOZED
    SNOOZED = auto()
    LOST = auto()  # it is another run's


# A handler that is stopped may return or raise instead of ending as cancelled. It was stopped all the same: what it
# had to do is not done, and an error may come of being stopped. But `Discard` is what its author decided, except for a
# job that its owner cancelled.
VERDICTS: Mapping[Interruption | None, Mapping[Ending, Verdict]] = {
    None: {
        Ending.RETURNED: Verdict.SUCCEEDED,
        Ending.RAISED: Verdict.FAILED,
        Ending.STOPPED: Verdict.FAILED,  # by itself
        Ending.GAVE_UP: Verdict.CANCELLED,
        Ending.DISCARDED: Verdict.DISCARDED,
        Ending.SUSPENDED: Verdict.SUSPENDED,
        Ending.SNOOZED: Verdict.SNOOZED,
    },
    Interruption.TIMEOUT: {
        Ending.RETURNED: Verdict.TIMED_OUT,
        Ending.RAISED: Verdict.TIMED_OUT,
        Ending.STOPPED: Verdict.TIMED_OUT,
        Ending.GAVE_UP: Verdict.CANCELLED,
        Ending.DISCARDED: Verdict.DISCARDED,
        Ending.SUSPENDED: Verdict.SUSPENDED,
        Ending.SNOOZED: Verdict.TIMED_OUT,
    },
    Interruption.SHUTDOWN: {
        Ending.RETURNED: Verdict.RELEASED,
        Ending.RAISED: Verdict.RELEASED,
        Ending.STOPPED: Verdict.RELEASED,
        Ending.GAVE_UP: Verdict.CANCELLED,
        Ending.DISCARDED: Verdict.DISCARDED,
        Ending.SUSPENDED: Verdict.SUSPENDED,
        Ending.SNOOZED: Verdict.RELEASED,
    },
    Interruption.CANCEL: dict.fromkeys(Ending, Verdict.CANCELLED),
    Interruption.LOST: dict.fromkeys(Ending, Verdict.LOST),
}


def ending_of(error: BaseException | None, *, cancel_requested: bool) -> Ending:
    """How a handler ended that raised `error`; None: it returned."""
    match error:
        case None:
            return Ending.RETURNED
        case asyncio.CancelledError():
            return Ending.STOPPED
        case Discard():
            return Ending.DISCARDED
        case Snooze():
            return Ending.SNOOZED
        case Suspended():
            return Ending.SUSPENDED
        case JobCancelled() if cancel_requested:
            return Ending.GAVE_UP
        case _:
            return Ending.RAISED
