"""The verdict on a run, for each reason to stop it and each way to end."""

import asyncio

import pytest

from plinth.jobs.engine.endings import VERDICTS, Ending, Interruption, Verdict, ending_of
from plinth.jobs.outcome import Discard, JobCancelled, LeaseLost, Retry, Snooze, Suspended, Wait, decided


def test_table_has_every_reason_and_every_ending() -> None:
    assert set(VERDICTS) == {None, *Interruption}
    for endings in VERDICTS.values():
        assert set(endings) == set(Ending)


@pytest.mark.parametrize("ending", [Ending.RETURNED, Ending.RAISED, Ending.STOPPED])
@pytest.mark.parametrize(
    ("why", "verdict"),
    [
        (Interruption.TIMEOUT, Verdict.TIMED_OUT),
        (Interruption.CANCEL, Verdict.CANCELLED),
        (Interruption.SHUTDOWN, Verdict.RELEASED),
        (Interruption.LOST, Verdict.LOST),
    ],
)
def test_stopped_handler_cannot_return_or_raise_its_way_out(
    why: Interruption, ending: Ending, verdict: Verdict
) -> None:
    assert VERDICTS[why][ending] is verdict


@pytest.mark.parametrize(
    ("error", "requested", "ending"),
    [
        (None, False, Ending.RETURNED),
        (ValueError(), False, Ending.RAISED),
        (LeaseLost(), False, Ending.RAISED),
        (SystemExit(), False, Ending.RAISED),
        (asyncio.CancelledError(), False, Ending.STOPPED),
        (Discard(), True, Ending.DISCARDED),
        (JobCancelled(), True, Ending.GAVE_UP),
        (JobCancelled(), False, Ending.RAISED),
    ],
)
def test_ending_is_read_from_the_error(error: BaseException | None, requested: bool, ending: Ending) -> None:
    assert ending_of(error, cancel_requested=requested) is ending


NAP = Suspended(Wait("nap", "sleep", None, 1, None))
WHY = Discard("why")


@pytest.mark.parametrize("decision", [WHY, JobCancelled(), LeaseLost(), Retry(after=1), Snooze(1), NAP])
def test_decision_is_found_in_the_groups_of_task_groups(decision: BaseException) -> None:
    assert decided(decision) is decision
    assert decided(BaseExceptionGroup("a", [decision])) is decision
    assert decided(BaseExceptionGroup("a", [BaseExceptionGroup("b", [decision]), decision])) is decision


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        ExceptionGroup("a", [ValueError()]),
        ExceptionGroup("a", [ValueError(), WHY]),
        ExceptionGroup("a", [Snooze(1), WHY]),
        BaseExceptionGroup("a", [NAP, ExceptionGroup("b", [ValueError()])]),
    ],
)
def test_group_with_an_error_or_several_decisions_is_an_error(error: BaseException) -> None:
    assert decided(error) is error
