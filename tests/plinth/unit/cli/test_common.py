"""What the commands have in common."""

import json
import os
import pwd
import socket
import sys
from unittest.mock import Mock

import pytest

from plinth.cli import common, reload
from plinth.cli.common import on_database, system_user
from plinth.settings import SettingsError
from tests.support.notes import settings_with


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


def test_a_setting_that_a_codec_lacks_is_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def lacks(*_: object) -> None:
        raise SettingsError(["A_KEY (not set): expected a secret"])

    monkeypatch.setattr(common, "_attend", lacks)
    monkeypatch.setattr(common, "load_postgresql_settings", lambda: settings_with(LOG_FORMAT="json"))
    with pytest.raises(SystemExit):
        on_database(Mock())
    assert json.loads(capsys.readouterr().err)["problems"] == ["A_KEY (not set): expected a secret"]


def test_settings_that_cannot_be_used_are_a_line_of_the_log_with_reload_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", sys.stdin)  # which is replaced
    report = Mock()
    with pytest.raises(SystemExit):
        reload._run(Mock(side_effect=SettingsError(["A: expected b"], "json")), report)
    assert json.loads(capsys.readouterr().err)["problems"] == ["A: expected b"]
    report.send.assert_called_once_with("The configuration cannot be used:\n  - A: expected b")
