import os
import signal
import sys
from pathlib import Path

import pytest

from plinth.embedded.process import EmbeddedError, Process
from plinth.embedded.supervisor import StopRequested, Supervisor


class Child(Process):
    """A child that writes to a shared journal when it is asked to end."""

    def __init__(self, name: str, journal: Path, *, deaf: bool = False) -> None:
        code = f"""
import signal, sys, time
def note(signum, frame):
    with open({str(journal)!r}, "a") as journal:
        print({name!r}, signal.Signals(signum).name, file=journal)
    if not {deaf} or signum == signal.SIGINT:
        sys.exit()
signal.signal(signal.SIGTERM, note)
signal.signal(signal.SIGINT, note)
open({str(journal)!r}, "a").close()
print("ready", flush=True)
time.sleep(60)
"""
        self.journal = journal
        log = journal.with_name(f"{name}.log")
        super().__init__(name, [sys.executable, "-c", code], log=log, hurry_signal=signal.SIGINT, grace=60.0)
        while "ready" not in self.last_lines():
            assert self.running


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_child_added_last_is_stopped_first(journal: Path) -> None:
    with Supervisor() as supervisor:
        children = [supervisor.add(Child(name, journal)) for name in ("database", "api")]
    assert journal.read_text() == "api SIGTERM\ndatabase SIGTERM\n"
    assert [child.exit_code for child in children] == [0, 0]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stop_signal_ends_the_supervisor_s_sleep(signum: signal.Signals) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have ignored it for the test run
    try:
        with Supervisor() as supervisor:
            os.kill(os.getpid(), signum)
            with pytest.raises(StopRequested):
                supervisor.sleep()
            with pytest.raises(StopRequested):
                supervisor.sleep()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sighup_that_nohup_ignores_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Supervisor() as supervisor:
            os.kill(os.getpid(), signal.SIGHUP)
            supervisor.sleep(0.0)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_supervisor_restores_the_signal_handlers() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Supervisor():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_child_that_ends_is_an_error_and_the_others_are_stopped(journal: Path) -> None:
    with Supervisor() as supervisor:
        supervisor.add(Child("database", journal))
        supervisor.add(Child("api", journal)).send(signal.SIGKILL)
        with pytest.raises(EmbeddedError, match="api was ended by SIGKILL"):
            supervisor.watch()
    assert journal.read_text() == "database SIGTERM\n"


def test_child_that_was_killed_is_started_again_if_it_may(journal: Path) -> None:
    with Supervisor() as supervisor:
        supervisor.add(Child("database", journal))
        children: list[Child] = []

        def again() -> Child:
            children.append(Child(f"api{len(children)}", journal))
            if len(children) == 3:  # it has been started again twice, and seen to be
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                children[-1].send(signal.SIGKILL)
            return children[-1]

        supervisor.add(again(), again=again)
        with pytest.raises(StopRequested):
            supervisor.watch()
    assert journal.read_text() == "api2 SIGTERM\ndatabase SIGTERM\n"


def test_child_that_ends_by_itself_is_not_started_again(journal: Path) -> None:
    ended = Child("api", journal)
    ended.send(signal.SIGTERM)
    with Supervisor() as supervisor:
        supervisor.add(ended, again=lambda: pytest.fail("it was"))
        with pytest.raises(EmbeddedError, match="api ended with exit code 0"):
            supervisor.watch()


class Impatient(Child):
    """A child that sends the supervisor a second SIGINT once it is asked to end."""

    def send(self, signum: signal.Signals) -> None:
        super().send(signum)
        if signum is signal.SIGTERM:
            while not self.journal.read_text():
                assert self.running
            os.kill(os.getpid(), signal.SIGINT)


def test_second_stop_signal_shortens_the_wait(journal: Path) -> None:
    """Otherwise the child would have a minute."""
    with Supervisor() as supervisor:
        os.kill(os.getpid(), signal.SIGINT)
        supervisor.add(Impatient("api", journal, deaf=True))
    assert journal.read_text() == "api SIGTERM\napi SIGINT\n"
