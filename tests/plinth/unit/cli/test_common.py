"""What the commands have in common."""

import os
import pwd
import socket

import pytest

from plinth.cli.common import system_user


def test_system_user_is_that_of_the_process_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "mallory")
    name = pwd.getpwuid(os.getuid()).pw_name
    assert system_user() == ("plinth:cli", f"cli:{name}@{socket.gethostname()}")


def test_system_user_without_a_name_is_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> object:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert system_user().subject == f"cli:{os.getuid()}@{socket.gethostname()}"


def test_system_user_fits_into_the_audit_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h" * 300)
    assert len(system_user().subject) == 255
