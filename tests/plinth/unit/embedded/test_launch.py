import ctypes
import os
import signal
import sys
from unittest.mock import Mock, call

import pytest

from plinth.embedded import launch


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Records the system calls of the launcher in order."""
    system = Mock()
    for name in ("setgroups", "setgid", "setuid", "chdir", "execv"):
        monkeypatch.setattr(os, name, getattr(system, name))
    monkeypatch.setattr(os, "getppid", lambda: 4711)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: system)
    monkeypatch.setattr(sys, "platform", "linux")
    return system


WATCH_PARENT = call.prctl(launch.PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
BECOME_SERVER = call.execv("/bin/server", ["/bin/server", "-D", "data"])


def test_parent_death_signal_is_set_after_the_change_of_account(system: Mock) -> None:
    """The change of account would clear the signal."""
    launch.main(["4711", "2", "65534:65533", "/bin/server", "-D", "data"])
    change = [call.setgroups([]), call.setgid(65533), call.setuid(65534), call.chdir("/")]
    assert system.mock_calls == [*change, WATCH_PARENT, BECOME_SERVER]


def test_launcher_without_an_account_keeps_its_own(system: Mock) -> None:
    launch.main(["4711", "2", "-", "/bin/server", "-D", "data"])
    assert system.mock_calls == [WATCH_PARENT, BECOME_SERVER]


def test_launcher_whose_parent_has_died_starts_no_server(system: Mock) -> None:
    system.execv.side_effect = AssertionError
    with pytest.raises(SystemExit):
        launch.main(["1234", "2", "-", "/bin/server"])


def test_launcher_sets_no_parent_death_signal_outside_of_linux(system: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    launch.main(["4711", "2", "-", "/bin/server", "-D", "data"])
    assert system.mock_calls == [BECOME_SERVER]
